"""The order of an epoch: pytest tests/data/test_order.py"""

import math
import tracemalloc
from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft import Batches
from gpt2ft.data.order import KeyedOrder, epoch_order

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 1000)
LARGE = 10**12
GOLDEN = [5, 3, 0, 6, 1, 4, 7, 2, 8, 9]
GOLDEN_OF_LARGE = [952633201207, 389244102304, 417106774868]


def whole(n, *, seed=0, epoch=0, version=2):
    """All of an order, as a list."""
    order = epoch_order(n, seed=seed, epoch=epoch, version=version)
    return np.asarray(order[np.arange(n)]).tolist()


def check_bijection(n, seed):
    order = KeyedOrder(n, seed=seed, epoch=1)
    positions = np.arange(n)
    numbers = order[positions]
    assert np.array_equal(np.sort(numbers), positions)
    assert np.array_equal(order.position_of(numbers), positions)


@pytest.mark.parametrize("first", range(1, 600, 100))
def test_each_sample_once_and_back(first):
    for n in range(first, first + 100):
        check_bijection(n, seed=n)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 5001, 500))
def test_each_sample_once_and_back_at_every_size_to_5000(first):
    for n in range(first, first + 500):
        check_bijection(n, seed=3)


@given(st.integers(1, 10**15), SEEDS, EPOCHS, st.data())
def test_positions_of_any_size(n, seed, epoch, data):
    """One at a time and many together are the same, and both are undone."""
    order = KeyedOrder(n, seed=seed, epoch=epoch)
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True))
    numbers = [order[position] for position in positions]
    assert all(0 <= number < n for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert order[np.array(positions)].tolist() == numbers
    assert [order.position_of(number) for number in numbers] == positions
    assert order.position_of(np.array(numbers)).tolist() == positions


def test_a_trillion_samples_take_no_memory():
    tracemalloc.start()
    order = KeyedOrder(LARGE, seed=1, epoch=2)
    numbers = order[np.random.default_rng(0).integers(0, LARGE, 10_000)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20
    assert numbers.min() >= 0 and numbers.max() < LARGE
    assert abs(numbers.mean() / LARGE - 0.5) < 0.02  # seven standard deviations


def test_checkpoints_depend_on_these_values():
    """Another order under the same version would spoil runs that are resumed."""
    assert whole(10, seed=42, epoch=0) == GOLDEN
    assert [KeyedOrder(LARGE, seed=42, epoch=3)[i] for i in range(3)] == GOLDEN_OF_LARGE


def test_the_first_version_is_numpys():
    expected = np.random.default_rng([5, 2]).permutation(100).tolist()
    assert whole(100, seed=5, epoch=2, version=1) == expected
    for version in (-1, 3, "2", None):
        with pytest.raises(ValueError, match="this program knows 1 and 2"):
            epoch_order(3, seed=0, epoch=0, version=version)
        with pytest.raises(ValueError, match="this program knows 1 and 2"):
            Batches([], list, batch_size=1, order=version)


@given(st.integers(0, 300), SEEDS, EPOCHS, st.sampled_from([1, 2]), st.integers(0, 2**32 - 1))
def test_any_order_is_a_permutation_without_a_state(n_samples, seed, epoch, version, other):
    """Neither numpy's global generator nor other orders move it, and it moves neither."""
    np.random.seed(other)
    order = whole(n_samples, seed=seed, epoch=epoch, version=version)
    drawn = np.random.random()
    assert sorted(order) == list(range(n_samples))
    whole(n_samples, seed=other, epoch=epoch)
    assert whole(n_samples, seed=seed, epoch=epoch, version=version) == order
    np.random.seed(other)
    assert np.random.random() == drawn


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2))
def test_no_two_places_share_an_order(places):
    """Seed 0 in epoch 1 is neither seed 1 in epoch 0, nor the same order begun elsewhere."""
    orders = {tuple(whole(30, seed=seed, epoch=epoch)) for seed, epoch in places}
    following = {frozenset(pairwise((*order, order[0]))) for order in orders}
    assert len(following) == len(places)


@pytest.mark.parametrize("n", [3, 5])
def test_every_order_is_equally_likely(n):
    """Chi-square of 2,400 orders; a shuffle that is off by one gives some too often."""
    orders = (KeyedOrder(n, seed=seed, epoch=epoch) for seed in range(40) for epoch in range(60))
    found = Counter(tuple(order[position] for position in range(n)) for order in orders)
    expected = 2400 / math.factorial(n)
    chi_square = sum((found[p] - expected) ** 2 / expected for p in permutations(range(n)))
    freedom = math.factorial(n) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [100, 10_000])
def test_it_shuffles_as_a_uniform_permutation_does(n):
    """How far samples move (n / 3 on average), and whether neighbours stay near each other."""
    moved, near = [], []
    for epoch in range(30):
        order = np.array(whole(n, epoch=epoch))
        moved.append(np.abs(order - np.arange(n)).mean() / n)
        near.append(np.corrcoef(order[:-1], order[1:])[0, 1])
    deviation = 1 / math.sqrt(30 * n)
    assert abs(np.mean(moved) - 1 / 3) < 2 * deviation
    assert abs(np.mean(near)) < 5 * deviation


def test_places_that_do_not_exist():
    order = KeyedOrder(5, seed=0, epoch=0)
    for wrong in (-1, 5):
        for ask in (order.__getitem__, order.position_of):
            with pytest.raises(IndexError):
                ask(wrong)
            with pytest.raises(IndexError):
                ask(np.array([0, wrong]))
    with pytest.raises(ValueError, match="from 0 to"):
        KeyedOrder(-1, seed=0, epoch=0)
