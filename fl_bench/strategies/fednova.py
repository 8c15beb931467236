"""FedNova: Wang et al. 2020, "Tackling the Objective Inconsistency Problem", arXiv:2007.07481.

A client that takes more steps pulls the mean towards its own optimum. So every update is divided by the steps a_i that
are in it, and the mean of those is multiplied by the mean number of steps.
"""

from flwr.app import MetricRecord
from numpy.typing import NDArray

from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import is_statistic
from fl_bench.strategies.server import MovedMean
from fl_bench.strategies.turn import Turn

STEPS = "effective_steps"


class NormalizedAveraging(MovedMean):
    """x + tau * mean of (y_i - x) / a_i with tau = mean of a_i, both weighted by examples."""

    def move(self, name: str, sent: NDArray, mean: NDArray, part: float, metrics: MetricRecord) -> NDArray:
        return sent + float(metrics[STEPS]) * (mean - sent)  # type: ignore[arg-type, no-any-return]


class Normalized(LocalAlgorithm):
    """Sends x + (y_i - x) / a_i, and a_i: its steps, or with SGD's momentum rho what they add up to."""

    def finish(self, turn: Turn) -> None:
        rho = float(turn.local["optimizer"].get("momentum", 0))
        effective = (turn.steps - rho * (1 - rho**turn.steps) / (1 - rho)) / (1 - rho)
        starts = turn.split(turn.start)
        for name, part in turn.split(turn.parameters).items():
            if not is_statistic(name):
                part.copy_(starts[name] + (part - starts[name]) / effective)
        turn.reply[STEPS] = effective
