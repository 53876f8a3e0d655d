"""Several corpora with a weight each: how much of each an epoch has, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .order import KeyedOrder
from .token_index import IntArray

AT_ONCE = 1 << 20  # positions that are looked at together


class Mixture:
    """The samples of several corpora, one corpus after another; `order` is that of an epoch.

    An epoch has as many samples as all corpora together, of each the share that is its weight: some
    corpora it goes through more than once, of others it has a part. The next epoch goes on there.
    Raises `ValueError` if an epoch would have no sample of a corpus.
    """

    def __init__(self, parts: Sequence[Any], weights: Sequence[float]) -> None:
        """`parts` are `Blocks` or `Rows`."""
        self.parts = parts
        self._stops = np.cumsum([len(part) for part in parts])
        self.draws = _shares(int(self._stops[-1]), weights)
        """Samples of each corpus in an epoch, `(corpora,)`."""
        if not self.draws.all():
            number = int(np.argmin(self.draws))
            raise ValueError(
                f"the weight of corpus {number + 1} is so small that an epoch of {len(self):,} "
                "samples has none of it, give a larger one"
            )

    def __len__(self) -> int:
        return int(self._stops[-1])

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        part = int(np.searchsorted(self._stops, number, side="right"))
        sample: Mapping[str, Any] = self.parts[part][number - self._start(part)]
        return sample

    def _start(self, part: int) -> int:
        return int(self._stops[part - 1]) if part else 0

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sample."""
        return np.concatenate([part.lengths for part in self.parts])

    @property
    def n_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(part.n_tokens for part in self.parts)

    @property
    def n_tokens_left_out(self) -> int:
        """Tokens of the corpora that are in no sample."""
        return sum(part.n_tokens_left_out for part in self.parts)

    @property
    def n_documents(self) -> int:
        """Documents of all corpora."""
        return sum(part.n_documents for part in self.parts)

    @property
    def n_duplicates(self) -> int:
        """Documents that are equal to an earlier one of their corpus."""
        return sum(part.n_duplicates for part in self.parts)

    def order(self, *, seed: int, epoch: int) -> MixedOrder:
        """The order of the samples in an epoch."""
        return MixedOrder([len(part) for part in self.parts], self.draws, seed=seed, epoch=epoch)

    def drawn(self, *, seed: int, epoch: int, position: int) -> list[int]:
        """Samples of each corpus up to a position of an epoch, from the begin of the training."""
        order, counts = self.order(seed=seed, epoch=epoch), epoch * self.draws
        for start in range(0, position, AT_ONCE):
            parts = order.parts_at(np.arange(start, min(start + AT_ONCE, position)))
            counts = counts + np.bincount(parts, minlength=len(self.parts))
        return [int(count) for count in counts]


class MixedOrder:
    """The order of an epoch of a `Mixture`: a function of seed and epoch, without a state.

    A `KeyedOrder` says of which corpus the sample at a position is, and which draw from it; another
    one, for each pass through that corpus, which of its samples that is.
    """

    def __init__(self, sizes: Sequence[int], draws: IntArray, *, seed: int, epoch: int) -> None:
        """`sizes` are the samples of each corpus, `draws` those of it in an epoch."""
        self._sizes, self._draws, self._seed, self._epoch = sizes, draws, seed, epoch
        self._starts = [0, *itertools.accumulate(sizes)]
        self._stops = np.cumsum(draws)
        self._places = KeyedOrder(int(self._stops[-1]), seed=seed, epoch=epoch)
        self._passes: dict[tuple[int, int], KeyedOrder] = {}

    def parts_at(self, positions: IntArray) -> IntArray:
        """Which corpus the samples at these positions are of."""
        parts: IntArray = np.searchsorted(self._stops, self._places[positions], side="right")
        return parts

    def __getitem__(self, position: int) -> int:
        place = self._places[position]
        part = int(np.searchsorted(self._stops, place, side="right"))
        draws = int(self._draws[part])
        draw = self._epoch * draws + place - int(self._stops[part]) + draws
        number_of_pass, index = divmod(draw, self._sizes[part])
        key = part, number_of_pass
        if key not in self._passes:
            self._passes[key] = KeyedOrder(self._sizes[part], seed=self._seed, epoch=number_of_pass)
        return self._starts[part] + self._passes[key][index]


def _shares(n: int, weights: Sequence[float]) -> IntArray:
    """`n` divided by weights, in whole numbers that add up to it."""
    exact = n * np.array(weights) / sum(weights)
    shares = np.floor(exact).astype(np.int64)
    # Those that lost most by rounding get one more.
    shares[np.argsort(shares - exact, kind="stable")[: n - int(shares.sum())]] += 1
    return shares
