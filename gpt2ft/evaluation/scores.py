"""What a model makes of a text: loss, accuracy and bits per byte, and of each part of the text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.batches import Batches
from ..data.collate import IGNORED
from ..data.token_index import IntArray
from ..loop import Batch, evaluate
from ..models.probe import plain_head
from ..parallel import processes
from ..parallel.sharding import with_whole_weights
from ..precision import Precision
from .token_bytes import token_bytes

ROWS_AT_ONCE = 512  # of logits
FEWEST_DOCUMENTS = 30  # of which units are made; with fewer they are blocks
MOST_UNITS = 1000


@dataclass(frozen=True)
class Units:
    """Parts of a text: what a bootstrap draws. Each array is `(U,)`."""

    kind: str
    """`documents`; where there are few of them, the samples: `blocks`, `rows` or `windows`."""
    losses: list[float]
    """Sum of the losses in each, nats."""
    n_targets: list[int]
    n_bytes: list[int]
    numbers: list[int] = field(default_factory=list)
    """Which document or sample each is, or the first of those that were put together."""


@dataclass(frozen=True)
class Score:
    """What a model makes of a text; means over all its targets, never means of means."""

    loss: float
    """Nats per token."""
    n_targets: int
    """Tokens predicted."""
    accuracy: float
    """Share of them that had the highest probability."""
    n_bytes: int
    """Bytes of text that these tokens stand for."""
    units: Units

    @property
    def perplexity(self) -> float:
        return math.inf if self.loss > 700 else math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Of the text itself: can be compared between tokenizers."""
        return self.loss * self.n_targets / math.log(2) / max(1, self.n_bytes)

    def as_record(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {
            "eval_loss": self.loss,
            "eval_perplexity": self.perplexity,
            "n_targets": self.n_targets,
            "accuracy": self.accuracy,
            "bits_per_byte": self.bits_per_byte,
            "n_bytes": self.n_bytes,
            "units": vars(self.units),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Score | None:
        """Of a record of metrics.jsonl; None if it has no evaluation, or one of another version."""
        if record.get("eval_loss") is None or "units" not in record:
            return None
        numbers = {name: record[name] for name in ("n_targets", "accuracy", "n_bytes")}
        return cls(record["eval_loss"], units=Units(**record["units"]), **numbers)


def token_scores(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each next token of a batch, nats, and whether it was the most probable.

    Both are `(B, T - 1)`, 0 where the label is masked. The logits never exist whole, where the
    model's head is a plain matrix product: some rows at a time are computed, as in training.
    """
    inputs: dict[str, Any] = {name: x for name, x in batch.items() if name != "labels"}
    inputs["use_cache"] = False  # see `loss.causal_lm_loss`
    labels = batch["labels"][:, 1:]
    targets = labels.flatten()
    chosen = (targets != IGNORED).nonzero().squeeze(1)

    def in_pieces() -> tuple[torch.Tensor, torch.Tensor]:
        head = plain_head(model)
        if head is None:
            rows = model(**inputs).logits[:, :-1].flatten(0, 1)
        else:
            rows = model.base_model(**inputs).last_hidden_state[:, :-1].flatten(0, 1)
        losses = torch.zeros(len(targets), device=targets.device)
        hits = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
        for part in chosen.split(ROWS_AT_ONCE):
            logits = rows[part] if head is None else F.linear(rows[part], head)
            logits = logits.float()
            losses[part] = F.cross_entropy(logits, targets[part], reduction="none")
            hits[part] = logits.argmax(-1) == targets[part]
        return losses.view(labels.shape), hits.view(labels.shape)

    return with_whole_weights(model, in_pieces)


def score(
    model: torch.nn.Module,
    data: Batches,
    tokenizer: Any,
    *,
    precision: Precision,
    on_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Score a model on one epoch of `data`, whose token ids are those of `tokenizer`.

    Leaves training undisturbed. Where several processes train, all must call it. Raises
    `NoTargetsError` if there is nothing to predict.
    """
    collector = _Collector(data, token_bytes(tokenizer))
    evaluate(model, data, precision=precision, loss_fn=collector, on_batch=on_batch)
    return collector.result()


class _Collector:
    """A loss function that keeps sums for each part of the text, as `evaluate` comes to it."""

    def __init__(self, data: Batches, sizes: IntArray) -> None:
        self._data, self._sizes = data, sizes
        self._next = processes.rank()  # number of the batch that is computed next
        self._parts: list[list[float]] = []
        """Sample, document, targets, bytes, hits, loss."""

    def __call__(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        losses, hits = token_scores(model, batch)
        if self._next < len(self._data):  # a process of a divided model may compute for others
            numbers = self._data.sample_numbers(0, self._next)
            columns = (batch["labels"][:, 1:].cpu(), losses.cpu(), hits.cpu())
            for number, *row in zip(numbers, *columns, strict=True):
                self._add(int(number), *(column.numpy() for column in row))
            self._next += processes.size()
        return losses.sum()

    def _add(self, number: int, labels: Any, losses: Any, hits: Any) -> None:
        """Take in one sample: labels, losses and hits of its targets, `(T - 1,)`."""
        places = np.flatnonzero(labels != IGNORED)
        found, document = np.unique(self._documents(number, places), return_inverse=True)
        columns = (
            np.bincount(document),
            np.bincount(document, self._sizes[labels[places]]),
            np.bincount(document, hits[places]),
            np.bincount(document, losses[places].astype(np.float64)),
        )
        for one, *sums in zip(found.tolist(), *(c.tolist() for c in columns), strict=True):
            self._parts.append([number, one, *sums])

    def _documents(self, number: int, places: IntArray) -> IntArray:
        """Which document each target of a sample belongs to."""
        samples: Any = self._data.samples
        if not hasattr(samples, "documents"):  # a sample is one
            return np.full(len(places), number)
        of_tokens: IntArray = samples.documents(number)
        return of_tokens[1:][places]

    def result(self) -> Score:
        """The score, from the parts of all processes: the same bits however many there are."""
        texts = processes.gather_text(json.dumps(self._parts))
        parts = sorted(part for text in texts for part in json.loads(text))
        n, n_bytes, hits, loss = (sum(part[i] for part in parts) for i in (2, 3, 4, 5))
        n, n_bytes = int(n), int(n_bytes)
        n_documents = len({part[1] for part in parts})
        by_document = n_documents >= FEWEST_DOCUMENTS
        kind = "documents" if by_document else type(self._data.samples).__name__.lower()
        units = _units(parts, kind, 1 if by_document else 0)
        return Score(loss / n, n, hits / n, n_bytes, units)


def _units(parts: list[list[float]], kind: str, column: int) -> Units:
    """The parts added up by document or sample; of very many, neighbours are added together."""
    keys, unit = np.unique([part[column] for part in parts], return_inverse=True)
    together = -(-len(keys) // MOST_UNITS)
    unit = unit // together
    n, n_bytes, losses = (np.bincount(unit, [part[i] for part in parts]) for i in (2, 3, 5))
    return Units(
        kind,
        losses=[round(x, 5) for x in losses.tolist()],
        n_targets=[int(x) for x in n],
        n_bytes=[int(x) for x in n_bytes],
        numbers=[int(key) for key in keys[::together]],
    )
