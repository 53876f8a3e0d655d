"""Micro-batches: what the loop is given, which of them a step has, and which of those are ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch

from .parallel import processes

Batch = Mapping[str, torch.Tensor]


class Data(Protocol):
    """Micro-batches as a function of epoch and index: a place in the data is two numbers."""

    def __len__(self) -> int:
        """Micro-batches of an epoch."""

    def __getitem__(self, position: tuple[int, int]) -> Batch:
        """The micro-batch at (epoch, index): CPU tensors, at least `input_ids`, `labels` (B, T)."""

    def sample_numbers(self, epoch: int, index: int) -> Iterable[int]:
        """Which samples of the corpus that micro-batch holds."""


def next_batches(data: Data, start: int, n: int) -> range:
    """Numbers of the next `n` micro-batches, or fewer at the end of an epoch; counted over all."""
    end_of_epoch = (start // len(data) + 1) * len(data)
    return range(start, min(start + n, end_of_epoch))


def own_part(batches: range) -> range:
    """Which of a step's micro-batches this process computes: as many as each other, or fewer."""
    most = -(-len(batches) // processes.size())
    return batches[processes.rank() * most :][:most]


def fetch(data: Data, batches: range, device: torch.device) -> list[Batch]:
    """The micro-batches of these numbers; for CUDA pinned, so that copying does not wait."""
    fetched = [data[divmod(number, len(data))] for number in batches]
    if device.type == "cuda":
        fetched = [{k: v.pin_memory() for k, v in batch.items()} for batch in fetched]
    return fetched


def step_samples(data: Data, batches: range) -> list[int]:
    """Numbers of the samples in the micro-batches of these numbers, counted over all epochs."""
    places = [divmod(number, len(data)) for number in batches]
    return [int(number) for place in places for number in data.sample_numbers(*place)]
