"""RFA: Pillutla et al. 2022, "Robust Aggregation for Federated Learning", arXiv:1912.13445, algorithm 2."""

from dataclasses import dataclass

import numpy as np

from fl_bench.build import positive
from fl_bench.robust.base import Combination, Floats, Told


@dataclass
class GeometricMedian(Combination):
    """Where the distances to the updates add up to the least: `iterations` of Weiszfeld's method from their mean.

    In the paper clients weigh by their examples, which they say themselves; here each counts once.
    """

    iterations: int
    smoothing: float  # distances below count as this

    def __post_init__(self) -> None:
        positive(iterations=self.iterations)
        if not self.smoothing > 0:
            raise ValueError(f"smoothing={self.smoothing}: must be a positive number")

    def combine(self, updates: Floats, told: Told) -> Floats:
        middle: Floats = updates.mean(axis=0)
        for _ in range(self.iterations):
            weights = 1 / np.maximum(self.smoothing, np.linalg.norm(updates - middle, axis=1))
            middle = weights @ updates / weights.sum()
        return middle
