"""Updates that a malicious client makes by itself: reversed, drawn, or too long."""

from dataclasses import dataclass

import numpy as np

from fl_bench.attacks.base import Floats, Malicious
from fl_bench.config.rules import require


@dataclass
class Scale(Malicious):
    """u becomes factor * u: explicit boosting, Bhagoji et al. 2019, arXiv:1811.12470."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require("attack.factor", self.factor, np.isfinite(self.factor), "must be a finite number")

    def update(self, update: Floats, draws: np.random.Generator) -> Floats:
        return update if self.factor == 1 else self.factor * update


@dataclass
class SignFlip(Scale):
    """u becomes -factor * u: Li et al. 2019, "RSA: Byzantine-Robust Stochastic Aggregation", arXiv:1811.03761."""

    def update(self, update: Floats, draws: np.random.Generator) -> Floats:
        return -self.factor * update


@dataclass
class Gaussian(Malicious):
    """u becomes noise, N(0, std^2) in each number: Blanchard et al. 2017, "Machine Learning with Adversaries"."""

    std: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require("attack.std", self.std, 0 <= self.std < np.inf, "must be 0 or more")

    def update(self, update: Floats, draws: np.random.Generator) -> Floats:
        return self.std * draws.standard_normal(len(update))
