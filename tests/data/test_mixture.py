"""pytest tests/data/test_mixture.py"""

from collections import Counter
from itertools import accumulate

import pytest

from gpt2ft import Batches
from gpt2ft.data.mixture import Mixture


class Numbers:
    """Samples that are their own numbers."""

    def __init__(self, n, first=0):
        self.n, self.first = n, first

    def __len__(self):
        return self.n

    def __getitem__(self, number):
        assert 0 <= number < self.n
        return self.first + number


def epoch(mixture, number, seed=3):
    order = mixture.order(seed=seed, epoch=number)
    return [mixture[order[position]] for position in range(len(mixture))]


@pytest.mark.parametrize(
    ("sizes", "weights", "draws"),
    [
        *(([60, 40], [0.7, 0.3], [70, 30]), ([60, 40], [7, 3], [70, 30])),
        *(([5, 95], [0.5, 0.5], [50, 50]), ([1, 1, 1], [1, 1, 1], [1, 1, 1])),
        *(([9, 1], [1, 2], [3, 7]), ([100], [0.2], [100])),
    ],
)
def test_an_epoch_has_the_shares_of_the_weights(sizes, weights, draws):
    firsts = [0, *accumulate(sizes)]
    mixture = Mixture([Numbers(n, first) for n, first in zip(sizes, firsts, strict=False)], weights)
    assert len(mixture) == sum(sizes) and mixture.draws.tolist() == draws
    seen = [Counter() for _ in sizes]
    for number in range(8):
        for sample in epoch(mixture, number):
            part = max(i for i, first in enumerate(firsts[:-1]) if sample >= first)
            seen[part][sample] += 1
        counts = [sum(counter.values()) for counter in seen]
        assert counts == [(number + 1) * n for n in draws]
        for counter, size in zip(seen, sizes, strict=True):  # whole passes, one after another
            assert len(counter) == min(size, sum(counter.values()))
            assert (
                max(counter.values()) - min([*counter.values(), *[0] * (len(counter) < size)]) <= 1
            )


def test_the_order_is_a_function_of_seed_and_epoch():
    mixture = Mixture([Numbers(300), Numbers(200, 1000)], [0.25, 0.75])
    assert epoch(mixture, 4) == epoch(mixture, 4) != epoch(mixture, 5)
    assert epoch(mixture, 4, seed=4) != epoch(mixture, 4)
    order = mixture.order(seed=3, epoch=4)
    assert [mixture[order[p]] for p in (499, 7, 0)] == [epoch(mixture, 4)[p] for p in (499, 7, 0)]


def test_corpora_are_spread_over_the_epoch():
    mixture = Mixture([Numbers(500), Numbers(500, 1000)], [0.5, 0.5])
    order = epoch(mixture, 0)
    assert all(150 < sum(n >= 1000 for n in order[i : i + 400]) < 250 for i in (0, 300, 600))


@pytest.mark.parametrize("position", [0, 1, 37, 100])
def test_what_was_drawn_is_counted(position):
    mixture = Mixture([Numbers(60), Numbers(40, 1000)], [0.7, 0.3])
    before = epoch(mixture, 0) + epoch(mixture, 1) + epoch(mixture, 2)[:position]
    expected = [sum(n < 1000 for n in before), sum(n >= 1000 for n in before)]
    assert mixture.drawn(seed=3, epoch=2, position=position) == expected


def test_batches_take_that_order():
    mixture = Mixture([Numbers(6), Numbers(4, 1000)], [0.2, 0.8])
    data = Batches(mixture, list, batch_size=4, seed=3)
    assert [n for i in range(3) for n in data[5, i]] == epoch(mixture, 5)


def test_a_weight_so_small_that_nothing_is_drawn():
    with pytest.raises(ValueError, match="the weight of corpus 2 is so small"):
        Mixture([Numbers(6), Numbers(4)], [1, 1e-6])
