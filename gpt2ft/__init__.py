"""gpt2ft: the fine-tuning loop you can read in one sitting.

The public names are imported when first used, so that the command line answers before torch is
loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint.checkpoints import find_checkpoint as find_checkpoint
    from .checkpoint.checkpoints import load_checkpoint as load_checkpoint
    from .checkpoint.checkpoints import save_checkpoint as save_checkpoint
    from .checkpoint.manifest import CheckpointError as CheckpointError
    from .data.batches import Batches as Batches
    from .data.batches import Blocks as Blocks
    from .data.batches import Rows as Rows
    from .data.collate import CausalLMCollator as CausalLMCollator
    from .data.corpus import load_corpus as load_corpus
    from .data.token_store import tokenize as tokenize
    from .generation.sampling import choose_tokens as choose_tokens
    from .generation.sampling import generate_tokens as generate_tokens
    from .generation.text import Continuation as Continuation
    from .generation.text import generate as generate
    from .generation.text import stream as stream
    from .kernels.accelerate import accelerate as accelerate
    from .loop import Data as Data
    from .loop import NoTargetsError as NoTargetsError
    from .loop import StepResult as StepResult
    from .loop import TrainState as TrainState
    from .loop import evaluate as evaluate
    from .loop import train as train
    from .loop import train_step as train_step
    from .loop import undisturbed as undisturbed
    from .loss import causal_lm_loss as causal_lm_loss
    from .models.loading import load_model as load_model
    from .models.loading import load_tokenizer as load_tokenizer
    from .models.loading import new_model as new_model
    from .optim import build_optimizer as build_optimizer
    from .optim import lr_at as lr_at
    from .precision import resolve_device as resolve_device
    from .precision import resolve_precision as resolve_precision

__version__ = "0.1.0"

MODULES = {
    "data.batches": ("Batches", "Blocks", "Rows"),
    "checkpoint.checkpoints": ("find_checkpoint", "load_checkpoint", "save_checkpoint"),
    "data.collate": ("CausalLMCollator",),
    "data.corpus": ("load_corpus",),
    "generation.text": ("Continuation", "generate", "stream"),
    "kernels.accelerate": ("accelerate",),
    "loop": (
        "Data",
        "NoTargetsError",
        "StepResult",
        "TrainState",
        "evaluate",
        "train",
        "train_step",
        "undisturbed",
    ),
    "loss": ("causal_lm_loss",),
    "checkpoint.manifest": ("CheckpointError",),
    "models.loading": ("load_model", "load_tokenizer", "new_model"),
    "optim": ("build_optimizer", "lr_at"),
    "precision": ("resolve_device", "resolve_precision"),
    "generation.sampling": ("choose_tokens", "generate_tokens"),
    "data.token_store": ("tokenize",),
}
_MODULE_OF = {name: module for module, names in MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
