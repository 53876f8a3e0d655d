"""Copies of a training text, measured as a configuration says: texts drawn, looked up, shown."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.folders import finished_weights
from ..data.corpus import Corpus, as_texts, load_corpus
from ..data.prompts import Prompt, read_prompts
from ..data.token_store import TokenStore
from ..evaluation.copies import (
    TrainingText,
    Written,
    measure_copies,
    pieces_of,
    read_samples,
    save_copies,
    tokens_of,
)
from ..evaluation.copies_words import copies_lines
from ..evaluation.records import METRICS
from ..generation.ready_model import load_ready
from ..generation.text import generate
from ..models.loading import load_tokenizer
from ..precision import resolve_device, resolve_precision
from ..run.reporting import write_report
from ..run.texts import corpus_of_run
from ..system.terminal import bar, print_line
from .copies import CopiesConfig, are_samples, folder_of
from .generate import is_of_run

PROMPT_TOKENS = 24


def measure(config: CopiesConfig, source: str, tokenizer_name: str) -> int:
    """Measure the texts of the model or file `source`, show what was found, and keep it in the
    folder if that is a run's; returns the exit status.

    Raises what loading, generating and indexing raise.
    """
    tokenizer = load_tokenizer(tokenizer_name)
    corpus = _corpus(config, folder_of(source))
    held_out = tokens_of(corpus.validation, tokenizer) if corpus.validation else None
    training = TrainingText(corpus.train, tokenizer, files=corpus.files)
    drawn = not are_samples(source)
    if not drawn:
        samples = read_samples(source)
    else:
        prompts = _prompts(config, tokenizer, training, held_out)
        samples = _drawn(config, source, tokenizer_name, prompts, training)
    result = measure_copies(samples, training, tokenizer, held_out, seed=config.seed)
    result["sampling"] = dataclasses.asdict(config.sampling) if drawn else None
    result["model_sha256"] = finished_weights(folder_of(source)) if drawn else None
    # In ASCII, as what is not printable would be escaped otherwise than JSON does.
    print_line(json.dumps(result) if config.json else "\n".join(copies_lines(result)))
    if os.path.isdir(source) and is_of_run(source):
        path = save_copies(Path(source), result)
        reported = (Path(source) / METRICS).is_file()
        if reported:
            write_report(Path(source))
        if not config.json:
            print_line(f"\nsaved in {path}{', and shown in the report' if reported else ''}")
    return 0


def _corpus(config: CopiesConfig, folder: Path) -> Corpus:
    """The training and the held-out text."""
    if not config.train_file:
        _, corpus = corpus_of_run(folder)
        if config.validation_file:
            held_out = load_corpus(
                train_file=config.validation_file,
                validation_split_percentage=0,
                text_column=config.text_column,
            )
            corpus = dataclasses.replace(corpus, validation=as_texts(held_out.train))
        return corpus
    corpus = load_corpus(
        train_file=config.train_file,
        validation_file=config.validation_file,
        validation_split_percentage=config.validation_split_percentage,
        text_column=config.text_column,
    )
    held_out_texts = None if corpus.validation is None else as_texts(corpus.validation)
    return dataclasses.replace(corpus, train=as_texts(corpus.train), validation=held_out_texts)


def _prompts(
    config: CopiesConfig, tokenizer: Any, training: TrainingText, held_out: TokenStore | None
) -> list[Prompt]:
    """Those of the file, else pieces of the held-out text."""
    if config.prompt_file:
        return read_prompts(config.prompt_file)
    if held_out is None:
        raise ValueError(
            "there is no held-out text to draw prompts from, add --validation_file or --prompt_file"
        )
    length = min(PROMPT_TOKENS, held_out.n_tokens)
    pieces = pieces_of(
        held_out, [length] * config.num_samples, training.index.boundaries, seed=config.seed
    )
    texts = [tokenizer.decode(piece.tolist(), skip_special_tokens=True) for piece in pieces]
    return [Prompt(text.strip("�")) for text in texts]  # half a character at an end


def _drawn(
    config: CopiesConfig,
    name: str,
    tokenizer_name: str,
    prompts: Sequence[Prompt],
    training: TrainingText,
) -> list[Written]:
    """What the model writes on from each prompt."""
    precision = resolve_precision("auto", resolve_device(config.device))
    model = load_ready(name, precision, tokenizer_name=tokenizer_name)
    seeds = [config.seed + i if each.seed is None else each.seed for i, each in enumerate(prompts)]
    texts = generate(
        model.model,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        config.sampling,
        seed=seeds,
        corpus=training.index if config.max_verbatim else None,
    )
    with bar(len(prompts), "generating", unit="text") as progress:
        samples = []
        for text in texts:
            samples.append(Written(text.prompt, text.text))
            progress.update()
    return samples
