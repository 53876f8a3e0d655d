"""The two configurations: every default stands here, once, and a field's docstring is its help."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "wikitext2"
FALLBACK_RECIPE = "quickstart"

# Of each group a run has one; naming one on the command line clears its recipe's other.
ALTERNATIVES = (
    ("model_name_or_path", "model_type"),
    ("dataset_name", "train_file"),
)

# What may differ when a run is resumed, because it cannot change the weights that come out, or
# because changing it is the point of resuming. Everything else must be as it was.
MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("output_dir", "overwrite_output_dir", "resume", "device", "debug"),
        *("logging_steps", "eval_steps", "save_steps", "save_total_limit"),
        *("per_device_eval_batch_size", "max_eval_samples", "preprocessing_num_workers"),
        *("max_steps", "num_train_epochs"),
    }
)

Config = TypeVar("Config", "TrainConfig", "GenerateConfig")


@dataclass
class TrainConfig:
    """One fine-tuning run, from corpus to finished model."""

    model_name_or_path: str | None = "gpt2"
    """Model to fine-tune: a name on the Hugging Face hub, or a folder."""
    model_revision: str = "main"
    """Branch, tag or commit of the model on the hub."""
    model_type: str | None = None
    """Train a new model of this type (gpt2, llama, ...) instead of loading one."""
    config_overrides: str | None = None
    """Sizes of the new model: n_layer=4,n_embd=192,..."""
    tokenizer_name: str | None = None
    """Tokenizer, if not the model's own. A new model without one gets a byte-level BPE trained on
    the corpus, of vocab_size entries (config_overrides), 8192 if not given."""
    dropout: float | None = None
    """Set every dropout probability of the model to this."""

    dataset_name: str | None = None
    """Data set: a name on the Hugging Face hub, a folder of that form, or python-reference (built
    in)."""
    dataset_config_name: str | None = None
    """Configuration of the data set."""
    dataset_split: str = "train"
    """Split to train on, slices allowed: train[:50%%]."""
    train_file: list[str] = field(default_factory=list)
    """Files or globs to train on: .txt, .jsonl, .json, .csv, .parquet; any other is read as UTF-8
    text."""
    validation_file: list[str] = field(default_factory=list)
    """Files or globs to evaluate on."""
    validation_split_percentage: float = 5.0
    """Percent of the corpus held out where there is no validation split or file; 0: none."""
    text_column: str | None = None
    """Column or field that holds the text; default: text, or the only one of strings."""
    block_size: int | None = None
    """Tokens of a block or row; default: the model's window, at most 512."""
    packing: bool = True
    """Pack the documents into full blocks; --no_packing: one row (line, record) a sample, cut to
    block_size."""
    row_separator: Literal["eos", "none"] = "eos"
    """What ends a document or row: the end-of-text token, or nothing where rows are lines of one
    text."""
    max_train_samples: int | None = None
    """Train on the first so many blocks or rows."""
    max_eval_samples: int | None = None
    """Evaluate on the first so many blocks or rows."""
    preprocessing_num_workers: int | None = None
    """Processes that tokenize; default: one process, many threads."""

    output_dir: str = "./gpt2-finetuned"
    """Folder of the checkpoints and the finished model."""
    overwrite_output_dir: bool = False
    """Delete the run that output_dir holds, and start anew."""
    resume: str | None = None
    """Go on from the newest valid checkpoint in output_dir, or from the one named."""

    per_device_train_batch_size: int = 8
    """Samples of a micro-batch."""
    per_device_eval_batch_size: int = 8
    """Samples of an evaluation batch."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of an optimizer step."""
    num_train_epochs: float = 1.0
    """Passes over the corpus. May grow when resuming: the learning rate then follows the schedule
    of the longer run from there on."""
    max_steps: int | None = None
    """Optimizer steps, instead of num_train_epochs. May grow when resuming, likewise."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.0
    """Decay of matrices and embeddings; biases and norms have none."""
    adam_beta1: float = 0.9
    """AdamW's beta1."""
    adam_beta2: float = 0.999
    """AdamW's beta2."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; inf: never."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up; linear and cosine end at 0."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from 0."""
    warmup_ratio: float = 0.0
    """The same as a fraction of all steps, where warmup_steps is 0."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU that multiplies it in hardware, else fp32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    seed: int = 42
    """Seed of the order of the data, dropout and new weights."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    logging_steps: int = 100
    """Optimizer steps between log lines."""
    eval_steps: int | None = None
    """Optimizer steps between evaluations; default: before and after the run."""
    save_steps: int = 500
    """Optimizer steps between checkpoints."""
    save_total_limit: int = 2
    """Checkpoints kept, at least 2."""
    debug: bool = False
    """Show the traceback of an error."""

    def validate(self) -> None:
        """Raise `ValueError` with what is wrong, the value and what to do."""
        if not self.train_file and self.dataset_name is None:
            raise ValueError("no corpus, name --train_file or --dataset_name")
        _check(self, ("per_device_train_batch_size", "per_device_eval_batch_size"), ">= 1")
        _check(self, ("gradient_accumulation_steps", "logging_steps", "save_steps"), ">= 1")
        _check(self, ("max_steps", "eval_steps", "max_train_samples", "max_eval_samples"), ">= 1")
        _check(self, ("preprocessing_num_workers",), ">= 1")
        _check(self, ("block_size", "save_total_limit"), ">= 2")
        _check(self, ("num_train_epochs", "max_grad_norm", "adam_epsilon"), "> 0")
        _check(self, ("learning_rate", "weight_decay", "warmup_steps", "warmup_ratio"), ">= 0")
        _check(self, ("validation_split_percentage", "seed"), ">= 0")
        _check(self, ("adam_beta1", "adam_beta2", "warmup_ratio", "dropout"), "< 1")
        _check(self, ("adam_beta1", "adam_beta2", "dropout"), ">= 0")
        _check(self, ("validation_split_percentage",), "< 100")
        _check(self, ("seed",), "< 2**63")
        for name in ("learning_rate", "weight_decay", "adam_epsilon", "num_train_epochs"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"--{name} is inf, give a finite number")


