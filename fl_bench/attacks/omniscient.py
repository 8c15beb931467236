"""Updates that malicious clients make of those of all others, which they know."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from fl_bench.attacks.base import Floats, Knows, Malicious
from fl_bench.config.rules import require
from fl_bench.distances import squared_distances


@dataclass
class Omniscient(Malicious):
    """All send the same. Where nobody else answers, there is nothing to know, and they send what they have.

    Must override:
        `of`.
    """

    knows = Knows.ALL

    def together(self, own: Floats, honest: Floats, answered: int) -> Floats:
        return self.of(honest) if len(honest) else own

    @abstractmethod
    def of(self, honest: Floats) -> Floats:
        """The update [N] that all malicious clients send, from those of the others [H, N], one or more."""


@dataclass
class Ipm(Omniscient):
    """-epsilon * mean of the honest: inner-product manipulation, Xie et al. 2020, "Fall of Empires", arXiv:1903.03936.

    With an epsilon of more than honest / malicious, the mean of all goes backwards; a small one is for Krum and others
    that choose.
    """

    epsilon: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require("attack.epsilon", self.epsilon, 0 < self.epsilon < np.inf, "must be a positive number")

    def of(self, honest: Floats) -> Floats:
        mean: Floats = honest.mean(axis=0)
        return -self.epsilon * mean


@dataclass
class Mimic(Omniscient):
    """A copy of an honest client's: Karimireddy et al. 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", arXiv:2006.09365. One client then counts many times.

    The paper chooses whom by the direction in which updates vary most, in the first rounds; here it is the first of
    the honest ones that answer.
    """

    def of(self, honest: Floats) -> Floats:
        first: Floats = honest[0]
        return first


DIRECTIONS = {  # of MinMax and MinSum, from the honest updates [H, N]
    "std": lambda honest: -honest.std(axis=0),
    "sign": lambda honest: -np.sign(honest.mean(axis=0)),
    "unit": lambda honest: -honest.mean(axis=0) / (np.linalg.norm(honest.mean(axis=0)) or 1),
}


@dataclass
class MinMax(Omniscient):
    """mean + gamma * p, gamma as large as it can be while no honest update is further away than two honest ones are.

    Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine", NDSS: the attack that knows the updates and not
    the rule. They search for gamma; here it is the root of the quadratic equation.
    """

    direction: str  # p: see DIRECTIONS

    def __post_init__(self) -> None:
        super().__post_init__()
        wish = f"must be one of {', '.join(DIRECTIONS)}"
        require("attack.direction", self.direction, self.direction in DIRECTIONS, wish)

    def of(self, honest: Floats) -> Floats:
        mean, way = honest.mean(axis=0), DIRECTIONS[self.direction](honest)
        size = way @ way
        found: Floats = mean + self.gamma(honest - mean, way, size) * way if size else mean
        return found

    def gamma(self, apart: Floats, way: Floats, size: float) -> float:
        """The factor of `way` [N], of squared length `size`; `apart` [H, N] are the honest updates less their mean."""
        most = squared_distances(apart).max()
        along, squares = apart @ way, (apart**2).sum(axis=1)
        # |gamma * way - apart|^2 = size * gamma^2 - 2 * along * gamma + squares <= most
        return float(((along + np.sqrt(np.maximum(0, along**2 + size * (most - squares)))) / size).min())


@dataclass
class MinSum(MinMax):
    """The same while the squared distances to the honest updates add up to no more than those of some honest one do."""

    def gamma(self, apart: Floats, way: Floats, size: float) -> float:
        # sum of |gamma * way - apart|^2 = H * size * gamma^2 + sum of squares, as `apart` adds up to 0
        most, squares = squared_distances(apart).sum(axis=1).max(), (apart**2).sum()
        return float(np.sqrt(max(0, most - squares) / (len(apart) * size)))
