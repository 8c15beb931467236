"""Divide and conquer: Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine", NDSS, algorithm 2."""

from dataclasses import dataclass

import numpy as np

from fl_bench.build import positive
from fl_bench.robust.base import Floats, Told, Tolerant


@dataclass
class DivideAndConquer(Tolerant):
    """The mean of those that do not stand out along the direction in which updates vary most.

    That is looked at on `numbers` of the numbers, drawn by lot; `cut` * f are left out each time, and who has been left
    out in one of the `iterations` is left out.
    """

    iterations: int
    numbers: int
    cut: float  # the paper's c

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(iterations=self.iterations, numbers=self.numbers)
        if not 0 < self.cut <= 2:
            raise ValueError(f"cut={self.cut}: must be more than 0 and at most 2")

    def combine(self, updates: Floats, told: Told) -> Floats | None:
        kept = np.ones(len(updates), bool)
        for _ in range(self.iterations):
            drawn = told.draws.permutation(updates.shape[1])[: self.numbers]
            out = outliers(updates[:, np.sort(drawn)])
            kept[np.argsort(out, kind="stable")[len(updates) - int(self.cut * self.num_malicious) :]] = False
        return updates[kept].mean(axis=0) if kept.any() else None


def outliers(rows: Floats) -> Floats:
    """How far each of the rows [n, b] is from their mean, along their first singular vector and squared [n].

    Examples:
        >>> outliers(np.array([[0.0, 1.0], [0.0, -1.0], [4.0, 0.0], [-4.0, 0.0]])).round(9)
        array([ 0.,  0., 16., 16.])
    """
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)  # of n rows, and not of b numbers
    squared: Floats = values[-1] * vectors[:, -1] ** 2
    return squared
