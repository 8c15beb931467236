"""Krum, Multi-Krum and Bulyan, which choose updates that have others near to them.

Krum and Multi-Krum: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
NeurIPS. Bulyan: El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium",
arXiv:1802.07927.

Flower's take distances of whole models in float32, where small updates are lost in rounding; its MultiKrum weighs by
examples, its Bulyan selects all at once, and none refuses what cannot withstand anybody.
"""

from dataclasses import dataclass

import numpy as np

from fl_bench.distances import squared_distances
from fl_bench.robust.base import Floats, Told, Tolerant


def scores(distances: Floats, malicious: int) -> Floats:
    """Krum's score of each client [n]: how far the n - f - 2 others are that are nearest, by squared distances [n, n].

    Examples:
        >>> at = np.array([0.0, 1.0, 3.0, 9.0, 9.5])
        >>> scores((at[:, None] - at) ** 2, malicious=1)
        array([10.  ,  5.  , 13.  , 36.25, 42.5 ])
    """
    others = distances[~np.eye(len(distances), dtype=bool)].reshape(len(distances), -1)
    near: Floats = np.sort(others, axis=1)[:, : max(1, len(distances) - malicious - 2)].sum(axis=1)
    return near


@dataclass
class Krum(Tolerant):
    """The update of the lowest score."""

    @property
    def least(self) -> int:
        """2 f + 3, as in the paper."""
        return 2 * self.num_malicious + 3

    def combine(self, updates: Floats, told: Told) -> Floats:
        best: Floats = updates[scores(squared_distances(updates), self.num_malicious).argmin()]
        return best


@dataclass
class MultiKrum(Krum):
    """The mean of the updates of the lowest scores."""

    num_selected: int | None  # None: all but as many as may be malicious

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_selected is not None and self.num_selected < 1:
            raise ValueError(f"num_selected={self.num_selected}: must be 1 or more")

    @property
    def least(self) -> int:
        """2 f + 3, as in the paper, and so many honest ones that all who are selected can be."""
        return max(super().least, self.num_malicious + (self.num_selected or 0))

    def combine(self, updates: Floats, told: Told) -> Floats:
        number = self.num_selected or len(updates) - self.num_malicious
        chosen = np.argsort(scores(squared_distances(updates), self.num_malicious), kind="stable")[:number]
        mean: Floats = updates[np.sort(chosen)].mean(axis=0)
        return mean


@dataclass
class Bulyan(Tolerant):
    """Krum selects n - 2 f, one after the other; of each number the mean of the n - 4 f nearest to their median."""

    @property
    def least(self) -> int:
        """4 f + 3, as in the paper."""
        return 4 * self.num_malicious + 3

    def combine(self, updates: Floats, told: Told) -> Floats:
        distances = squared_distances(updates)
        chosen: list[int] = []
        left = np.arange(len(updates))
        while len(chosen) < len(updates) - 2 * self.num_malicious:
            best = scores(distances[np.ix_(left, left)], self.num_malicious).argmin() if len(left) > 1 else 0
            chosen.append(left[best])
            left = np.delete(left, best)
        return nearest_to_median(updates[sorted(chosen)], len(chosen) - 2 * self.num_malicious)


def nearest_to_median(rows: Floats, number: int) -> Floats:
    """Of each column the mean of so many values that are nearest to its median: from [n, N] to [N].

    Examples:
        >>> nearest_to_median(np.array([[0.0], [4.0], [5.0], [90.0]]), 2)
        array([4.5])
    """
    order = np.argsort(np.abs(rows - np.median(rows, axis=0)), axis=0, kind="stable")[:number]
    mean: Floats = np.take_along_axis(rows, np.sort(order, axis=0), axis=0).mean(axis=0)
    return mean
