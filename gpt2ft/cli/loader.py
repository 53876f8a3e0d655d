"""Models to generate with, loaded by name as the flags say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.chat_template import give_template, stop_tokens
from ..generation.config import GenerateConfig
from ..generation.filters import Followers
from ..generation.ready_model import ReadyModel, load_ready
from ..generation.text import add_end_tokens
from ..precision import resolve_device, resolve_precision
from .process import say_dequantised


def loader(config: GenerateConfig, first: str) -> Callable[[str], ReadyModel]:
    """Loads models to use with these settings; `first` is the name of the one they are for."""
    precision = resolve_precision(config.precision, resolve_device(config.device))
    index = _index_not_to_copy(config, first)

    def load(name: str) -> ReadyModel:
        model = load_ready(
            name,
            precision,
            revision=config.model_revision if name == first else "main",
            tokenizer_name=config.tokenizer_name if name == first else None,
        )
        say_dequantised([name])
        model.corpus = index(model.tokenizer) if index else None
        if config.chat:
            _ready_to_answer(model)
        return model

    return load


def _ready_to_answer(model: ReadyModel) -> None:
    """Give a model a chat template if it has none, and let its texts end where answers do."""
    if give_template(model.tokenizer):
        print(
            f"gpt2ft: {model.name} has no chat template: a plain one is used, which it does not "
            "know",
            file=sys.stderr,
        )
    add_end_tokens(model.model, stop_tokens(model.tokenizer))


def _index_not_to_copy(config: GenerateConfig, name: str) -> Callable[[Any], Followers] | None:
    """Makes, for a tokenizer, the index of the text that `max_verbatim` is about.

    That is the text of `corpus`, else what the run trained on; None if there is neither.
    """
    if not (config.corpus or config.max_verbatim):
        return None
    # Data sets take half a second to import: only here.
    from ..data.corpus import as_texts, load_corpus
    from ..data.suffixes import index_text
    from ..run.texts import corpus_of_run

    if config.corpus:
        documents = load_corpus(train_file=config.corpus, validation_split_percentage=0).train
        documents = as_texts(documents)
    else:
        documents = corpus_of_run(Path(name))[1].train
    return lambda tokenizer: index_text(documents, tokenizer)
