"""FedNova: Wang et al. 2020, "Tackling the Objective Inconsistency Problem", arXiv:2007.07481, equations 7 to 11.

A client that takes more steps pulls the mean towards its own optimum. So every update is divided by the steps a_i that
are in it, and the mean of those is multiplied by the mean number of steps.
"""

from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_bench.strategies.base import LocalAlgorithm, Turn, is_statistic

STEPS = "effective_steps"


class NormalizedAveraging(FedAvg):
    """x + tau * mean of (y_i - x) / a_i with tau = mean of a_i, both weighted by examples (equation 11)."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        means, metrics = super().aggregate_train(server_round, replies)
        if means is None or metrics is None:
            return means, metrics
        tau = float(metrics[STEPS])  # type: ignore[arg-type]
        moved = {}
        for name, mean in means.items():
            old, new = self.sent[name].numpy(), mean.numpy()
            moved[name] = mean if is_statistic(name) else Array(old + tau * (new - old))
        return ArrayRecord(moved), metrics


class Normalized(LocalAlgorithm):
    """Sends x + (y_i - x) / a_i, and a_i: its steps, or with SGD's momentum rho what they add up to (section 3.2)."""

    def finish(self, turn: Turn) -> None:
        rho = float(turn.local["optimizer"].get("momentum", 0))
        effective = (turn.steps - rho * (1 - rho**turn.steps) / (1 - rho)) / (1 - rho)
        starts = turn.split(turn.start)
        for name, part in turn.split(turn.parameters).items():
            if not is_statistic(name):
                part.copy_(starts[name] + (part - starts[name]) / effective)
        turn.reply[STEPS] = effective
