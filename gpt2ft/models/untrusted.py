"""What a model that comes from elsewhere may not do: run code, read pickles, name other files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import transformers
from transformers import dynamic_module_utils
from transformers.distributed.checkpoint import is_sharded_checkpoint
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils.hub import cached_file, resolve_revision

from ..system.hub import HubUnavailableError, is_offline

MAX_JSON_BYTES = 64 << 20


@contextlib.contextmanager
def loading(what: str, name: str, revision: str) -> Iterator[str]:
    """All from one commit, which is given; no question asked; and an error a user can act on."""
    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    # Where `trust_remote_code=False` does not reach (a part of a model, say), transformers would
    # ask on standard input whether to run code: there the next prompt might be the answer.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        if os.path.isfile(name):
            raise ValueError("it is a file, name the folder it is in")
        if os.path.isdir(name) and not any(file.endswith(".json") for file in os.listdir(name)):
            there = ", ".join(sorted(os.listdir(name))[:9]) or "nothing"
            raise ValueError(f"it holds {there}, but no model, name another")
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
            "name a folder or gpt2-mini, or train a new model with --model_type gpt2"
        )
    elif isinstance(error, OSError):
        return FileNotFoundError(f"{what} {name} cannot be loaded from the hub, {reason}")
    if isinstance(error, safetensors.SafetensorError):
        reason = f"its model.safetensors or a part of it is damaged, {reason}"
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
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON, {error}, it is damaged") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not an object")
    return values


def check_tokenizer(name: str, revision: str) -> None:
    """Refuse as its class what is none: some load parts that `trust_remote_code=False` misses."""
    for file in ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"):
        _json(name, file, revision)
    base = transformers.PreTrainedTokenizerBase
    for file in ("tokenizer_config.json", "config.json"):
        named = _json(name, file, revision).get("tokenizer_class")
        kind: Any = tokenizer_class_from_name(named) if named else None
        if kind and not (isinstance(kind, type) and issubclass(kind, base)):
            raise ValueError(f"{file} names the class {named}, no tokenizer that is installed")


def check_model(name: str, revision: str) -> None:
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


def drop_code(config: Any) -> None:
    """Forget the code a configuration names; `ValueError` if that is for the attention.

    `transformers` knows the type and does without; what is saved must not hand it on.
    """
    vars(config).pop("auto_map", None)
    if "/" in str(config._attn_implementation):
        code = config._attn_implementation
        raise ValueError(f"its attention would be code from {code}, which is refused, name another")
    for part in filter(None, (getattr(config, name, None) for name in config.sub_configs)):
        drop_code(part)
