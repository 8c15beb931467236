"""HierFAVG: Liu et al. 2020, "Client-Edge-Cloud Hierarchical Federated Learning", arXiv:1905.06641, algorithm 1.

Each client belongs to one of some edge servers. A round is an edge round: each edge makes the mean of its clients its
model. After every `edge_rounds` of them the cloud makes the mean of the edges, weighted by the data of all their
clients, the model of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.build import not_negative, positive
from fl_bench.network.schedule import Plan, Schedule
from fl_bench.topologies.base import Link, Topology
from fl_bench.topologies.several import Models, SeveralModels


@dataclass
class Hierarchical(Topology):
    """Edge servers below a cloud. Between two means of the cloud, what is tested is what it would be now."""

    edges: int
    edge_rounds: int
    assignment: Literal["blocks", "random"] | list[int]
    edge_delay: float
    edge_bytes_per_second: float

    def __post_init__(self) -> None:
        positive(edges=self.edges, edge_rounds=self.edge_rounds)
        not_negative(edge_delay=self.edge_delay)
        if not self.edge_bytes_per_second > 0:
            raise ValueError(f"edge_bytes_per_second={self.edge_bytes_per_second}: must be a positive number")
        count = len(self.weights)
        if self.edges > count:
            raise ValueError(f"edges={self.edges}: must not be more than the {count} clients that train")
        self.edge_of = self._assigned(count)  # of each client [num_clients]
        self.held = np.bincount(self.edge_of, self.weights, self.edges)  # what the clients of each edge weigh [edges]

    def _assigned(self, count: int) -> NDArray[np.int64]:
        if not isinstance(self.assignment, str):
            numbers = np.array(self.assignment)
            if len(numbers) != count or set(numbers.tolist()) != set(range(self.edges)):
                wish = f"must name an edge from 0 to {self.edges - 1} for each of {count} clients, and each edge"
                raise ValueError(f"assignment={self.assignment}: {wish}")
            return numbers
        blocks = np.arange(count) * self.edges // count
        return blocks if self.assignment == "blocks" else rng.generator(self.seed, "topology").permutation(blocks)

    @property
    def shares(self) -> NDArray[np.float64]:
        """What each edge weighs in the cloud's mean [edges]: what all of its clients do, whoever takes part."""
        shares: NDArray[np.float64] = self.held / self.held.sum()
        return shares

    @property
    def links(self) -> Sequence[Link]:
        own = self.weights / np.maximum(self.held, 1)[self.edge_of]
        below = [Link(f"client {k}", f"edge {edge}", own[k]) for k, edge in enumerate(self.edge_of)]
        return [*below, *(Link(f"edge {edge}", "cloud", share) for edge, share in enumerate(self.shares))]

    def strategy(self, plain: Strategy) -> "EdgeServers":
        return EdgeServers(plain, self)

    def schedule(self, plain: Schedule) -> "EdgeRounds":
        return EdgeRounds(plain, self)


class EdgeServers(SeveralModels):
    """The models of the edges."""

    columns = ("edge_bytes_up", "edge_bytes_down")

    def __init__(self, plain: Strategy, topology: Hierarchical) -> None:
        super().__init__(plain, topology.edge_of, topology.shares)
        self.edge_rounds, self.num_bytes = topology.edge_rounds, topology.num_bytes

    def mix(self, round: int, heard: NDArray[np.int64]) -> None:
        """The cloud's mean, when it is due."""
        for name, mean in self.average().items() if self._due(round) else ():
            self.models[name][:] = mean

    def told(self, round: int, mean: Models) -> dict[str, float]:
        """What the edges send the cloud, and it them, which is not compressed."""
        return dict.fromkeys(self.columns, self._due(round) * len(self.shares) * self.num_bytes)

    def _due(self, round: int) -> bool:
        return round % self.edge_rounds == 0


class EdgeRounds(Schedule):
    """Each edge goes on when its own clients have answered; the cloud waits for the slowest edge.

    The clients of a round are drawn from all, as in a star.
    """

    def __init__(self, plain: Schedule, topology: Hierarchical) -> None:
        super().__init__(plain.network, plain.wanted)
        self.edge_of, self.edge_rounds = topology.edge_of, topology.edge_rounds
        self.way = topology.edge_delay + topology.num_bytes / topology.edge_bytes_per_second
        self.clocks = np.zeros(topology.edges)  # virtual seconds

    def plan(self, round: int) -> Plan:
        if not self.network.steps[self._available()].any():
            self.clocks[:] = self.network.reachable(round, float(self.clocks.max()))
        available = self._available()
        asked = sorted(self.choose(round, available, min(self.wanted, len(available))).tolist())
        answers = {k: self.network.answer(round, k, float(self.clocks[self.edge_of[k]])) for k in asked}
        for client, answer in answers.items():
            edge = self.edge_of[client]
            self.clocks[edge] = max(self.clocks[edge], answer.at)
        if round % self.edge_rounds == 0:
            self.clocks[:] = self.clocks.max() + 2 * self.way
        self.now = float(self.clocks.max())
        dropping = {client for client, answer in answers.items() if not answer.comes}
        return Plan(round, asked, dropping, {client: a.seconds for client, a in answers.items()}, self.now)

    def _available(self) -> NDArray[np.int64]:
        """The clients that their edges can reach now, rising."""
        there = (self.network.devices.available(float(at)) for at in self.clocks)
        return np.sort(np.concatenate([ks[self.edge_of[ks] == edge] for edge, ks in enumerate(there)]))
