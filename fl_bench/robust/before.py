"""What is done with the updates of a round before a rule sees them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_bench.build import positive
from fl_bench.distances import squared_distances

Floats = NDArray[np.float64]


@dataclass
class Mixing:
    """Nothing.

    Must override:
        Nothing.

    May override:
        `mix`; `left`, where it makes fewer of the updates; `least`.

    Examples:
        Only the signs of each:

        >>> class Signs(Mixing):
        ...     def mix(self, updates, draws):
        ...         return np.sign(updates)
        >>> Signs().mix(np.array([[0.5, -2.0]]), np.random.default_rng(0))
        array([[ 1., -1.]])
    """

    @property
    def least(self) -> int:
        """How many updates there must be."""
        return 1

    def left(self, answers: int) -> int:
        """How many it makes of so many updates; of more not fewer."""
        return answers

    def mix(self, updates: Floats, draws: np.random.Generator) -> Floats:
        """The updates that the rule sees [m, N], of those of n clients [n, N] in their order."""
        return updates


@dataclass
class HonestMajority:
    """Something that is told how many of a round may be malicious."""

    num_malicious: int

    def __post_init__(self) -> None:
        if self.num_malicious < 0:
            raise ValueError(f"num_malicious={self.num_malicious}: must be 0 or more")

    @property
    def least(self) -> int:
        """The honest must be more."""
        return 2 * self.num_malicious + 1


@dataclass
class NearestNeighbours(HonestMajority, Mixing):
    """Each becomes the mean of the n - f that are nearest to it, itself among them: Allouah et al. 2023, "Fixing by
    Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", arXiv:2302.01772, algorithm 2.
    """

    def mix(self, updates: Floats, draws: np.random.Generator) -> Floats:
        near = np.argsort(squared_distances(updates), axis=1, kind="stable")[:, : len(updates) - self.num_malicious]
        return np.stack([updates[np.sort(row)].mean(axis=0) for row in near])


@dataclass
class Bucketing(Mixing):
    """The means of `size` of them each, drawn by lot: Karimireddy et al. 2022, "Byzantine-Robust Learning on
    Heterogeneous Datasets via Bucketing", arXiv:2006.09365, algorithm 1. The last bucket may have fewer.
    """

    size: int

    def __post_init__(self) -> None:
        positive(size=self.size)

    def left(self, answers: int) -> int:
        return -(-answers // self.size)

    def mix(self, updates: Floats, draws: np.random.Generator) -> Floats:
        shuffled = draws.permutation(len(updates))
        buckets = np.split(shuffled, range(self.size, len(updates), self.size))
        return np.stack([updates[np.sort(bucket)].mean(axis=0) for bucket in buckets])
