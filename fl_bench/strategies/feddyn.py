"""FedDyn: Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", arXiv:2111.04263, algorithm 1.

Each client adds -<g_i, w> + alpha/2 |w - w_global|^2 to its loss, where g_i is its gradient at the model it found last
time: the minima of all clients then meet in a minimum of the whole.
"""

from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fl_bench.build import not_negative
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.server import MovedMean
from fl_bench.strategies.turn import Turn

GRADIENT = "gradient"


class FedDyn(MovedMean):
    """w = mean of the clients' models - h / alpha, with h = h - alpha * part * mean of (w_i - w).

    The part that the cohort is of all clients is counted in examples, as means are weighted by them. What is kept
    here is -h / alpha, `drift`. alpha = 0 regularises nothing, and then the server adds nothing either.
    """

    def __init__(self, alpha: float, **options: Any) -> None:
        not_negative(alpha=alpha)
        super().__init__(**options)
        self.alpha = alpha
        self.drift: dict[str, NDArray] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["alpha"] = self.alpha
        return super().configure_train(server_round, arrays, config, grid)

    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        if not self.alpha:
            return mean
        self.drift[name] = part * (mean - sent) + self.drift.get(name, 0)
        moved: NDArray = mean + self.drift[name]
        return moved


class DynamicRegularization(LocalAlgorithm):
    stacks = True
    protected_by = ("example", "local")

    def begin(self, turn: Turn) -> None:
        turn.work.alpha = float(turn.config["alpha"])
        turn.work.gradient = turn.state.get(GRADIENT, torch.zeros_like(turn.parameters))

    def correct(self, turn: Turn) -> None:
        turn.grad += turn.work.alpha * (turn.parameters - turn.start) - turn.work.gradient

    def finish(self, turn: Turn) -> None:
        turn.state[GRADIENT] = turn.work.gradient - turn.work.alpha * (turn.parameters - turn.start)
