"""A model as a GGUF file that is checked before it has its name.

It is written under another name and read again, by transformers and, where `xllamacpp` is
installed, by llama.cpp itself. What does not compute what the model computes is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import __version__
from ..checkpoint.folders import finished_weights
from ..generation.config import Sampling
from ..generation.sampling import generate_tokens
from ..models import gguf, gguf_reading, loading
from ..system import durable
from ..system.signals import Stop
from ..system.terminal import print_line
from . import llama_cpp
from .modelfile import write_modelfile

PROMPTS = (
    *("It was", "Once upon a time", "The cat sat on", "In the year 1984,", "He said: “No!”"),
    *("She didn't know that it's", "12345 + 67 = ", "def main():\n    return", "a", "What is"),
    *("I am the\n\nand", "Zürich, São Paulo,", "東京", "🙂 ok", "THE END", "x = [1, 2, 3]; y"),
    *("Dear friend,\n", "and and and", "The capital of France is", "It's 3.14% of\tall"),
)
NEW_TOKENS = 24


class Bounds(NamedTuple):
    """How far a file may be from the model, in nats."""

    mean: float
    """Kullback-Leibler divergence of the next token's distribution, on average."""
    largest: float
    """The largest divergence of any position."""
    gap: float
    """How much less probable than its own greedy token the model may hold the file's."""
    llama_cpp: float
    """How far llama.cpp's log-probability of a greedy token may be from the model's: it also
    rounds what flows between the layers."""


# A matrix that is turned or scaled wrongly is nats away. f16 keeps 11 bits of each weight: only
# where two tokens are as good as equal may the greedy one be another.
BOUNDS = {
    "f16": Bounds(mean=1e-4, largest=1e-2, gap=1e-2, llama_cpp=0.1),
    "q8_0": Bounds(mean=1e-2, largest=0.1, gap=0.5, llama_cpp=0.5),
}


@dataclass(frozen=True)
class Difference:
    """How far one model is from another on the same texts."""

    tokens: int
    """Greedy tokens compared."""
    same: int
    gap: float
    """Largest gap, see `Bounds`; 0 if all tokens are the same."""
    mean: float
    largest: float

    def fault(self, bounds: Bounds) -> str | None:
        """What is beyond the bounds; None if nothing is. NaN is beyond all."""
        for what in ("mean", "largest", "gap"):
            value, bound = getattr(self, what), getattr(bounds, what)
            if not value <= bound:
                said = {
                    "mean": "the mean divergence of the next token",
                    "largest": "the largest divergence of the next token",
                    "gap": "the gap in probability of a greedy token",
                }[what]
                return f"{said} is {value:.3g} nats, at most {bound:g} is allowed"
        return None

    def text(self) -> str:
        return (
            f"{self.same} of {self.tokens} greedy tokens the same, KL divergence of the next token "
            f"{self.mean:.2g} nats on average, {self.largest:.2g} at most"
        )


class Continued(NamedTuple):
    """A prompt and what the model greedily writes after it."""

    ids: list[int]
    start: int
    """Tokens of the prompt."""


def export(name: str, target: Path, *, type: str, ollama: bool = False, stop: Stop) -> int:
    """Write the model of that name into a GGUF file, and check it; returns 0.

    `type` as in `write_gguf`; `ollama`: with a Modelfile beside it. Raises `ValueError` if that
    cannot be, or if the file is too far from the model, and `Stopped` if a signal comes: there is
    no file then.
    """
    gguf.check_gguf()
    modelfile = target.with_name("Modelfile")
    for path in (target, *([modelfile] if ollama else ())):
        if path.exists():
            raise ValueError(f"{path} exists, name another file with -o")
    tokenizer, model = loading.load_tokenizer(name), loading.load_model(name)
    new = target.with_name(f".{target.stem}.unchecked.gguf")
    durable.make_folder(target.parent)
    try:
        began = time.monotonic()
        gguf.write_gguf(new, model, tokenizer, type=type, metadata=_metadata(name, type))
        durable.sync_file(new)
        size, took = new.stat().st_size, time.monotonic() - began
        print_line(f"written: {size / 1e6:.1f} MB, {type}, in {took:.1f} s")
        stop.check()
        _check(new, model, tokenizer, BOUNDS[type], type, stop)
        durable.rename(new, target)
        durable.sync_folder(target.parent)
    finally:
        durable.delete(new)
    print_line(f"the model is in {target}")
    if ollama:
        print_line(write_modelfile(modelfile, target, model, tokenizer))
    return 0


def _metadata(name: str, type: str) -> dict[str, str]:
    """What the file says of where it comes from."""
    known = {
        "general.name": f"{Path(name).resolve().name}-{type}",
        "gpt2ft.version": __version__,
        "gpt2ft.weights_sha256": finished_weights(Path(name)),
    }
    return {key: value for key, value in known.items() if value}


