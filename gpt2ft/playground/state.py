"""What a page is told at its start: the models, and each setting with the ends of its slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import __version__
from ..generation.config import Sampling
from ..models.probe import window
from ..settings import field_types
from .served_model import ServedModel

KINDS = {int: "int", float: "float", bool: "bool"}

# Least, greatest and step of a slider: narrower than what a setting may be.
SLIDERS: dict[str, tuple[float, float, float]] = {
    "max_new_tokens": (1, 1000, 1),
    "temperature": (0, 2, 0.05),
    "top_k": (0, 200, 1),
    "top_p": (0.01, 1, 0.01),
    "min_p": (0, 1, 0.01),
    "typical_p": (0.01, 1, 0.01),
    "repetition_penalty": (1, 2, 0.01),
    "no_repeat_ngram_size": (0, 10, 1),
    "max_verbatim": (0, 100, 1),
}


def state(
    models: Sequence[ServedModel],
    sampling: Sampling,
    *,
    seed: int | None,
    is_chat: bool,
    helps: Mapping[str, str],
) -> dict[str, Any]:
    """The state as JSON; `helps` are the settings' help texts."""
    first = models[0].load()
    names = [name for name in field_types(Sampling) if name != "max_verbatim" or first.corpus]
    return {
        "version": __version__,
        "models": [_model(number, model) for number, model in enumerate(models)],
        "chat": is_chat,
        "seed": seed,
        "settings": [_setting(name, sampling, helps[name]) for name in names],
    }


def _model(number: int, model: ServedModel) -> dict[str, Any]:
    size = window(model.ready.model) if model.ready else None
    return {"number": number, "name": model.name, "what": model.what, "window": size}


def _setting(name: str, sampling: Sampling, help_text: str) -> dict[str, Any]:
    value = getattr(sampling, name)
    kind = KINDS.get(field_types(Sampling)[name][0], "texts")
    shown = {"name": name, "value": value, "kind": kind, "help": help_text}
    if name in SLIDERS:
        least, greatest, step = SLIDERS[name]
        shown |= {"least": min(least, value), "greatest": max(greatest, value), "step": step}
    return shown
