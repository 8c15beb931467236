"""Boosted trees that clients grow on what all have grown before them: two server halves of Flower's, for model=trees.

Bagging (FedXgbBagging): each client grows one tree on the server's forest and sends it alone, and the server appends
them all, so that their scores add up. Cyclic (FedXgbCyclic): one client a round sends the forest with trees of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import FedAvg, FedXgbCyclic
from numpy.typing import NDArray

from fl_bench.config.rules import require
from fl_bench.models.trees import Forest
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Clients, Schedule
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Metrics


class Boosting(LocalAlgorithm):
    """`local.epochs` trees, each on all rows of the client; a step is a tree."""

    opaque = True

    def steps(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> NDArray[np.int64]:
        require(
            "local.steps", local["steps"], local["steps"] is None, "must be null: local.epochs are the trees of a turn"
        )
        trees: NDArray[np.int64] = (sizes > 0) * np.int64(local["epochs"])
        return trees

    def train(self, turn: Turn) -> list[Metrics]:
        """Returns the metrics of the forest as received, as those of a step are of the model before it."""
        parts = list(turn.batches(1))
        rows = {name: torch.cat([part[name] for part in parts]) for name in ("x", "y")}
        _, metrics = turn.task.objective(turn.model, rows)
        _forest(turn).grow(rows["x"], rows["y"], turn.amount, seed=int(torch.randint(2**31, ())))
        turn.steps = turn.amount
        return [metrics]

    def finish(self, turn: Turn) -> None:
        turn.parameters = _forest(turn).content


class Bagging(Boosting):
    """One tree, and only that is sent."""

    def steps(self, sizes: NDArray[np.int64], local: Mapping[str, Any]) -> NDArray[np.int64]:
        wish = "must be 1: of each client Flower's bagging takes one tree a round, and drops the others"
        require("local.epochs", local["epochs"], local["epochs"] == 1, wish)
        return super().steps(sizes, local)

    def finish(self, turn: Turn) -> None:
        _forest(turn).prune()
        super().finish(turn)


class Cyclic(FedXgbCyclic):
    """Flower's, but for the evaluation: of all clients, where Flower asks one."""

    configure_evaluate = FedAvg.configure_evaluate


class InTurn(Schedule):
    """One client a round: of those who can be reached, one after the other."""

    def __init__(self, network: Network, clients_per_round: int) -> None:
        wish = "one client trains in a round, and all of them take turns; leave it out"
        require("clients_per_round", clients_per_round, clients_per_round == len(network.steps), wish)
        super().__init__(network, clients_per_round=1)

    def choose(self, round: int, available: Clients, count: int) -> Clients:
        return available[[(round - 1) % len(available)]]


def _forest(turn: Turn) -> Forest:
    assert isinstance(turn.model, Forest)
    return turn.model
