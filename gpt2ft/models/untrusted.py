"""What a model that comes from elsewhere may not do: run code, read pickles, name other files."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import transformers
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ..system.hub import HubUnavailableError, answers, is_offline
from .gguf_header import is_gguf
from .probe import attention_implementation

MAX_JSON_BYTES = 64 << 20
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@contextlib.contextmanager
def loading(what: str, name: str, revision: str) -> Iterator[tuple[str, str]]:
    """Gives the place and the commit that everything is loaded from.

    The place is the name itself, or where the hub does not answer, the folder of its cache. Errors
    become ones that a user can act on.
    """
    try:
        if is_gguf(name):
            os.stat(name)
            yield name, revision
            return
        if os.path.isfile(name):
            raise ValueError("it is a file, name the folder it is in, or a .gguf file")
        if os.path.isdir(name) and not any(file.endswith(".json") for file in os.listdir(name)):
            there = ", ".join(sorted(os.listdir(name))[:9]) or "nothing"
            raise ValueError(f"it holds {there}, but no model, name another")
        place = name if os.path.isdir(name) or is_offline() else _on_hub(name, revision)
        yield place, _commit(place, revision)
    except Exception as error:
        raise _unavailable(what, name, error) from error


def _on_hub(name: str, revision: str) -> str:
    """The name if the hub answers, else the folder of the cache, without minutes of retries."""
    if answers():
        return name
    try:
        return huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise HubUnavailableError from error


def never_ask() -> None:
    """Have transformers refuse code that comes with a model, wherever it would ask; for a program.

    Where `trust_remote_code=False` does not reach (a part of a model, say), it would ask on
    standard input: there the next prompt might be the answer.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("transformers.dynamic_module_utils").TIME_OUT_REMOTE_CODE = 0  # type: ignore[attr-defined]


def _unavailable(what: str, name: str, error: Exception) -> Exception:
    """The error a user can act on, for one of the libraries' many."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if os.path.exists(name):
        name = os.path.abspath(name)
    elif is_gguf(name):
        return FileNotFoundError(f"no file {os.path.abspath(name)}, check the path")
    elif not _may_be_on_hub(name):
        return FileNotFoundError(f"no folder {os.path.abspath(os.path.expanduser(name))}")
    elif isinstance(error, HubUnavailableError) or (isinstance(error, OSError) and is_offline()):
        return HubUnavailableError(
            f"{name} is not on this machine, and it cannot be downloaded: no connection to the "
            "hub; name a folder, or gpt2-mini, which is built in"
        )
    elif isinstance(error, OSError):
        return FileNotFoundError(
            f"{name} is no folder here, and cannot be loaded from the hub, {reason[:500]}"
        )
    if isinstance(error, safetensors.SafetensorError):
        reason = f"its model.safetensors or a part of it is damaged, {reason}"
    return ValueError(f"{what} {name} cannot be loaded, {reason[:500]}")


def _may_be_on_hub(name: str) -> bool:
    """Whether a repository on the hub can have that name; `./model` is a path, and none of it."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _json(name: str, file: str, revision: str) -> dict[str, Any]:
    """An object that comes with a model, empty if there is none. Raises `ValueError`."""
    if os.path.isdir(name):
        path = os.path.join(name, file)
        if not os.path.isfile(path):
            return {}
    else:
        try:
            path = huggingface_hub.hf_hub_download(name, file, revision=revision)
        except (EntryNotFoundError, HFValidationError):
            return {}  # no such file; or offline and not in the cache; or not a name for the hub
    if os.path.getsize(path) > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {os.path.getsize(path)} bytes, over {MAX_JSON_BYTES}")
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON, {error}, it is damaged") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not an object")
    return values


def _internal(module: str, name: str) -> Any:
    """An internal name of a module of transformers; None if this version does not have it."""
    try:
        return getattr(importlib.import_module(f"transformers.{module}"), name, None)
    except ImportError:
        return None


def _commit(name: str, revision: str) -> str:
    """The commit of a branch or tag: given "main", transformers takes weights from pull requests.

    Without the function of transformers that finds it, the revision as it is.
    """
    resolve = _internal("utils.hub", "resolve_revision")
    found = resolve(name, revision) if resolve else None
    return str(getattr(found, "resolved", revision))


def _tokenizer_class(name: str) -> Any:
    """What transformers would take for the tokenizer class of that name, None if there is none."""
    find = _internal("models.auto.tokenization_auto", "tokenizer_class_from_name")
    return find(name) if find else getattr(transformers, name, None)


