"""FLAME: Nguyen et al. 2022, "FLAME: Taming Backdoors in Federated Learning", USENIX Security, arXiv:2101.02281,
algorithm 1.
"""

from dataclasses import dataclass

import numpy as np

from fl_bench.robust.base import Combination, Floats, Told
from fl_bench.robust.clipping import shortened


@dataclass
class Flame(Combination):
    """The mean of those whose directions lie together, which must be more than half; shortened to the median length.

    The directions are clustered by HDBSCAN, with cosine distances. Noise, N(0, (`noise` * median length)^2), is added
    to each number of the mean.
    """

    noise: float  # the paper's lambda

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError(f"noise={self.noise}: must be 0 or more")

    @property
    def least(self) -> int:
        """Fewer make no cluster."""
        return 3

    def combine(self, updates: Floats, told: Told) -> Floats | None:
        from sklearn.cluster import HDBSCAN  # half a second

        lengths = np.linalg.norm(updates, axis=1)
        directions = updates / np.where(lengths > 0, lengths, 1)[:, None]
        apart = np.clip(1 - directions @ directions.T, 0, 2)
        np.fill_diagonal(apart, 0)
        half = len(updates) // 2 + 1
        found = HDBSCAN(
            min_cluster_size=half, min_samples=1, allow_single_cluster=True, metric="precomputed", copy=True
        )
        kept = found.fit(apart).labels_ == 0  # two clusters of more than half there cannot be
        if not kept.any():
            return None
        usual = float(np.median(lengths))
        mean: Floats = np.mean([shortened(update, usual) for update in updates[kept]], axis=0)
        return mean + self.noise * usual * told.draws.standard_normal(len(mean)) if self.noise else mean
