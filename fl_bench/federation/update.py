"""Updates that add up exactly, so that the mean has the same bits whoever summed which clients, in any order.

A sum of weight * (w - start) is kept in 64-bit fixed point, where addition is associative. The unit is
2**-FRACTION_BITS of the total weight: with K clients the mean is off by at most K * 2**-(FRACTION_BITS + 1), which
is 3e-12 for 100 clients, where float32 addition alone loses 6e-8 of every weight. One client alone is not
converted at all: the mean over one client is that client, to the bit.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 44
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
        if a is None:
            return b
        return Update(self._fixed(a) + self._fixed(b), a.weight + b.weight)

    def mean(self, update: Update) -> NDArray[np.float32]:
        if update.values.dtype != np.int64:
            return update.values
        return (self.start + update.values / (update.weight * self.scale)).astype(np.float32)

    def _fixed(self, update: Update) -> NDArray[np.int64]:
        if update.values.dtype == np.int64:
            return update.values
        difference = update.values.astype(np.float64)
        difference -= self.start
        difference *= update.weight * self.scale
        return np.rint(difference, out=difference).astype(np.int64)
