"""FedNova: Wang et al. 2020, "Tackling the Objective Inconsistency Problem", arXiv:2007.07481.

A client that takes more steps pulls the mean towards its own optimum. So every update is divided by the steps a_i that
are in it, and the mean of those is multiplied by the mean number of steps.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import is_statistic
from fl_bench.strategies.server import MovedMean
from fl_bench.strategies.turn import Turn

STEPS, UNIT = "effective_steps", "unit"


class NormalizedAveraging(MovedMean):
    """x + tau * mean of (y_i - x) / a_i with tau = mean of a_i, both by `weighting`.

    Clients send x + unit * (y_i - x) / a_i, where the unit is the last round's tau: (y_i - x) / a_i alone, added to x,
    would lose the digits in float32 that tau then brings back.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.unit = 1.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config[UNIT] = self.unit
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        record, metrics = super().aggregate_train(server_round, replies)
        if metrics is not None:
            self.unit = float(metrics[STEPS])  # type: ignore[arg-type]
        return record, metrics

    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        return sent + float(metrics[STEPS]) / self.unit * (mean - sent)  # type: ignore[arg-type, no-any-return]


def effective_steps(count: int, optimizer: Mapping[str, Any]) -> float:
    """The sum of the factors that the gradients of so many steps have in where they lead (|a_i|_1 of the paper).

    Examples:
        >>> effective_steps(3, {}), effective_steps(3, {"momentum": 0.5}), effective_steps(1, {"momentum": 0.5})
        (3.0, 4.25, 1.0)
    """
    momentum, damped = float(optimizer.get("momentum", 0)), 1 - float(optimizer.get("dampening", 0))
    velocity = distance = 0.0
    for step in range(count):
        velocity = momentum * velocity + (damped if step else 1)  # torch does not dampen the first gradient
        distance += 1 + momentum * velocity if optimizer.get("nesterov") else velocity
    return distance


class Normalized(LocalAlgorithm):
    """Sends its part of the mean, and a_i: how far its steps would go if each gradient were 1, by the learning rate.

    That is their number, or with SGD's momentum, dampening and Nesterov's form what these make of it.
    """

    protected_by = ("example", "local")

    def finish(self, turn: Turn) -> None:
        effective = effective_steps(turn.steps, turn.local["optimizer"])
        starts = turn.split(turn.start)
        for name, part in turn.split(turn.parameters).items():
            if not is_statistic(name):
                part.copy_(starts[name] + turn.config[UNIT] / effective * (part - starts[name]))
        turn.reply[STEPS] = effective
