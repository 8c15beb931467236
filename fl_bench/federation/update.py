"""Updates that add up exactly, so that the mean has the same bits whoever summed which clients, in any order.

A sum of weight * (w - start) is kept in 64-bit fixed point, where addition is associative. The unit is
2**-FRACTION_BITS of a bound on the total weight, which is the largest client's times how many take part: it can be
known where nobody says what it weighs. With K clients the mean is off by at most K * 2**-(FRACTION_BITS + 1) times
bound / weight, which is 3e-12 for 100 equal clients, where float32 addition alone loses 6e-8 of every weight. One
client alone is not converted at all: the mean over one client is that client, to the bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 44
BLOCK = 2**16  # numbers
LARGEST = 2.0**18  # of |w - start|: keeps the sum below 2**62


class Diverged(FloatingPointError):
    """A client's numbers have left the range in which they can be added."""


class Update(NamedTuple):
    """The models of one or more clients, ready to be added."""

    values: NDArray  # float32 [P]: the parameters of one client; int64 [P]: the fixed-point sum over several
    weight: int


@dataclass(frozen=True)
class ExactMean:
    """Adds updates that started from the same parameters; `weight_bound` is at least the sum of their weights."""

    start: NDArray[np.float32]  # [P]
    weight_bound: int

    @property
    def scale(self) -> float:
        """Fixed-point units per unit of weight * (w - start), a power of two."""
        return 2.0 ** (FRACTION_BITS - (self.weight_bound - 1).bit_length())

    def add(self, a: Update | None, b: Update) -> Update:
        """The sum of both, for which `a` is used up; it is as before where Diverged is raised, since numbers of `b`
        are too large, or none at all.
        """
        if a is None:
            check_size(b.values, self.start)
            return Update(b.values.copy(), b.weight)
        total = a.values if a.values.dtype == np.int64 else self.converted(a)
        weight = b.weight * self.scale
        if b.values.dtype == np.int64:
            total += b.values
            return Update(total, a.weight + b.weight)
        done = 0
        try:
            for into, values, start in _blocks(total, b.values, self.start):
                into += _fixed(values, start, weight)
                done += 1
        except Diverged:  # to look at all numbers beforehand would be a pass more for everybody
            for into, values, start in islice(_blocks(total, b.values, self.start), done):
                into -= _fixed(values, start, weight)
            raise
        return Update(total, a.weight + b.weight)

    def mean(self, update: Update) -> NDArray[np.float32]:
        if update.values.dtype != np.int64:
            return update.values
        mean = np.empty_like(self.start)
        for into, values, start in _blocks(mean, update.values, self.start):
            into[:] = start + values / (update.weight * self.scale)
        return mean

    def converted(self, update: Update) -> NDArray[np.int64]:
        """An update's values in fixed point. Raises Diverged."""
        return self.add(Update(np.zeros(len(self.start), np.int64), 0), update).values


def check_size(values: NDArray, start: NDArray[np.float32]) -> None:
    """Raise Diverged where a client's |values - start| is not less than LARGEST.

    Sums have passed this before, and the bytes of an opaque model have no size.
    """
    if values.dtype in (np.int64, np.uint8):
        return
    for value, first in _blocks(values, start):
        _difference(value, first)


def _fixed(values: NDArray[np.float32], start: NDArray[np.float32], weight: float) -> NDArray[np.int64]:
    difference = _difference(values, start)
    difference *= weight
    return np.rint(difference, out=difference).astype(np.int64)


def _difference(values: NDArray[np.float32], start: NDArray[np.float32]) -> NDArray[np.float64]:
    difference = np.subtract(values, start, dtype=np.float64)
    largest = max(difference.max(), -difference.min())
    if not largest < LARGEST:
        raise Diverged(f"its largest change of a weight is {largest}")
    return difference


def _blocks(*vectors: NDArray) -> Iterator[tuple[NDArray, ...]]:
    """Pieces of equally long vectors that stay in the cache while one operation follows the other."""
    for start in range(0, len(vectors[0]), BLOCK):
        yield tuple(vector[start : start + BLOCK] for vector in vectors)
