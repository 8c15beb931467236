"""Canaries: what is planted to measure how much a run with differential privacy tells; `fl-bench audit` looks for it.

A coin from the seed says of each whether it is in. Who sees the run guesses the coins, and epsilon bounds how many
guesses can be right (`fl_bench/audit/canaries.py`).
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.attacks.base import Attack
from fl_bench.config.rules import require

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

    from fl_bench.data.arrays import FederatedData
    from fl_bench.strategies.turn import Turn
    from fl_bench.tasks.base import Batch, Metrics, Task

FAR = 1e4  # the length of a canary's update: more than any clipping norm leaves of it


@dataclass
class Canaries(Attack):
    """So many canaries, of which each belongs to a client.

    Must override:
        `owners`, and what they do.
    """

    count: int

    def __post_init__(self) -> None:
        require("attack.count", self.count, self.count >= 0, "must be 0 or more")

    @property
    @abstractmethod
    def owners(self) -> NDArray[np.int64]:
        """The client of each canary [count]."""

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Which canaries are in [count]."""
        return rng.generator(self.seed, "canary coins").random(self.count) < 0.5

    def of(self, client: int) -> NDArray[np.int64]:
        """The numbers of a client's canaries."""
        return np.flatnonzero(self.owners == client)

    @cached_property
    def malicious(self) -> frozenset[int]:  # type: ignore[override]
        return frozenset(self.owners.tolist())

    def attacks(self, client: int, round: int) -> bool:
        return client in self.malicious


@dataclass
class CanaryClients(Canaries):
    """Clients whose update is always of one random direction: Andrew et al. 2023, arXiv:2302.03098, algorithm 1.

    It is far longer than what differential privacy lets pass, and so as long as that when it arrives. A canary that is
    out sends nothing, which is as if it were not there, or the opposite, where a neighbour has one client replaced.
    """

    opposite: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        wish = f"must not be more than the {self.num_clients} clients that train"
        require("attack.count", self.count, self.count <= self.num_clients, wish)

    @cached_property
    def owners(self) -> NDArray[np.int64]:  # type: ignore[override]
        return rng.generator(self.seed, "canaries").permutation(self.num_clients)[: self.count]

    def direction(self, number: int, size: int) -> NDArray[np.float32]:
        """That of a canary, of length 1 [size]."""
        drawn = rng.generator(self.seed, "canary direction", client=number).standard_normal(size, np.float32)
        unit: NDArray[np.float32] = drawn / np.linalg.norm(drawn)
        return unit

    def begin(self, turn: "Turn") -> None:
        import torch

        (number,) = self.of(turn.client)
        sign = 1 if self.inside[number] else -1 if self.opposite else 0
        direction = torch.from_numpy(self.direction(number, len(turn.start))).to(turn.start)

        def step(batch: "Batch", *_: object, **__: object) -> "Metrics":
            """The loss is that of the model as it was received."""
            turn.steps += 1
            with torch.no_grad():
                turn.place(turn.start)
                metrics = turn.task.objective(turn.model, batch)[1]
                turn.place(turn.start + sign * FAR * direction)
            return metrics

        turn.step = step  # type: ignore[method-assign]


@dataclass
class CanaryRows(Canaries):
    """Rows beside those of the clients: noise, made of the numbers and labels of training rows in any order.

    A canary that is in is in the batch of a step with probability 1 / steps of an epoch, which is at most that of the
    client's rows: those are as they were, and so is their epsilon.
    """

    rows: "Batch" = field(init=False, repr=False)

    @property
    def owners(self) -> NDArray[np.int64]:
        return np.arange(self.count) % self.num_clients

    def suit(self, task: "Task", data: "FederatedData") -> None:
        import torch

        draws = rng.generator(self.seed, "canaries")
        drawn = task.gather(data.train, draws.integers(data.num_samples, size=max(1, self.count)), "cpu")
        self.rows = {
            name: torch.from_numpy(draws.permutation(column.numpy().ravel())).view_as(column)
            for name, column in drawn.items()
        }

    def begin(self, turn: "Turn") -> None:
        honest, mine = turn.stream, self.of(turn.client)
        mine = mine[self.inside[mine]]

        def beside(purpose: str) -> "Iterator[Batch]":
            draws = rng.generator(self.seed, f"canaries {purpose}", turn.round, turn.client)
            for batch in honest(purpose):
                chosen = mine[draws.random(len(mine)) < 1 / turn.batches_per_epoch]
                yield {name: _joined(column, self.rows[name][chosen]) for name, column in batch.items()}

        turn.stream = beside


def _joined(column: "Tensor", more: "Tensor") -> "Tensor":
    """Two columns of examples one after the other; the shorter texts are filled up."""
    import torch
    from torch.nn.functional import pad

    from fl_bench.data.arrays import PADDING

    widths = [part.shape[1] for part in (column, more) if part.ndim == 2]
    parts = [
        pad(part, (0, max(widths) - part.shape[1]), value=PADDING) if part.ndim == 2 else part
        for part in (column, more)
    ]
    return torch.cat([parts[0], parts[1].to(column.device)])
