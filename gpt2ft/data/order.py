"""The order of an epoch, as a function: which sample is at a position, and where a sample is."""

from __future__ import annotations

import hashlib
import math
import operator
import struct
from collections.abc import Callable
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

ORDER = 2
"""Version of the order of new runs."""
IN_TURN = 0
"""Not an order of its own: samples as they come."""
ROUNDS = 8
LEAST_SIDE = 16
LARGEST = 2**62
UINT64 = 2**64 - 1


class Order(Protocol):
    """Which sample is at a position of an epoch; an array of the samples' numbers is one, too."""

    def __getitem__(self, position: int, /) -> Any: ...


def epoch_order(n_samples: int, *, seed: int, epoch: int, version: int = ORDER) -> Order:
    """The order of the samples in an epoch: a function of these arguments, without a state.

    Version 2 is a `KeyedOrder`. Version 1 is for runs that began before there was another: numpy's
    permutation, which takes 8 bytes a sample. Version 0 is `IN_TURN`: the samples as they come, for
    a `Stream`, which has its own order. Raises `ValueError` for other versions.
    """
    check_version(version)
    if version == IN_TURN:
        return range(n_samples)
    if version == 1:
        permutation: IntArray = np.random.default_rng([seed, epoch]).permutation(n_samples)
        return permutation
    return KeyedOrder(n_samples, seed=seed, epoch=epoch)


def check_version(version: int) -> None:
    """Raise `ValueError` if there is no such version of the order."""
    if version not in (IN_TURN, 1, ORDER):
        raise ValueError(
            f"the order of the data has version {version!r}, this program knows 1 and {ORDER}: "
            "update gpt2ft"
        )


class KeyedOrder:
    """A permutation of `n_samples` numbers that is computed where it is asked for.

    `order[position]` is the number of the sample at a position, `order.position_of(number)` the
    position of a sample. Both take an integer, or an array `(B,)` of them, and raise `IndexError`
    for one outside `range(n_samples)`. Neither memory nor time grows with the number of samples,
    and the result is the same on every platform.

    This is a Feistel network over pairs of residues, with cycle walking: J. Black and P. Rogaway,
    "Ciphers with arbitrary finite domains", CT-RSA 2002. A number below a * b is a pair of halves.
    A round adds to one half a function of the other half and of a key, which can be undone. Where
    the result is not below `n_samples`, it goes through the rounds again; as a and b are near the
    square root of `n_samples`, this is rare.
    """

    def __init__(self, n_samples: int, *, seed: int, epoch: int) -> None:
        if not 0 <= n_samples <= LARGEST:
            raise ValueError(f"{n_samples} samples have no order, give a number from 0 to 2**62")
        self._n = int(n_samples)
        # Smaller halves would need more rounds until every order is equally likely.
        self._a = max(LEAST_SIDE, math.isqrt(max(0, self._n - 1)) + 1)
        self._b = max(LEAST_SIDE, -(-self._n // self._a))
        words = f"gpt2ft order {ORDER}: {self._n} {int(seed)} {int(epoch)}"
        digest = hashlib.shake_256(words.encode()).digest(8 * ROUNDS)
        keys = struct.unpack(f"<{ROUNDS}Q", digest)
        self._keys = list(zip(keys[::2], keys[1::2], strict=True))

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, position: int, /) -> int: ...
    @overload
    def __getitem__(self, position: IntArray, /) -> IntArray: ...
    def __getitem__(self, position: int | IntArray, /) -> int | IntArray:
        return self._walk(self._forward, position)

    @overload
    def position_of(self, number: int) -> int: ...
    @overload
    def position_of(self, number: IntArray) -> IntArray: ...
    def position_of(self, number: int | IntArray) -> int | IntArray:
        """The position in the epoch of the sample with this number."""
        return self._walk(self._backward, number)

    def _walk(self, step: Callable[[Any], Any], start: int | IntArray) -> int | IntArray:
        """Go from number to number until one is that of a sample."""
        if isinstance(start, np.ndarray):
            if start.size and not (start.min() >= 0 and start.max() < self._n):
                raise IndexError(f"{start} is not all within an order of {self._n}")
            numbers: npt.NDArray[np.uint64] = step(start.astype(np.uint64))
            while (outside := numbers >= self._n).any():
                numbers[outside] = step(numbers[outside])
            return numbers.astype(np.int64)
        if not 0 <= start < self._n:
            raise IndexError(f"{start} is not within an order of {self._n}")
        number: int = step(operator.index(start))
        while number >= self._n:
            number = step(number)
        return number

    def _forward(self, number: Any) -> Any:
        a, b = self._a, self._b
        left, right = number % a, number // a
        for left_key, right_key in self._keys:
            left = (left + _mixed(right ^ left_key) % a) % a
            right = (right + _mixed(left ^ right_key) % b) % b
        return left + right * a

    def _backward(self, number: Any) -> Any:
        a, b = self._a, self._b
        left, right = number % a, number // a
        for left_key, right_key in reversed(self._keys):
            right = (right + (b - _mixed(left ^ right_key) % b)) % b
            left = (left + (a - _mixed(right ^ left_key) % a)) % a
        return left + right * a


def _mixed(x: Any) -> Any:
    """All 64 bits of a number, mixed: the last part of splitmix64 (Steele, Lea, Flood 2014).

    Written for integers of Python and arrays of numpy alike; the mask is for the former.
    """
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & UINT64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & UINT64
    return x ^ (x >> 31)
