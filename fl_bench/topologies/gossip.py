"""D-PSGD: Lian et al. 2017, "Can Decentralized Algorithms Outperform Centralized Algorithms?", arXiv:1705.09056.

There is no server: every client has a model of its own and exchanges it with its neighbours in a graph. Here in the
adapt-then-combine form, with any number of local steps: first each node i trains its model to x_i, then its model
becomes sum_j W_ij x_j. W is symmetric and its rows add up to 1, so that the mean of all models is not changed by it.

Who has not answered in a round is not there: its model stays, and for its neighbours its weight falls to themselves.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import Path

import numpy as np
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.build import not_negative
from fl_bench.errors import ConfigError, note
from fl_bench.network.schedule import Plan, Schedule
from fl_bench.strategies.layers import is_statistic
from fl_bench.topologies import graphs
from fl_bench.topologies.base import Link, Row, Topology
from fl_bench.topologies.several import Models, SeveralModels, weighted

EXACT = 1e-9  # how far the sums of a matrix from a file may be from 1


@dataclass
class Gossip(Topology):
    """A graph of clients without a server.

    Must override:
        `linked`; or `matrix`, where nodes weigh something else than Metropolis and Hastings say.

    Examples:
        >>> class Line(Gossip):
        ...     def linked(self):
        ...         return np.eye(len(self.weights), k=1, dtype=bool) | np.eye(len(self.weights), k=-1, dtype=bool)
        >>> Line(seed=0, weights=np.ones(3, int), num_bytes=4, delay=0.0).mixing.round(2).tolist()
        [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """

    delay: float  # of each link, seconds
    mixing: NDArray[np.float64] = field(init=False, repr=False)  # W [num_clients, num_clients]

    has_server = False

    def __post_init__(self) -> None:
        not_negative(delay=self.delay)
        self.mixing = self.matrix()

    @abstractmethod
    def linked(self) -> graphs.Linked:
        """Which two nodes are neighbours: symmetric, bool [num_clients, num_clients]. Raises ValueError."""

    def matrix(self) -> NDArray[np.float64]:
        """W, symmetric and of rows that add up to 1. Raises ValueError."""
        return graphs.metropolis_hastings(self.linked())

    @property
    def neighbours(self) -> graphs.Linked:
        """Which two nodes exchange models."""
        linked: graphs.Linked = self.mixing != 0
        np.fill_diagonal(linked, False)
        return linked

    @property
    def copies(self) -> NDArray[np.int64]:
        copies: NDArray[np.int64] = self.neighbours.sum(axis=1)
        return copies

    @property
    def links(self) -> Sequence[Link]:
        pairs = np.argwhere(np.triu(self.neighbours)).tolist()
        return [Link(f"client {i}", f"client {j}", float(self.mixing[i, j])) for i, j in pairs]

    def strategy(self, plain: Strategy) -> "Mixing":
        return Mixing(plain, self.mixing)

    def schedule(self, plain: Schedule) -> "Together":
        return Together(plain, self.delay)

    def costs(self, rows: list[Row]) -> list[Row]:
        """Who has answered sends its model to its neighbours that have, and receives theirs."""
        sizes = np.zeros(len(self.weights), np.int64)
        for row in rows:
            sizes[row["client"]] = row["bytes_up"]
        there, neighbours = np.minimum(sizes, 1), self.neighbours.astype(np.int64)
        up, down = (sizes * (neighbours @ there)).tolist(), (there * (neighbours @ sizes)).tolist()
        return [row | {"bytes_up": up[row["client"]], "bytes_down": down[row["client"]]} for row in rows]


class Mixing(SeveralModels):
    """The models of the nodes.

    `consensus_distance` is the mean over all nodes of |x_i - their mean|, the length over all numbers that are no
    statistics of BatchNorm, once models are mixed.
    """

    columns = ("consensus_distance",)

    def __init__(self, plain: Strategy, mixing: NDArray[np.float64]) -> None:
        count = len(mixing)
        super().__init__(plain, np.arange(count), np.full(count, 1 / count))
        self.mixing = mixing

    def mix(self, round: int, heard: NDArray[np.int64]) -> None:
        matrix = among(self.mixing, heard)
        for values in self.models.values():
            values[heard] = [weighted(row, values) for row in matrix[heard]]

    def told(self, round: int, mean: Models) -> dict[str, float]:
        squares = np.zeros(len(self.mixing))
        for name, middle in mean.items():
            if not is_statistic(name):
                apart = (np.subtract(x, middle, dtype=np.float64) for x in self.models[name])
                squares += [float((difference**2).sum()) for difference in apart]
        return {"consensus_distance": float(np.sqrt(squares).mean())}


class Together(Schedule):
    """All nodes begin a round together, once the last of them has heard of its neighbours."""

    def __init__(self, plain: Schedule, delay: float) -> None:
        super().__init__(plain.network, plain.wanted)
        self.delay = delay

    def plan(self, round: int) -> Plan:
        plan = super().plan(round)
        self.now += self.delay
        return replace(plan, ends=self.now)


def among(mixing: NDArray[np.float64], there: NDArray[np.int64]) -> NDArray[np.float64]:
    """W [n, n] where only some nodes are there, rising: to each of them falls what those weigh who are not."""
    matrix = np.eye(len(mixing))
    part = mixing[np.ix_(there, there)]
    absent = np.ones(len(mixing), bool)
    absent[there] = False
    part[np.diag_indices(len(there))] += mixing[np.ix_(there, absent)].sum(axis=1)
    matrix[np.ix_(there, there)] = part
    return matrix


@dataclass
class Ring(Gossip):
    """Each node has two neighbours."""

    def linked(self) -> graphs.Linked:
        return graphs.ring(len(self.weights))


@dataclass
class Torus(Gossip):
    """Each node has four neighbours in a grid without borders, of `rows`; None: as square as it goes."""

    rows: int | None

    def linked(self) -> graphs.Linked:
        count = len(self.weights)
        square = next(rows for rows in range(isqrt(count), 0, -1) if count % rows == 0)
        rows = square if self.rows is None else self.rows
        if rows < 1 or count % rows:
            raise ValueError(f"rows={rows}: {count} clients do not make so many rows of the same length")
        return graphs.torus(rows, count // rows)


@dataclass
class Complete(Gossip):
    """Each two nodes are neighbours: with one local step and equal sizes, FedAvg."""

    def linked(self) -> graphs.Linked:
        return graphs.complete(len(self.weights))


@dataclass
class Random(Gossip):
    """A connected graph drawn from the seed, of nodes with `degree` neighbours, or with links of this `probability`."""

    degree: int
    probability: float | None

    def linked(self) -> graphs.Linked:
        count, draws = len(self.weights), rng.generator(self.seed, "topology")
        if self.probability is not None:
            if not 0 < self.probability <= 1:
                raise ValueError(f"probability={self.probability}: must be above 0 and at most 1, or null")
            return graphs.erdos_renyi(count, self.probability, draws)
        if not 1 <= self.degree < count or count * self.degree % 2:
            wish = f"must be from 1 to {count - 1}, and even where the number of clients, {count}, is not"
            raise ValueError(f"degree={self.degree}: {wish}")
        return graphs.regular(count, self.degree, draws)


@dataclass
class File(Gossip):
    """W from a file: a .csv without a header, or a .npy, [num_clients, num_clients]."""

    path: str | None

    def linked(self) -> graphs.Linked:
        return self.neighbours

    def matrix(self) -> NDArray[np.float64]:
        if self.path is None:
            raise ValueError("path=None: give a .csv or .npy file with the matrix")
        file = Path(self.path).expanduser()
        try:
            with file.open("rb") as stream:
                text = file.suffix != ".npy"
                read = np.loadtxt(stream, delimiter=",", ndmin=2) if text else np.load(stream, allow_pickle=False)
            matrix = np.asarray(read, np.float64)
        except (OSError, ValueError, TypeError) as error:
            why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            raise ConfigError(f"topology.path={file}: cannot be read: {why}") from error
        count = len(self.weights)
        for holds, wish in (
            (matrix.shape == (count, count), f"must have {count} rows and columns, one for each client"),
            (bool((matrix >= 0).all()), "must have no number below 0"),
            (matrix.shape[0] == matrix.shape[-1] and bool((matrix == matrix.T).all()), "must be symmetric"),
            (bool((np.abs(matrix.sum(axis=-1) - 1) <= EXACT).all()), "must have rows and columns that add up to 1"),
        ):
            if not holds:
                raise ConfigError(f"topology.path={file}: {wish}")
        if (parts := graphs.parts(matrix)) > 1:
            note(f"topology.path={file}: the graph falls into {parts} parts that never hear of each other")
        return matrix