def _check(path: Path, model: Any, tokenizer: Any, bounds: Bounds, type: str, stop: Stop) -> None:
    """Raise `ValueError` unless the file computes what the model computes; say how near it is."""
    began = time.monotonic()
    try:
        other = gguf_reading.read_model(path, gguf_reading.read_config(path))
        its_tokenizer = gguf_reading.read_tokenizer(path)
    except Exception as error:  # the library's many
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the file cannot be read again, {reason}; it is deleted") from error
    _compare_weights(model, other, type)
    _compare_tokens(tokenizer, its_tokenizer, "transformers")
    texts = continued(model, tokenizer, gguf.longest_context(model.config), stop)
    found = compare(model, other, texts, stop)
    _refuse(found.fault(bounds), "transformers")
    took = time.monotonic() - began
    print_line(f"read again by transformers: {found.text()} ({took:.1f} s)")
    if not llama_cpp.is_installed():
        print_line("not read by llama.cpp itself, for that: pip install xllamacpp")
        return
    began = time.monotonic()
    with llama_cpp.running(path, max(len(text.ids) for text in texts)) as reader:
        for text in PROMPTS:
            _same_ids(text, tokenizer(text)["input_ids"], reader.tokens(text), "llama.cpp")
        farthest, same, count = _ask(model, texts, reader, stop)
    if not farthest <= bounds.llama_cpp:
        what = f"a greedy token's log-probability is {farthest:.3g} nats away"
        _refuse(f"{what}, at most {bounds.llama_cpp:g} is allowed", "llama.cpp")
    print_line(
        f"read again by llama.cpp: {same} of {count} greedy tokens the same, their log-probability "
        f"{farthest:.2g} nats away at most ({time.monotonic() - began:.1f} s)"
    )


def _refuse(fault: str | None, reader: str) -> None:
    if fault:
        raise ValueError(f"the file, read by {reader}, differs from the model: {fault}; deleted")


def _compare_weights(model: Any, other: Any, type: str) -> None:
    """Raise `ValueError` if a weight is further from the model's than rounding brings it."""
    theirs = dict(other.named_parameters())
    for name, own in model.named_parameters():
        a, b = own.detach().float(), theirs[name].detach().float()
        # Half of the last of 11 bits; half of a 127th of the largest, and its factor's rounding.
        room = a.abs() / 2**11 + 2**-25 if type == "f16" else a.abs().max() / 220 + 2**-25
        if not bool(((a - b).abs() <= room).all()):
            _refuse(f"the tensor {name} is not the model's", "transformers")


def _compare_tokens(own: Any, other: Any, reader: str) -> None:
    """Raise `ValueError` unless the prompts are the same tokens for both."""
    for text in PROMPTS:
        _same_ids(text, own(text)["input_ids"], other(text)["input_ids"], reader)


def _same_ids(text: str, own: Sequence[int], other: Sequence[int], reader: str) -> None:
    if list(own) != list(other):
        _refuse(f"{text!r} is the tokens {list(own)}, there {list(other)}", reader)


def continued(model: Any, tokenizer: Any, context: int, stop: Stop) -> list[Continued]:
    """What the model greedily writes after each prompt, within its context."""
    begin = [0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id]
    prompts = [(tokenizer(text)["input_ids"] or begin)[: context // 2] for text in PROMPTS]
    new = min(NEW_TOKENS, context - max(map(len, prompts)))
    texts = [list(prompt) for prompt in prompts]
    for step in generate_tokens(model, prompts, Sampling(max_new_tokens=new, do_sample=False)):
        stop.check()
        for text, token in zip(texts, step.tokens.tolist(), strict=True):
            text.append(token)
    return [Continued(*pair) for pair in zip(texts, map(len, prompts), strict=True)]


def compare(model: Any, other: Any, texts: Sequence[Continued], stop: Stop) -> Difference:
    """How far `other` is from the model on texts that the model wrote greedily.

    Both read the same tokens: where all greedy tokens are the same, `other` alone writes them too.
    """
    same = count = positions = 0
    gap = total = largest = 0.0
    for ids, start in texts:
        stop.check()
        own, its = _log_probabilities(model, ids), _log_probabilities(other, ids)
        divergence = (own.exp() * (own - its)).sum(-1)
        positions += len(divergence)
        total += float(divergence.sum())
        largest = float(torch.maximum(torch.tensor(largest).double(), divergence.max()))
        chosen = its[start - 1 :].argmax(-1)
        expected = torch.tensor(ids[start:])
        same += int((chosen == expected).sum())
        count += len(expected)
        gap = max(gap, float((own[start - 1 :].max(-1).values - _at(own, start, chosen)).max()))
    return Difference(count, same, gap, total / positions, largest)


def _ask(
    model: Any, texts: Sequence[Continued], reader: llama_cpp.Reader, stop: Stop
) -> tuple[float, int, int]:
    """The largest distance in log-probability, the same greedy tokens, and how many there are.

    After a token that is another, the two texts are not the same any more: the rest is left out.
    """
    farthest, same, count = 0.0, 0, 0
    for ids, start in texts:
        stop.check()
        own = _log_probabilities(model, ids)[start - 1 :]
        written = reader.greedy(ids[:start], len(ids) - start)
        for row, expected, (token, said) in zip(own, ids[start:], written, strict=False):
            distance = 0.0 if said is None else abs(float(row[token]) - said)
            # How much less probable than its own the model holds it: 0 if it is its own.
            distance = max(distance, float(row.max() - row[token]))
            farthest = distance if not distance <= farthest else farthest
            count += 1
            same += token == expected
            if token != expected:
                break
    return farthest, same, count


def _at(log_probabilities: torch.Tensor, start: int, tokens: torch.Tensor) -> torch.Tensor:
    """Those of some tokens, one for each position from the last of the prompt on."""
    return log_probabilities[start - 1 :].gather(-1, tokens[:, None]).squeeze(-1)


def _log_probabilities(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Of each next token, in fp64 `(T, V)`: after each token but the last."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([ids[:-1]])).logits[0]
    return logits.double().log_softmax(-1)
