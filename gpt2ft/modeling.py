"""Model and tokenizer: loaded or made anew, and checked to fit each other."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils
from transformers.distributed.checkpoint import is_sharded_checkpoint
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils.hub import cached_file, resolve_revision

from .hub import HubUnavailableError, is_offline

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCAB_SIZE = 8192
MAX_JSON_BYTES = 64 << 20


def load_tokenizer(name: str, *, revision: str = "main") -> Any:
    """The tokenizer of a folder or a model on the hub; no code that comes with it is run.

    Where it has no pad token, end-of-text serves. Raises `FileNotFoundError`, `ValueError` or
    `HubUnavailableError`.
    """
    with _loading("tokenizer", name, revision) as commit:
        _check_tokenizer(name, commit)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=commit, trust_remote_code=False)
    tokenizer.init_kwargs.pop("auto_map", None)  # nor is it handed on with what is saved
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, *, revision: str = "main", dropout: float | None = None) -> Any:
    """A causal language model in fp32, from a folder or the hub, in evaluation mode.

    Only safetensors are read, and no code that comes with a model is run: one that `transformers`
    knows is loaded without it. `dropout` sets all its dropout probabilities. Raises
    `FileNotFoundError`, `HubUnavailableError`, or `ValueError` if it is no causal language model,
    wants what is refused, or tensors are missing.
    """
    with _loading("model", name, revision) as commit:
        _check_model(name, commit)
        config: Any = AutoConfig.from_pretrained(name, revision=commit, trust_remote_code=False)
        _drop_code(config)
        _set_dropout(config, dropout)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            revision=commit,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=None,  # what this machine has, whatever the model names
            experts_implementation=None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    misshapen = sorted(str(key[0]) for key in info["mismatched_keys"])
    if missing or misshapen:
        what = "lacks tensors" if missing else "has tensors of another shape"
        names = ", ".join((missing or misshapen)[:5])
        raise ValueError(f"model {name} {what}, {names}, it is damaged or of another type")
    return model


@contextlib.contextmanager
def _loading(what: str, name: str, revision: str) -> Iterator[str]:
    """All from one commit, which is given; no question asked; and an error a user can act on."""
    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    # Where `trust_remote_code=False` does not reach (a part of a model, say), transformers would
    # ask on standard input whether to run code: there the next prompt might be the answer.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        if os.path.isfile(name):
            raise ValueError("it is a file, name the folder it is in")
        # As a plain hash: on "main", transformers would take weights from a pull request.
        yield getattr(resolve_revision(name, revision), "resolved", revision)
    except Exception as error:
        raise _unavailable(what, name, error) from error
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def _unavailable(what: str, name: str, error: Exception) -> Exception:
    """The error a user can act on, for one of the libraries' many."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if os.path.exists(name):
        name = os.path.abspath(name)
    elif isinstance(error, OSError) and is_offline():
        return HubUnavailableError(
            f"{what} {name} is neither on this machine nor is the hub reachable, "
            "name a folder, or train a new model with --model_type gpt2"
        )
    elif isinstance(error, OSError):
        return FileNotFoundError(f"{what} {name} cannot be loaded from the hub, {reason}")
    if "trust_remote_code" in reason:
        reason = "it wants to run code of its own (auto_map), which is refused, name another"
    return ValueError(f"{what} {name} cannot be loaded, {reason[:500]}")


def _json(name: str, file: str, revision: str) -> dict[str, Any]:
    """An object that comes with a model, empty if there is none. Raises `ValueError`."""
    optional = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
    path = cached_file(name, file, revision=revision, **dict.fromkeys(optional, False))
    if path is None:
        return {}
    if os.path.getsize(path) > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {os.path.getsize(path)} bytes, over {MAX_JSON_BYTES}")
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not an object")
    return values


def _check_tokenizer(name: str, revision: str) -> None:
    """Refuse as its class what is none: some load parts that `trust_remote_code=False` misses."""
    for file in ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"):
        _json(name, file, revision)
    base = transformers.PreTrainedTokenizerBase
    for file in ("tokenizer_config.json", "config.json"):
        named = _json(name, file, revision).get("tokenizer_class")
        kind: Any = tokenizer_class_from_name(named) if named else None
        if kind and not (isinstance(kind, type) and issubclass(kind, base)):
            raise ValueError(f"{file} names the class {named}, no tokenizer that is installed")


