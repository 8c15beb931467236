"""Rules that look at each number by itself: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", arXiv:1803.01498.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from fl_bench.robust.base import Combination, Floats, Told


@dataclass
class Median(Combination):
    """The median of each number."""

    def combine(self, updates: Floats, told: Told) -> Floats:
        median: Floats = np.median(updates, axis=0)
        return median


@dataclass
class TrimmedMean(Combination):
    """The mean of each number without the `beta` * n highest and lowest; 0: without none."""

    beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 0.5:
            raise ValueError(f"beta={self.beta}: must be from 0 to below 0.5")

    @property
    def least(self) -> int:
        """So many that `beta` of them is one."""
        return ceil(1 / self.beta) if self.beta else 1

    def combine(self, updates: Floats, told: Told) -> Floats:
        cut = max(1, int(self.beta * len(updates))) if self.beta else 0  # 1: 1/49 * 49 is below it
        mean: Floats = np.sort(updates, axis=0)[cut : len(updates) - cut].mean(axis=0)
        return mean
