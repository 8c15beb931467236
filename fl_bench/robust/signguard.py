"""SignGuard: Xu et al. 2022, "Byzantine-robust Federated Learning through Collaborative Malicious Gradient Filtering",
arXiv:2109.05872, algorithm 2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_bench.robust.base import Combination, Floats, Told
from fl_bench.robust.clipping import shortened


@dataclass
class SignGuard(Combination):
    """The mean of updates that are neither too long nor too short, and whose signs are like those of most.

    That is by their length in lengths of the median one, and by mean shift on the shares of positive, zero and negative
    numbers, of a `share` of them drawn by lot: the largest cluster stays. Who is longer than the median is shortened.
    """

    share: float
    shortest: float  # the paper's L
    longest: float  # the paper's R

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: must be more than 0 and at most 1")
        if not 0 <= self.shortest <= 1:
            raise ValueError(f"shortest={self.shortest}: must be from 0 to 1")
        if not self.longest >= 1:
            raise ValueError(f"longest={self.longest}: must be 1 or more")

    def combine(self, updates: Floats, told: Told) -> Floats | None:
        lengths = np.linalg.norm(updates, axis=1)
        usual = float(np.median(lengths))
        drawn = told.draws.permutation(updates.shape[1])[: max(1, round(self.share * updates.shape[1]))]
        kept = (self.shortest * usual <= lengths) & (lengths <= self.longest * usual)
        kept &= like_most(np.sign(updates[:, np.sort(drawn)]))
        return np.mean([shortened(update, usual) for update in updates[kept]], axis=0) if kept.any() else None


def like_most(signs: Floats) -> NDArray[np.bool_]:
    """Which of these rows of signs [n, b] are in the largest cluster by their shares of 1, 0 and -1.

    Examples:
        >>> like_most(np.array([[1.0, -1, 1, -1], [1, 1, -1, -1], [-1, -1, -1, -1]])).tolist()
        [True, True, False]
    """
    from sklearn.cluster import MeanShift, estimate_bandwidth  # half a second

    shares = np.stack([(signs == sign).mean(axis=1) for sign in (1, 0, -1)], axis=1)
    width = estimate_bandwidth(shares, quantile=0.5)
    if not width:  # most are alike
        width = 1e-6
    labels = MeanShift(bandwidth=width).fit(shares).labels_
    found: NDArray[np.bool_] = labels == np.bincount(labels).argmax()
    return found