def _check_model(name: str, revision: str) -> None:
    """Refuse other weights than safetensors beside `config.json`: a file of JSON may name any."""
    if _json(name, "adapter_config.json", revision):
        raise ValueError("it is an adapter (adapter_config.json), merge it into its model first")
    if is_sharded_checkpoint(name):
        raise ValueError("it holds shard-*.safetensors of a distributed run, consolidate them")
    _json(name, "generation_config.json", revision)
    config = _json(name, "config.json", revision)
    source = config.get("transformers_weights") or "model.safetensors.index.json"
    weights = [source]
    if source.endswith(".index.json"):
        weights = list(_json(name, source, revision).get("weight_map", {}).values())
    for file in weights:
        if os.path.basename(file) != file or not file.endswith(".safetensors"):
            raise ValueError(f"its weights are in {file}, only .safetensors beside it are read")


def _drop_code(config: Any) -> None:
    """Forget the code a configuration names; `ValueError` if that is for the attention.

    `transformers` knows the type and does without; what is saved must not hand it on.
    """
    vars(config).pop("auto_map", None)
    if "/" in str(config._attn_implementation):
        code = config._attn_implementation
        raise ValueError(f"its attention would be code from {code}, which is refused, name another")
    for part in filter(None, (getattr(config, name, None) for name in config.sub_configs)):
        _drop_code(part)


def new_model(
    model_type: str,
    *,
    tokenizer: Any,
    overrides: str | None = None,
    dropout: float | None = None,
) -> Any:
    """A model of that type with random weights, its vocabulary that of the tokenizer.

    `overrides` changes its configuration: `n_layer=4,n_embd=192`. Weights are drawn from torch's
    global generator. Raises `ValueError` for a type or setting that there is not.
    """
    settings = parse_overrides(overrides)
    try:
        known = AutoConfig.for_model(model_type)
        unknown = [name for name in settings if not hasattr(known, name)]
        if unknown:
            raise ValueError(f"--config_overrides {unknown[0]} is no setting of {model_type}")
        settings = {"vocab_size": len(tokenizer), **settings}
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            settings.setdefault(name, getattr(tokenizer, name))
        config = AutoConfig.for_model(model_type, **settings)
        _set_dropout(config, dropout)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"no new model of type {model_type}, {reason}") from error


def parse_overrides(overrides: str | None) -> dict[str, Any]:
    """`n_layer=4,n_embd=192` as `{"n_layer": 4, "n_embd": 192}`."""
    settings = {}
    for item in filter(None, (overrides or "").split(",")):
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--config_overrides {item} is no setting, write name=value")
        settings[name.strip()] = yaml.safe_load(value)
    return settings


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = DEFAULT_VOCAB_SIZE) -> Any:
    """A byte-level BPE like GPT-2's (Radford et al., 2019), trained on the texts.

    Its first entry is the end-of-text token, which also begins and pads.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def _set_dropout(config: Any, dropout: float | None) -> None:
    """Set every dropout probability that the configuration has, whatever the model calls it."""
    if dropout is None:
        return
    for name, value in config.to_dict().items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, dropout)


def window(model: Any) -> int | None:
    """Most tokens that the model can attend to; None if its positions have no limit."""
    size = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(size) if size else None


def check_fit(model: Any, tokenizer: Any, block_size: int) -> None:
    """Raise `ValueError` if tokenizer and model do not fit, or `block_size` exceeds the window."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries, the model's embedding {rows}, "
            "use the model's own tokenizer"
        )
    limit = window(model)
    if limit is not None and block_size > limit:
        raise ValueError(f"--block_size {block_size} is over the model's window, at most {limit}")
    if not is_causal(model):
        raise ValueError(
            f"{type(model).__name__} sees the tokens it is to predict, use a model that is causal"
        )
    if block_size < 2:
        raise ValueError(f"--block_size {block_size} leaves nothing to predict, at least 2")


def keeps_documents_apart(model: Any) -> bool:
    """Whether the model attends within documents where `position_ids` restart: most do, not all.

    Tried on two documents in one row: the second must give the logits it gives alone. Some take
    positions from the attention mask (OPT), have none (BLOOM), or remember (Mamba).
    """
    with _looking(model):
        ids = torch.tensor([[1, 2, 2, 1]], device=model.device)
        positions = torch.tensor([[0, 1, 0, 1]], device=model.device)
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = model(input_ids=ids[:, 2:], use_cache=False).logits
    return bool(torch.allclose(packed[:, 2:], alone, rtol=1e-3, atol=1e-4))


def is_causal(model: Any) -> bool:
    """Whether no token sees those behind it; `AutoModelForCausalLM` also loads BERT, which does."""
    with _looking(model):
        ids = torch.tensor([[1, 2, 2, 1], [1, 2, 2, 2]], device=model.device)
        one, other = model(input_ids=ids, use_cache=False).logits[:, :3]
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-4))


@contextlib.contextmanager
def _looking(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; the mode comes back after."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
