"""What topologies are made of; by itself a star, in which every client exchanges models with the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.serverapp.strategy import FedAvg, Strategy
from numpy.typing import NDArray

from fl_bench.network.schedule import Schedule
from fl_bench.storage import files

Row = dict[str, Any]  # of clients.csv, by column
NAME = "topology.csv"


class Link(NamedTuple):
    """Two of `client 3`, `edge 0` and `cloud` that exchange models, and what that of one weighs in the other's mean."""

    one: str
    other: str
    weight: float


@dataclass
class Topology:
    """A star. Another topology stands around a strategy whose server half is a plain mean.

    Must override:
        Nothing.

    May override:
        All of it; a graph without a server derives from `Gossip`.
    """

    seed: int
    weights: NDArray[np.int64]  # what each client weighs in a mean [num_clients]
    num_bytes: int  # of a model

    has_server = True  # whether clients send their models to one

    @property
    def copies(self) -> NDArray[np.int64]:
        """How many models each client sends, and receives, in a round [num_clients]."""
        return np.ones_like(self.weights)

    @property
    def links(self) -> Sequence[Link]:
        """What topology.csv says; nothing of a star, of which everybody knows."""
        return ()

    def strategy(self, plain: Strategy) -> Strategy:
        """The server half: `plain`, or what stands around it."""
        return plain

    def schedule(self, plain: Schedule) -> Schedule:
        """Who is asked when, on the virtual clock."""
        return plain

    def costs(self, rows: list[Row]) -> list[Row]:
        """The rows of a round's clients, with the bytes that went over their links."""
        return rows

    def write(self, folder: Path) -> None:
        """topology.csv in a run's folder, where there is something to say."""
        if self.links:
            files.write(folder / NAME, files.csv_of([Link._fields, *self.links]))


def is_plain(strategy: Strategy) -> bool:
    """Whether all that a server half does is FedAvg's, or it says that its mean is."""
    ours = ("configure_train", "aggregate_train")
    same = all(getattr(type(strategy), name) is getattr(FedAvg, name) for name in ours)
    return same or getattr(strategy, "plain_mean", False)
