"""FLTrust: Cao et al. 2021, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS,
arXiv:2012.13995, algorithm 2.
"""

from dataclasses import dataclass

import numpy as np

from fl_bench.build import positive
from fl_bench.robust.base import Combination, Floats, Told


@dataclass
class FLTrust(Combination):
    """A mean of updates as long as the server's own, which is made of a root set; each weighs by its cosine with that.

    A negative cosine weighs nothing. The server takes a turn of the strategy as clients do, on `size` rows that nobody
    else has, and keeps what a client would keep.
    """

    size: int  # of the root set

    keeps = True

    def __post_init__(self) -> None:
        positive(size=self.size)

    @property
    def root_size(self) -> int:
        return self.size

    def combine(self, updates: Floats, told: Told) -> Floats | None:
        assert told.own is not None
        length, lengths = np.linalg.norm(told.own), np.linalg.norm(updates, axis=1, keepdims=True)
        if not length:  # nobody's is then longer
            return told.own
        directions = updates / np.where(lengths > 0, lengths, 1)
        trust = np.maximum(0, directions @ told.own / length)
        return length * (trust @ directions) / trust.sum() if trust.any() else None
