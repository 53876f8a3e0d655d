"""Texts from a configuration: its prompts continued, then those that are typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from ..data.chat_template import question_ids, user_message
from ..data.prompts import Prompt
from ..generation.config import GenerateConfig
from ..generation.ready_model import ReadyModel
from ..generation.text import Continuation, begin, complete, extend, window_note
from ..system.terminal import bar, printable
from .chat_session import ChatSession
from .loader import loader
from .session import interact
from .text_session import TextSession

Write = Callable[[str], None]
BETWEEN_TEXTS = "---\n"
JSON_FIELDS = ("prompt", "text", "tokens", "seed", "log_probability", "stop_reason")


def continue_texts(config: GenerateConfig, name: str, prompts: Sequence[Prompt]) -> int:
    """Continue the prompts with the model of that name, then what is typed; returns exit status.

    Raises what loading and generating raise.
    """
    load = loader(config, name)
    model = load(name)
    if config.chat:
        prompts = [_question(model, prompt) for prompt in prompts]
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
    session = ChatSession if config.chat else TextSession
    return interact(session(config, model, load, write))


def _question(model: ReadyModel, prompt: Prompt) -> Prompt:
    """The prompt as a question."""
    ids = question_ids(model.tokenizer, [user_message(prompt.text)])
    return Prompt(prompt.text, prompt.seed, tuple(ids))


def _begun(
    config: GenerateConfig, model: ReadyModel, prompt: Prompt, number: int = 0
) -> Continuation:
    """The text of that number from a prompt, which is all there is of it yet."""
    first = config.seed if prompt.seed is None else prompt.seed
    text = begin(model.tokenizer, prompt.text, None if first is None else first + number)
    text.prompt_ids = list(prompt.ids or text.prompt_ids)
    return text


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
        text = _begun(config, model, prompt)
        write(prompt.text + "\n" * config.chat)
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
    todo = (
        _begun(config, model, prompt, number)
        for prompt in prompts
        for number in range(config.num_return_sequences)
    )
    texts = complete(
        model.model,
        model.tokenizer,
        todo,
        config.sampling,
        batch_size=config.batch_size,
        corpus=model.corpus,
    )
    with bar(len(prompts) * config.num_return_sequences, "generating", unit="text") as progress:
        for number, text in enumerate(texts):
            shown = text.prompt + "\n" * config.chat + text.text
            line = (BETWEEN_TEXTS if number else "") + shown
            if config.json:
                fields = {name: getattr(text, name) for name in JSON_FIELDS}
                line = json.dumps(fields, ensure_ascii=False)
            with tqdm.external_write_mode(file=sys.stdout):
                write(line + "\n")
            progress.update()
            yield text