@dataclass
class GenerateConfig:
    """How to generate text from a model."""

    model_name_or_path: str | None = None
    """Model: a folder or a name on the hub; default: the newest finished run in this folder."""
    model_revision: str = "main"
    """Branch, tag or commit of the model on the hub."""
    interactive: bool = False
    """Ask for prompts in the terminal."""
    prompt: list[str] = field(default_factory=list)
    """Text to continue; an empty one starts from the end-of-text token."""
    prompt_file: str | None = None
    """File with one prompt a line."""
    max_new_tokens: int = 100
    """Tokens to generate, fewer if the text ends."""
    do_sample: bool = True
    """Draw tokens at random; --greedy: always the most probable."""
    temperature: float = 0.8
    """Below 1 sharpens the distribution, above flattens it; 0: greedy."""
    top_k: int = 50
    """Draw from the so many most probable tokens; 0: from all."""
    top_p: float = 0.95
    """Draw from the fewest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1: tokens already in the text become less probable."""
    seed: int | None = None
    """The same seed gives the same text; default: a new one each time."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU that multiplies it in hardware, else fp32."""
    raw: bool = False
    """Write control characters to a terminal as they are."""
    debug: bool = False
    """Show the traceback of an error."""

    def validate(self) -> None:
        """Raise `ValueError` with what is wrong, the value and what to do."""
        _check(self, ("max_new_tokens",), ">= 1")
        _check(self, ("max_new_tokens",), "<= 10**7")
        _check(self, ("temperature", "top_k", "seed"), ">= 0")
        _check(self, ("top_p", "repetition_penalty"), "> 0")
        _check(self, ("top_p",), "<= 1")
        _check(self, ("seed",), "< 2**63")
        for name in ("temperature", "repetition_penalty"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"--{name} is inf, give a finite number")
        if not (self.interactive or self.prompt or self.prompt_file):
            raise ValueError("nothing to continue, give -i, -p TEXT or --prompt_file FILE")


def _check(config: TrainConfig | GenerateConfig, names: Iterable[str], bound: str) -> None:
    """Every field named that is not None keeps to the bound; NaN keeps to none."""
    relation, number = bound.split()
    base, _, exponent = number.partition("**")
    limit = int(base) ** int(exponent or 1)
    keeps = {
        ">=": lambda value: value >= limit,
        ">": lambda value: value > limit,
        "<": lambda value: value < limit,
        "<=": lambda value: value <= limit,
    }[relation]
    for name in names:
        value = getattr(config, name)
        if value is not None and not keeps(value):
            raise ValueError(f"--{name} is {value}, give a number {relation} {number}")


def field_types(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Type of each field, and whether None is allowed: `{"seed": (int, False), ...}`."""
    types = {}
    for name, hint in typing.get_type_hints(kind).items():
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        optional = type(None) in typing.get_args(hint)
        types[name] = (options[0] if optional else hint, optional)
    return types


def load_recipe(name_or_file: str) -> dict[str, Any]:
    """Values of a recipe: one of the package's by its name, or any YAML file of the same keys.

    Raises `FileNotFoundError` if there is none, `ValueError` for a key or type that does not fit.
    """
    path = RECIPES / f"{name_or_file}.yaml"
    if not path.is_file():
        path = Path(name_or_file)
    if not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise FileNotFoundError(f"no recipe or file {name_or_file}, recipes are {known}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML, {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no recipe, write lines of `name: value`")
    types = field_types(TrainConfig)
    return {name: _typed(path, types, name, value) for name, value in values.items()}


def _typed(path: Path, types: Mapping[str, tuple[Any, bool]], name: str, value: Any) -> Any:
    if name not in types:
        raise ValueError(f"{path} sets {name}, which is no setting, see --help")
    kind, optional = types[name]
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # YAML reads 5e-5 as a string
            value = float(value)
    if typing.get_origin(kind) is Literal:
        fits = value in typing.get_args(kind)
    elif typing.get_origin(kind) is list:
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
    else:
        fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not fits and not (optional and value is None):
        raise ValueError(f"{path} sets {name} to {value!r}, give {kind}")
    return value


def with_overrides(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's values, with those given on the command line over them.

    Raises `ValueError` if two were given of which a run has one.
    """
    values = dict(base)
    for group in ALTERNATIVES:
        named = [name for name in group if given.get(name)]
        if len(named) > 1:
            raise ValueError(f"--{named[0]} and --{named[1]} exclude each other, give one")
        if named:
            values.update(dict.fromkeys(group))
    values.update(given)
    return {name: [] if name == "train_file" and not v else v for name, v in values.items()}


def save_config(config: TrainConfig) -> str:
    """The resolved configuration as YAML, every value written out."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def changed_settings(saved: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """What differs from the run being resumed and could change its result, a line each."""
    now = dataclasses.asdict(config)
    names = [name for name in now if name not in MAY_CHANGE_ON_RESUME]
    return [
        f"{name}: {saved[name]} then, {now[name]} now"
        for name in names
        if name in saved and saved[name] != now[name]
    ]
