"""Model and tokenizer: loaded from a folder or the hub, or made anew."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from .adapters import check_peft, merge_saved
from .gguf_header import is_gguf
from .gguf_reading import read_config, read_model, read_tokenizer
from .names import located
from .untrusted import (
    adapter_settings,
    adapter_weights,
    check_model,
    check_tokenizer,
    drop_code,
    forget_code,
    has_tokenizer,
    loading,
    saved_class,
)

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCAB_SIZE = 8192


def load_tokenizer(name: str, *, revision: str = "main") -> Any:
    """The tokenizer of a folder, a GGUF file, `gpt2-mini`, which is built in, or one on the hub.

    For an adapter that has none it is that of the model it belongs to. No code that comes with it
    is run. Where it has no pad token, end-of-text serves. Raises `FileNotFoundError`, `ValueError`
    or `HubUnavailableError`.
    """
    name = located(name)
    if is_gguf(name):
        return _load_own_tokenizer(name, revision)
    with loading("tokenizer", name, revision) as (place, commit):
        settings = adapter_settings(place, commit)
        own = not settings or has_tokenizer(place, commit)
    if own:
        return _load_own_tokenizer(name, revision)
    base, revision = _base(name, settings)
    with _told_as_base(base, name):
        return _load_own_tokenizer(base, revision)


def load_model(name: str, *, revision: str = "main", dropout: float | None = None) -> Any:
    """A causal language model in fp32, in evaluation mode: from a folder, a GGUF file, the hub, or
    `gpt2-mini`, which is built in.

    Or from a GGUF file of this machine, whatever bits its weights have there.
    Of a LoRA adapter it is the model that the adapter belongs to, with the adapter added to its
    weights, for which `peft` must be installed. Only safetensors are read, and no code that comes
    with a model is run: a type that `transformers` knows is loaded without it. `dropout` sets all
    its dropout probabilities. Raises `FileNotFoundError`, `HubUnavailableError`, or `ValueError` if
    it is no causal language model, wants what is refused, or tensors are missing.
    """
    name = located(name)
    if is_gguf(name):
        return _load_whole(name, revision, dropout)
    with loading("model", name, revision) as (place, commit):
        settings = adapter_settings(place, commit)
    if not settings:
        return _load_whole(name, revision, dropout)
    check_peft(f"the adapter {name}")
    base, base_revision = _base(name, settings)
    with _told_as_base(base, name):
        model = _load_whole(base, base_revision, dropout)
    with loading("adapter", name, revision) as (place, commit):
        merge_saved(model, settings, adapter_weights(place, commit))
        with contextlib.suppress(OSError):  # many an adapter has none
            model.generation_config = GenerationConfig.from_pretrained(place, revision=commit)
    _freeze_what_is_not_trained(model)  # the others are trained again
    return model


def is_adapter(name: str, *, revision: str = "main") -> bool:
    """Whether a model of that name is an adapter of another."""
    if is_gguf(name):
        return False
    with loading("model", located(name), revision) as (place, commit):
        return bool(adapter_settings(place, commit))


def _base(name: str, settings: dict[str, Any]) -> tuple[str, str]:
    """The model that an adapter belongs to, and its revision.

    A relative path counts from the current folder, as in `peft`, or else from that of the adapter.
    """
    base = located(settings["base_model_name_or_path"])
    beside = os.path.join(name, base)
    found = beside if not os.path.exists(base) and os.path.exists(beside) else base
    return found, settings.get("revision") or "main"


@contextlib.contextmanager
def _told_as_base(base: str, adapter: str) -> Iterator[None]:
    """Errors in here say for which adapter the model is needed."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise type(error)(f"{adapter} is an adapter of the model {base}: {error}") from error


def _load_own_tokenizer(name: str, revision: str) -> Any:
    """The tokenizer that is there itself."""
    with loading("tokenizer", name, revision) as (place, commit):
        is_file = is_gguf(name)
        tokenizer = read_tokenizer(Path(name)) if is_file else _saved_tokenizer(place, commit)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made without any file
            raise ValueError("it has no vocabulary, name another --tokenizer_name")
    forget_code(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _saved_tokenizer(place: str, commit: str) -> Any:
    """The tokenizer that is saved in a folder, or on the hub."""
    check_tokenizer(place, commit)
    tokenizer = AutoTokenizer.from_pretrained(place, revision=commit, trust_remote_code=False)
    kind = saved_class(place, commit)
    if kind is not None and type(tokenizer) is not kind:
        # Beside a model of type qwen2, AutoTokenizer gives a Qwen2Tokenizer whatever was saved:
        # the same vocabulary, but text is cut otherwise, and gets other tokens.
        return kind.from_pretrained(place, revision=commit, trust_remote_code=False)
    return tokenizer


def _load_gguf(name: str, dropout: float | None) -> Any:
    """The model of a GGUF file."""
    with loading("model", name, "main"):
        config = read_config(Path(name))
        _set_dropout(config, dropout)
        model = read_model(Path(name), config)
    _move_to_fresh_memory(model)
    return model


def _load_whole(name: str, revision: str, dropout: float | None) -> Any:
    """A model whose weights are all there."""
    if is_gguf(name):
        return _load_gguf(name, dropout)
    with loading("model", name, revision) as (place, commit):
        check_model(place, commit)
        config: Any = AutoConfig.from_pretrained(place, revision=commit, trust_remote_code=False)
        drop_code(config)
        _set_dropout(config, dropout)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
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
    faults = {
        "lacks tensors": info["missing_keys"],
        "has tensors of another shape": {key[0] for key in info["mismatched_keys"]},
        "has tensors that its configuration has no place for": info["unexpected_keys"],
    }
    for what, names in faults.items():
        if names:
            first = ", ".join(sorted(names)[:5])
            raise ValueError(f"model {name} {what}, {first}, it is damaged or of another type")
    _freeze_what_is_not_trained(model)
    _move_to_fresh_memory(model)
    return model


def _freeze_what_is_not_trained(model: torch.nn.Module) -> None:
    """Freeze what a new model of this type has frozen, as Marian's table of sines.

    `from_pretrained` forgets it.
    """
    with torch.device("meta"):
        new = type(model)(model.config)
    for own, loaded in zip(new.parameters(), model.parameters(), strict=True):
        loaded.requires_grad_(own.requires_grad)


def _move_to_fresh_memory(model: torch.nn.Module) -> None:
    """Let the tensors lie in memory as those of a new model do.

    What was read lies within the memory of its file, at addresses that are multiples of 8. There
    some matrix products sum in another order than at multiples of 64, where torch puts new tensors,
    and a resumed run would part from one that was never stopped (seen with GraniteMoE).
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


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
        if config.get_text_config().num_hidden_layers < 1:
            raise ValueError(f"{config.num_hidden_layers} layers, give at least 1")
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # the libraries' many
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
    """Set every dropout probability that the configuration has, whatever the model calls it.

    Raises `ValueError` if it has none, as Mamba's.
    """
    if dropout is None:
        return
    config = config.get_text_config()  # where there are several, as Gemma 3's
    names = [
        name
        for name, value in config.to_dict().items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        if "dropout" in name or name.endswith("pdrop")
    ]
    if dropout and not names:
        raise ValueError(f"{config.model_type} has no dropout, leave out --dropout {dropout:g}")
    for name in names:
        setattr(config, name, dropout)
