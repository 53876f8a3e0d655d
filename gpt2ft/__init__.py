"""gpt2ft: the fine-tuning loop you can read in one sitting.

The public names are imported when they are first used, so that the command line answers before
torch is loaded. `__init__.pyi` has them with their types.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

MODULES = {
    "checkpoint.checkpoints": ("load_checkpoint", "save_checkpoint"),
    "checkpoint.folders": ("find_checkpoint",),
    "checkpoint.manifest": ("CheckpointError",),
    "data.batches": ("Batches", "Blocks", "Rows"),
    "data.collate": ("CausalLMCollator",),
    "data.corpus": ("load_corpus",),
    "data.suffixes": ("index_text",),
    "data.token_store": ("tokenize",),
    "generation.config": ("Sampling",),
    "generation.sampling": ("choose_tokens", "generate_tokens"),
    "generation.text": ("Continuation", "generate", "stream"),
    "guards": ("undisturbed",),
    "kernels.accelerate": ("accelerate", "keep_freed_memory"),
    "loop": (
        "Data",
        "NoTargetsError",
        "NonFiniteError",
        "StepResult",
        "TrainState",
        "evaluate",
        "train",
        "train_step",
    ),
    "loss": ("causal_lm_loss", "count_targets"),
    "models.loading": ("load_model", "load_tokenizer", "new_model"),
    "optim": ("build_optimizer", "clip_and_step", "lr_at", "parameter_groups"),
    "parallel.processes": ("LostProcessError",),
    "parallel.sharding": ("shard",),
    "precision": ("resolve_device", "resolve_precision"),
}
_MODULE_OF = {name: module for module, names in MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if any(module.split(".")[0] == name for module in MODULES):
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
