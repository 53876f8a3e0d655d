"""What of a run's model is trained: all weights, an adapter, or what is not frozen; how fast."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from ..checkpoint.folders import recorded_run
from ..config import TrainConfig
from ..models import adapters, loading
from ..models.gguf_header import dequantised, is_gguf

DEFAULT_LEARNING_RATE = 5e-5  # the Trainer's
ADAFACTOR_LEARNING_RATE = 1e-3
LORA_LEARNING_RATE = 2e-4  # that of GPT-2 in Hu et al. (2021), and of QLoRA (2023) up to 13B
LORA_FACTOR = 10  # of the best rate for all weights, Schulman et al., LoRA Without Regret (2025)


def choose_what_is_trained(config: TrainConfig, model: Any) -> TrainConfig:
    """Add the LoRA adapter and freeze what is to be frozen; returns what was decided."""
    if config.lora_r:
        targets = config.lora_target_modules or adapters.default_targets(model)
        alpha = config.lora_alpha or 2 * config.lora_r
        adapters.add_lora(
            model,
            r=config.lora_r,
            alpha=alpha,
            dropout=config.lora_dropout,
            targets=targets,
            seed=config.seed,
        )
        name = str(config.loaded_model)
        if loading.is_adapter(name, revision=config.model_revision):
            raise ValueError(
                f"--lora_r needs a whole model, and {name} is an adapter itself: make a whole one "
                "of it first, by --output_dir RUN --resume --merge_lora"
            )
        where = os.path.abspath(name) if os.path.isdir(name) or is_gguf(name) else name
        adapters.note_base(model, where, config.model_revision)
        config = dataclasses.replace(config, lora_alpha=alpha, lora_target_modules=targets)
    adapters.freeze(model, config.freeze)
    return config


def notes_on_weights(config: TrainConfig, checkpoint: Path | None) -> list[str]:
    """What is to be said where a GGUF file is read: all weights, or those under an adapter."""
    is_read = config.loaded_model and (checkpoint is None or config.lora_r)
    said = dequantised(str(config.loaded_model)) if is_read else None
    return [said] if said else []


def refuse_another_base(config: TrainConfig, base: str | None, checkpoint: Path | None) -> None:
    """Raise `ValueError` if the model is not the one that the checkpoint's adapter belongs to."""
    recorded = recorded_run(checkpoint).get("base") if checkpoint else base
    if recorded != base:
        raise ValueError(
            f"the weights of {config.loaded_model} are not those that the adapter in {checkpoint} "
            "was trained on, restore them or name their place with --model_name_or_path"
        )


def learning_rate(config: TrainConfig, model: Any) -> float:
    """The rate that is given; for AdamW else what the model's configuration recommends, or the
    Trainer's. For an adapter both are higher.
    """
    if config.learning_rate is not None:
        return config.learning_rate
    if config.optimizer == "adafactor":
        return ADAFACTOR_LEARNING_RATE
    rate = getattr(model.config, "recommended_learning_rate", None)
    if not (isinstance(rate, float) and 0 < rate < 1):
        return LORA_LEARNING_RATE if config.lora_r else DEFAULT_LEARNING_RATE
    return LORA_FACTOR * rate if config.lora_r else rate