def _type_is_known(settings: dict[str, Any]) -> bool:
    """Whether these are settings of a model type that transformers has."""
    return settings.get("model_type") in transformers.CONFIG_MAPPING


def _refuse_needed_code(settings: dict[str, Any], is_known: bool) -> None:
    """Raise `ValueError` if it cannot be loaded without the code that the settings name."""
    if settings.get("auto_map") and not is_known:
        raise ValueError(
            "it wants to run code of its own (auto_map), which is refused, name another"
        )


def check_tokenizer(name: str, revision: str) -> None:
    """Refuse a tokenizer class that is not one: some other classes load parts for which
    `trust_remote_code=False` has no effect."""
    for file in ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"):
        _json(name, file, revision)
    base = transformers.PreTrainedTokenizerBase
    class_is_known = False
    for file in ("tokenizer_config.json", "config.json"):
        settings = _json(name, file, revision)
        named = settings.get("tokenizer_class")
        kind = _tokenizer_class(named) if named else None
        class_is_known |= kind is not None
        _refuse_needed_code(settings, class_is_known or _type_is_known(settings))
        if kind and not (isinstance(kind, type) and issubclass(kind, base)):
            raise ValueError(f"{file} names the class {named}, no tokenizer that is installed")


def saved_class(name: str, revision: str) -> Any:
    """The class as which transformers 5 saved a tokenizer; None if another version did.

    The names that earlier versions wrote are often wrong, and `AutoTokenizer` knows which.
    """
    settings = _json(name, "tokenizer_config.json", revision)
    named = settings.get("tokenizer_class")
    return _tokenizer_class(named) if named and settings.get("backend") == "tokenizers" else None


def adapter_settings(name: str, revision: str) -> dict[str, Any]:
    """What adapter_config.json says of an adapter; empty if the name is that of a whole model.

    Raises `ValueError` if it is no LoRA, or names no model that it belongs to.
    """
    settings = _json(name, ADAPTER_CONFIG, revision)
    if not settings:
        return {}
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"it is an adapter of the type {settings.get('peft_type')}, not LORA")
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision") or "main"
    if not (base and isinstance(base, str) and isinstance(revision, str)):
        raise ValueError(f"its {ADAPTER_CONFIG} names no model (base_model_name_or_path), add it")
    return settings


def adapter_weights(name: str, revision: str) -> Path:
    """The file of an adapter's weights. Raises `ValueError` if they are not safetensors."""
    path = Path(name) / ADAPTER_WEIGHTS
    if not os.path.isdir(name):
        with contextlib.suppress(EntryNotFoundError):
            path = Path(huggingface_hub.hf_hub_download(name, ADAPTER_WEIGHTS, revision=revision))
    if not path.is_file():
        raise ValueError(f"it is an adapter without {ADAPTER_WEIGHTS}, no other file is read")
    return path


def has_tokenizer(name: str, revision: str) -> bool:
    """Whether a tokenizer is there; many an adapter has none, and needs that of its model."""
    return bool(_json(name, "tokenizer_config.json", revision))


def check_model(name: str, revision: str) -> None:
    """Refuse weights that are not safetensors in the model's folder: its JSON may name any file."""
    if _json(name, ADAPTER_CONFIG, revision):
        raise ValueError(f"it is an adapter ({ADAPTER_CONFIG}), merge it into its model first")
    if any(Path(name).glob("shard-*.safetensors")):
        raise ValueError("it holds shard-*.safetensors of a distributed run, consolidate them")
    _json(name, "generation_config.json", revision)
    config = _json(name, "config.json", revision)
    _refuse_needed_code(config, _type_is_known(config))
    source = config.get("transformers_weights") or "model.safetensors.index.json"
    weights = [source]
    if source.endswith(".index.json"):
        weights = list(_json(name, source, revision).get("weight_map", {}).values())
    for file in weights:
        if os.path.basename(file) != file or not file.endswith(".safetensors"):
            raise ValueError(f"its weights are in {file}, only .safetensors beside it are read")


def drop_code(config: Any) -> None:
    """Remove the code that a configuration names. Raises `ValueError` if it is attention code.

    `transformers` knows the model type and needs no such code; a saved model must not name it.
    """
    vars(config).pop("auto_map", None)
    code = str(attention_implementation(config))
    if "/" in code:
        raise ValueError(f"its attention would be code from {code}, which is refused, name another")
    for part in filter(None, (getattr(config, name, None) for name in config.sub_configs)):
        drop_code(part)


def forget_code(tokenizer: Any) -> None:
    """Forget the code that the files of a tokenizer name: what is saved must not hand it on."""
    getattr(tokenizer, "init_kwargs", {}).pop("auto_map", None)
