"""Texts from a configuration: its prompts continued, then those that are typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from ..data.corpus import load_corpus
from ..data.prompts import Prompt
from ..data.suffixes import index_text
from ..generation.config import GenerateConfig
from ..generation.ready_model import ReadyModel, load_ready
from ..generation.text import Continuation, begin, extend, generate, window_note
from ..precision import resolve_device, resolve_precision
from ..run.texts import corpus_of_run
from ..system.terminal import bar, printable
from .chat import Conversation, interact

Write = Callable[[str], None]
BETWEEN_TEXTS = "---\n"
JSON_FIELDS = ("prompt", "text", "tokens", "seed", "log_probability", "stop_reason")


def continue_texts(config: GenerateConfig, name: str, prompts: Sequence[Prompt]) -> int:
    """Continue the prompts with the model of that name, then what is typed; returns exit status.

    Raises what loading and generating raise.
    """
    precision = resolve_precision(config.precision, resolve_device(config.device))
    model = load_ready(
        name, precision, revision=config.model_revision, tokenizer_name=config.tokenizer_name
    )
    documents = _not_to_copy(config, name)
    model.corpus = index_text(documents, model.tokenizer) if documents else None
    write = writer(config.raw)
    at_once = config.json or config.prompt_file or config.num_return_sequences > 1
    noted = False
    for text in (_in_batches if at_once else _as_they_come)(config, model, prompts, write):
        note = window_note(model.model, text)
        if note and not noted:
            print(f"gpt2ft: {note}", file=sys.stderr)
        noted = noted or bool(note)
    if not config.interactive:
        return 0

    def load(name: str) -> ReadyModel:
        other = load_ready(name, precision)
        other.corpus = index_text(documents, other.tokenizer) if documents else None
        return other

    return interact(Conversation(config, model, load, write))


def _not_to_copy(config: GenerateConfig, name: str) -> Dataset | None:
    """The text that `max_verbatim` is about: that of `corpus`, else what the run trained on."""
    if config.corpus:
        return load_corpus(train_file=config.corpus, validation_split_percentage=0).train
    return corpus_of_run(Path(name))[1].train if config.max_verbatim else None


def writer(raw: bool) -> Write:
    """Writes to standard output, control characters escaped if it is a terminal."""
    escape = sys.stdout.isatty() and not raw

    def write(text: str) -> None:
        sys.stdout.write(printable(text) if escape else text)
        sys.stdout.flush()

    return write


def _as_they_come(
    config: GenerateConfig, model: ReadyModel, prompts: Sequence[Prompt], write: Write
) -> Iterator[Continuation]:
    """Continue one prompt after the other, each piece written at once."""
    for number, prompt in enumerate(prompts):
        write(BETWEEN_TEXTS if number else "")
        text = begin(model.tokenizer, prompt.text, config.seed)
        write(prompt.text)
        for (piece,) in extend(
            model.model, model.tokenizer, [text], config.sampling, corpus=model.corpus
        ):
            write(piece)
        write("\n")
        yield text


def _in_batches(
    config: GenerateConfig, model: ReadyModel, prompts: Sequence[Prompt], write: Write
) -> Iterator[Continuation]:
    """Continue all prompts, some at a time; written when they are complete, in their order."""
    texts = generate(
        model.model,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        config.sampling,
        seed=[config.seed if prompt.seed is None else prompt.seed for prompt in prompts],
        num_return_sequences=config.num_return_sequences,
        batch_size=config.batch_size,
        corpus=model.corpus,
    )
    with bar(len(prompts) * config.num_return_sequences, "generating", unit="text") as progress:
        for number, text in enumerate(texts):
            line = (BETWEEN_TEXTS if number else "") + text.prompt + text.text
            if config.json:
                fields = {name: getattr(text, name) for name in JSON_FIELDS}
                line = json.dumps(fields, ensure_ascii=False)
            with tqdm.external_write_mode(file=sys.stdout):
                write(line + "\n")
            progress.update()
            yield text
