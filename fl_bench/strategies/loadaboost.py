"""LoAdaBoost: Huang et al. 2020, "LoAdaBoost: Loss-based AdaBoost federated machine learning", arXiv:1811.12629.

A client trains for half of its E local epochs; if its training loss is then above the median that the clients had in
the round before, it goes on, for E/2, E/2 - 1, ... epochs at a time, until it is not, or 3E/2 epochs are done.
"""

import math
import statistics
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_bench.metrics import merge
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Metrics

THRESHOLD = "loss-threshold"
LAST_LOSS = "last_loss"  # a client's training loss in its last epochs of the round


class MedianLoss(FedAvg):
    """Sends the median of the last round's losses, times `tolerance`; in the first round there is none to be above."""

    def __init__(self, tolerance: float, **options: Any) -> None:
        if not tolerance > 0:
            raise ValueError(f"tolerance={tolerance}: must be a positive number")
        super().__init__(**options)
        self.tolerance = tolerance
        self.median = math.inf

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config[THRESHOLD] = self.tolerance * self.median
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        losses = [float(r.content["metrics"][LAST_LOSS]) for r in replies if not r.has_error()]  # type: ignore[arg-type, index]
        if losses:
            self.median = statistics.median(losses)
        return super().aggregate_train(server_round, replies)


class Boosted(LocalAlgorithm):
    """Amounts are local epochs, or steps where `local.steps` is set; 1 has no half to look at the loss after."""

    def __init__(self, epochs: int, steps: int | None) -> None:
        for name, amount in (("epochs", epochs),) if steps is None else (("steps", steps),):
            if amount < 2:
                raise ValueError(f"{name}={amount}: must be 2 or more, as clients look at their loss after a half")

    def train(self, turn: Turn) -> list[Metrics]:
        metrics: list[Metrics] = []
        done = 0
        for amount in plan(turn.amount):
            last = [self.training_step(turn, batch) for batch in turn.batches(amount)]
            metrics += last
            done += amount
            loss = merge(last)["loss"].value
            if loss <= turn.config[THRESHOLD]:
                break
        turn.reply |= {LAST_LOSS: loss, "amount": done}
        return metrics


def plan(amount: int) -> list[int]:
    """The amounts after each of which the loss is looked at: 10 -> 5, then 5, 4 and 1, which is the limit of 15."""
    half, limit = math.ceil(amount / 2), math.ceil(1.5 * amount)
    parts = [half]
    for more in range(half, 0, -1):
        parts.append(min(more, limit - sum(parts)))
    return [part for part in parts if part > 0]
