"""A card for any model on any text, or on the text that its run held out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..checkpoint.folders import step_of
from ..config import TrainConfig
from ..data.batches import Batches
from ..data.chats import MESSAGES
from ..data.collate import CausalLMCollator
from ..data.token_store import tokenize
from ..evaluation.card import Card
from ..evaluation.config import EvaluateConfig
from ..evaluation.scores import Score
from ..evaluation.windows import Windows
from ..kernels.accelerate import accelerate
from ..models import loading, probe
from ..precision import Precision, resolve_device, resolve_precision
from ..system.signals import Stop
from .observe import score_shown
from .recipe import SETTINGS_FILE, load_recipe
from .texts import Cutter, open_texts


def evaluated(name: str, config: EvaluateConfig, *, stop: Stop) -> tuple[Card, str]:
    """The card of the model of that name, and which text it is about.

    Raises `ValueError` if there is no text, `Stopped` if a signal comes, and what loading models
    and texts raises.
    """
    settings, documents = _text(name, config)
    precision = resolve_precision(config.precision, resolve_device(config.device))

    def scored(name: str, revision: str) -> tuple[Score, _Tokens]:
        return _scored(name, revision, config, settings, documents, precision, stop)

    model, tokens = scored(name, config.model_revision)
    baseline, others = None, tokens
    if config.baseline:
        settings = dataclasses.replace(settings, block_size=tokens.block_size)
        baseline, others = scored(config.baseline, "main")
    card = Card(
        model,
        baseline,
        protocol=tokens.protocol,
        same_tokens=others.digest == tokens.digest,
    )
    named = bool(config.validation_file or config.dataset_name)
    source = settings.dataset_name or ", ".join(settings.validation_file or settings.train_file)
    return card, source if named else f"{source}, what the run in {name} held out"


def _text(name: str, config: EvaluateConfig) -> tuple[TrainConfig, Dataset]:
    """How the text is to be cut, as settings of a run, and its documents."""
    folder = Path(name)
    folder = folder.parent if step_of(folder) >= 0 else folder  # a checkpoint of the run
    recorded = folder / SETTINGS_FILE
    settings = TrainConfig(**load_recipe(str(recorded))) if recorded.is_file() else TrainConfig()
    given = {
        name: value
        for name in ("block_size", "row_separator", "max_eval_samples", "device", "precision")
        if (value := getattr(config, name)) is not None
    }
    settings = dataclasses.replace(settings, **given)
    if not (config.validation_file or config.dataset_name):
        if not recorded.is_file():
            raise ValueError(
                f"no text, name --validation_file or --dataset_name: {name} is no output folder of "
                "a run, whose held-out text could be taken"
            )
        documents = open_texts(settings, None).held_out_documents()
        if documents is None:
            raise ValueError(f"the run in {name} held no text out, name --validation_file")
        return settings, documents
    settings = dataclasses.replace(
        settings,
        train_file=config.validation_file,
        validation_file=[],
        validation_split_percentage=0,
        max_eval_samples=config.max_eval_samples,
        dataset_name=config.dataset_name,
        dataset_config_name=config.dataset_config_name,
        dataset_split=config.dataset_split,
        text_column=config.text_column,
        prompt_column=config.prompt_column,
        completion_column=config.completion_column,
        encoding=config.encoding,
        deduplicate=False,
        streaming=False,
    )
    return settings, open_texts(settings, None).documents()


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """How a text was cut for a model."""

    block_size: int
    protocol: str
    digest: str


def _scored(
    name: str,
    revision: str,
    config: EvaluateConfig,
    settings: TrainConfig,
    documents: Dataset,
    precision: Precision,
    stop: Stop,
) -> tuple[Score, _Tokens]:
    """Load a model and score it."""
    tokenizer = loading.load_tokenizer(name, revision=revision)
    model = loading.load_model(name, revision=revision)
    size = settings.block_size or min(512, probe.window(model) or 512)
    probe.check_fit(model, tokenizer, size)
    model.to(precision.device)
    accelerate(model)
    settings = dataclasses.replace(settings, block_size=size)
    samples: Any
    if config.protocol == "sliding":
        if MESSAGES in documents.column_names:
            raise ValueError("--protocol sliding is for texts, not for conversations, leave it out")
        separator = settings.row_separator == "eos"
        store = tokenize(documents, tokenizer, separator=separator, one_text=not separator)
        stride = config.stride or max(1, size // 2)
        samples = Windows(store, size, stride, end=tokenizer.eos_token_id if separator else None)
        protocol, digest = f"sliding, window {size} tokens, stride {stride}", store.digest()
    else:
        keep_apart = settings.packing and probe.keeps_documents_apart(model)
        vocab_size = model.get_input_embeddings().weight.shape[0]
        cut = Cutter(settings, tokenizer, vocab_size, keep_apart)
        samples, digest = cut.samples(documents, limit=settings.max_eval_samples)
        protocol = cut.protocol(chats=MESSAGES in documents.column_names)
    collate = CausalLMCollator(tokenizer.pad_token_id)
    data = Batches(samples, collate, batch_size=config.per_device_eval_batch_size)
    found = score_shown(model, data, tokenizer, precision, stop)
    return found, _Tokens(size, protocol, digest)
