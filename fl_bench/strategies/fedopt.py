"""Optimisers at the server, for which the clients' mean update is what a gradient is elsewhere.

FedAvgM: Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution", arXiv:1909.06335. FedAdagrad,
FedAdam and FedYogi: Reddi et al. 2021, "Adaptive Federated Optimization", arXiv:2003.00295, algorithm 2.

Flower's own step BatchNorm's statistics too, as if they were weights. Its adaptive ones begin with v = 0, where the
paper has tau^2, and its FedAdam corrects for that, as Adam does and the paper's FedAdam does not.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
from flwr.app import MetricRecord
from numpy.typing import NDArray

from fl_bench.strategies.server import MovedMean


class FedAvgM(MovedMean):
    """x moves by `server_learning_rate` * m, with m = `server_momentum` * m + mean update."""

    def __init__(self, server_momentum: float, server_learning_rate: float, **options: Any) -> None:
        if not 0 <= server_momentum < 1:
            raise ValueError(f"server_momentum={server_momentum}: must be from 0 to below 1")
        if not server_learning_rate > 0:
            raise ValueError(f"server_learning_rate={server_learning_rate}: must be a positive number")
        super().__init__(**options)
        self.momentum, self.rate = server_momentum, server_learning_rate
        self.m: dict[str, NDArray] = {}

    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        self.m[name] = self.momentum * self.m.get(name, 0) + (mean - sent)
        moved: NDArray = sent + self.rate * self.m[name]
        return moved


class FedOpt(MovedMean):
    """x moves by `eta` * m / (sqrt(v) + `tau`), where m follows the mean update, and v, from tau^2, its square.

    Must override:
        `follow`.
    """

    def __init__(self, eta: float, tau: float, beta_1: float = 0.0, beta_2: float = 0.0, **options: Any) -> None:
        for name, value in (("eta", eta), ("tau", tau)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value}: must be a positive number")
        for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: must be from 0 to below 1")
        super().__init__(**options)
        self.eta, self.tau, self.beta_1, self.beta_2 = eta, tau, beta_1, beta_2
        self.m: dict[str, NDArray] = {}
        self.v: dict[str, NDArray] = {}

    @abstractmethod
    def follow(self, v: NDArray | float, square: NDArray) -> NDArray:
        """The new v, from the old one and the squared mean update."""

    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        update = mean.astype(np.float64) - sent
        self.m[name] = self.beta_1 * self.m.get(name, 0) + (1 - self.beta_1) * update
        self.v[name] = self.follow(self.v.get(name, self.tau**2), update**2)
        moved: NDArray = sent + self.eta * self.m[name] / (np.sqrt(self.v[name]) + self.tau)
        return moved


class FedAdagrad(FedOpt):
    def follow(self, v: NDArray | float, square: NDArray) -> NDArray:
        return v + square


class FedAdam(FedOpt):
    def follow(self, v: NDArray | float, square: NDArray) -> NDArray:
        return self.beta_2 * v + (1 - self.beta_2) * square


class FedYogi(FedOpt):
    def follow(self, v: NDArray | float, square: NDArray) -> NDArray:
        return v - (1 - self.beta_2) * square * np.sign(v - square)
