"""Texts from a configuration: its prompts continued, then those that are typed."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..config import GenerateConfig
from ..generation.text import Continuation, begin, extend, generate, outgrown
from ..kernels.accelerate import accelerate, pack_linear
from ..models import loading
from ..precision import Precision, resolve_device, resolve_precision
from ..run.progress import bar
from ..system.terminal import printable
from .chat import Conversation, Model, interact
from .prompts import Prompt

Write = Callable[[str], None]
JSON_FIELDS = ("prompt", "text", "tokens", "seed", "log_probability", "stop_reason")


def infer(config: GenerateConfig, name: str, prompts: Sequence[Prompt]) -> int:
    """Continue the prompts with the model of that name, then what is typed; returns exit status.

    Raises what loading and generating raise.
    """
    precision = resolve_precision(config.precision, resolve_device(config.device))
    model = load(name, precision, revision=config.model_revision)
    write = writer(config.raw)
    at_once = config.json or config.prompt_file or config.num_return_sequences > 1
    noted = False
    for text in (_in_batches if at_once else _as_they_come)(config, model, prompts, write):
        note = outgrown(model.model, text)
        if note and not noted:
            print(f"gpt2ft: {note}", file=sys.stderr)
        noted = noted or bool(note)
    if not config.interactive:
        return 0
    return interact(
        Conversation(config, model, functools.partial(load, precision=precision), write)
    )


def load(name: str, precision: Precision, *, revision: str = "main") -> Model:
    """Model and tokenizer of that name, ready to write; raises as `modeling` does."""
    tokenizer = loading.load_tokenizer(name, revision=revision)
    model = loading.load_model(name, revision=revision)
    return Model(name, prepare(model, precision), tokenizer)


def prepare(model: Any, precision: Precision) -> Any:
    """A model to write with: on its device, its weights in the dtype it computes in.

    Under autocast they would be cast again for every token.
    """
    model.to(precision.device, precision.dtype or torch.float32)
    accelerate(model)
    pack_linear(model)
    return model


def writer(raw: bool) -> Write:
    """Writes to standard output, control characters escaped if it is a terminal."""
    escape = sys.stdout.isatty() and not raw

    def write(text: str) -> None:
        sys.stdout.write(printable(text) if escape else text)
        sys.stdout.flush()

    return write


def _as_they_come(
    config: GenerateConfig, model: Model, prompts: Sequence[Prompt], write: Write
) -> Iterator[Continuation]:
    """Continue one prompt after the other, each piece written at once."""
    for prompt in prompts:
        text = begin(model.tokenizer, prompt.text, config.seed)
        write(prompt.text)
        for (piece,) in extend(model.model, model.tokenizer, [text], **config.sampling()):
            write(piece)
        write("\n")
        yield text


def _in_batches(
    config: GenerateConfig, model: Model, prompts: Sequence[Prompt], write: Write
) -> Iterator[Continuation]:
    """Continue all prompts, some at a time; written when they are complete, in their order."""
    texts = generate(
        model.model,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        seed=[config.seed if prompt.seed is None else prompt.seed for prompt in prompts],
        num_return_sequences=config.num_return_sequences,
        batch_size=config.batch_size,
        **config.sampling(),
    )
    with bar(len(prompts) * config.num_return_sequences, "generating", unit="text") as progress:
        for text in texts:
            line = text.prompt + text.text
            if config.json:
                fields = {name: getattr(text, name) for name in JSON_FIELDS}
                line = json.dumps(fields, ensure_ascii=False)
            with tqdm.external_write_mode(file=sys.stdout):
                write(line + "\n")
            progress.update()
            yield text
