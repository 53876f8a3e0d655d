"""A model made ready to generate: loaded, on its device, in the dtype it computes in."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..kernels.accelerate import accelerate, decode_faster, pack_linear, quantise_linear
from ..kernels.int8_linear import can_quantise
from ..models.loading import load_model, load_tokenizer
from ..precision import Precision
from .filters import Followers
from .kv_cache import Prefix


@dataclasses.dataclass
class ReadyModel:
    """A model to generate with, its tokenizer, what it has read of the last text, and what it is
    not to copy."""

    name: str
    model: Any
    tokenizer: Any
    prefix: Prefix = dataclasses.field(default_factory=Prefix)
    corpus: Followers | None = None


def load_ready(
    name: str,
    precision: Precision,
    *,
    revision: str = "main",
    tokenizer_name: str | None = None,
) -> ReadyModel:
    """The model of that name, ready to generate, with its tokenizer or the one named.

    Raises as `models.loading` does.
    """
    if tokenizer_name is None:
        tokenizer = load_tokenizer(name, revision=revision)
    else:
        tokenizer = load_tokenizer(tokenizer_name)
    model = load_model(name, revision=revision)
    return ReadyModel(name, make_ready(model, precision), tokenizer)


def make_ready(model: Any, precision: Precision) -> Any:
    """Move the model to its device, in its dtype of computation; on a CPU, replace slow parts.

    Under autocast the weights would be cast again for every token. Raises `ValueError` for int8, if
    this torch has no exact int8 products here.
    """
    if precision.int8 and not can_quantise():
        raise ValueError(
            "precision int8 is not supported by this version of torch on this CPU, use fp32"
        )
    model.to(precision.device, precision.dtype or torch.float32)
    accelerate(model)
    if precision.int8:
        quantise_linear(model)
    else:
        pack_linear(model)
    decode_faster(model)
    return model
