"""The model in a checkpoint: as transformers saves it, or else what is trained of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..system import durable
from . import divided, snapshot
from .manifest import ADAPTER_FILES, MODEL_FILES, TRAINED


def write(folder: Path, model: Any, tokenizer: Any) -> None:
    """Let model and tokenizer save themselves, where they can."""
    if divided.is_divided(model) and isinstance(model, PreTrainedModel):
        divided.write_model(folder, model)
    elif isinstance(model, PreTrainedModel) and has_adapters(model):
        _write_adapter(folder, model)
    elif hasattr(model, "save_pretrained"):
        durable.write_by(model.save_pretrained, folder, max_shard_size="1000GB")
    if tokenizer is not None:
        # Chat templates within tokenizer_config.json: a checkpoint has no folders.
        durable.write_by(tokenizer.save_pretrained, folder, save_jinja_files=False)


def _write_adapter(folder: Path, model: Any) -> None:
    """What `save_pretrained` writes of a model with an adapter, as `peft` loads it.

    That itself would look for the model under it on the hub, to compare vocabularies.
    """
    from peft import get_peft_model_state_dict

    (name,) = model.active_adapters()
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    named = {f"base_model.model.{n}": t.contiguous() for n, t in tensors.items()}
    durable.write_tensors(folder / ADAPTER_FILES[1], named)
    durable.write_by(model.peft_config[name].save_pretrained, folder)
    if model.generation_config is not None:  # which names the tokens that end a text
        durable.write_by(model.generation_config.save_pretrained, folder)


def n_bytes(model: torch.nn.Module) -> int:
    """About what `write` and `write_trained` take: of a model with adapters, those, twice."""
    tensors: Iterable[torch.Tensor] = model.parameters()
    if has_adapters(model):
        tensors = [p for p in tensors if p.requires_grad] * 2
    return sum(p.numel() * p.element_size() for p in tensors)


def has_adapters(model: torch.nn.Module) -> bool:
    """Whether the model saves its adapters alone, as those of `peft` do."""
    return hasattr(model, "peft_config")


def is_whole(folder: Path, model: Any) -> bool:
    """Whether the folder holds all of the model, as `read` wants it."""
    written = all((folder / name).is_file() for name in MODEL_FILES)
    return written and isinstance(model, PreTrainedModel)


def write_trained(folder: Path, model: torch.nn.Module) -> None:
    """What is trained of a model, where its own files are not all of it."""
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if folders:
        raise ValueError(
            f"{type(model).__name__} saves folders, {', '.join(folders)}, which a checkpoint does "
            "not hold, name the adapter `default`"
        )
    tensors = snapshot.trained_tensors(model)
    divided.write_tensors(folder / TRAINED, tensors)


def read(path: Path, model: Any) -> dict[str, torch.Tensor]:
    """The weights of a model of transformers, by their names in memory.

    Of a model that is divided, the rows that this process has. Raises `ValueError` if the files
    hold another kind of model.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"it holds a model of transformers, not a {type(model).__name__}")
    # The file that was verified, whatever config.json names. By from_pretrained: for some models
    # transformers renames tensors between file and memory.
    file = path / "model.safetensors"
    if divided.is_divided(model):
        return divided.read_model(file, model)
    loaded: Any = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=load_file(file),
        dtype=model.dtype,
        output_loading_info=True,
    )
    saved, info = loaded
    own = model.state_dict().keys()
    lost = sorted((info["missing_keys"] & own) | (info["unexpected_keys"] - own))
    if lost:
        raise ValueError(f"tensors are missing or extra: {', '.join(lost[:5])}")
    # Read once more: transformers may have changed in place what it was given.
    weights, tensors = saved.state_dict(), load_file(file)
    _undo_zeros(weights, tensors)
    # Tensors that somebody has added to the model: from_pretrained does not know them.
    added = {name: tensors[name] for name in info["unexpected_keys"]}
    return {name: t for name, t in {**weights, **added}.items() if name in own}


def read_trained(path: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What `write_trained` wrote, by the names in memory."""
    return divided.read_tensors(path / TRAINED, snapshot.named_tensors(model).get)


def _undo_zeros(weights: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Where transformers has set to zero what it had read, as Youtu's padding row, put it back.

    A tensor that differs in another way was transposed, and is right.
    """
    for name in weights.keys() & tensors.keys():
        loaded, read = weights[name], tensors[name]
        if loaded.shape == read.shape and not torch.equal(loaded, read):
            put_back = torch.where(loaded == 0, read, loaded)
            if torch.equal(put_back, read):
                loaded.copy_(read)
