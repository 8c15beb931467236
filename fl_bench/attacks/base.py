"""What attacks are made of; by itself nobody attacks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.config.rules import require
from fl_bench.errors import ConfigError
from fl_bench.metrics import Metric, Summand

if TYPE_CHECKING:  # torch takes a second to import
    from torch import nn

    from fl_bench.data.arrays import FederatedData
    from fl_bench.strategies.turn import Turn
    from fl_bench.tasks.base import Batch, Task

Floats = NDArray[np.float64]


class Knows(StrEnum):
    """What a malicious client knows of a round, beside what every client is sent."""

    OWN = "own"  # its own data and its own update
    COLLUDERS = "colluders"  # the updates of all malicious clients
    ALL = "all"  # the updates of all clients


@dataclass
class Attack:
    """What malicious clients do differently, around what the strategy has them do.

    Must override:
        Nothing; but a class of one's own derives from `Malicious`.

    May override:
        With `knows` own: `begin`, before a client's turn, and `update`, after it. Otherwise `together`, once in a round
        at the server. And `suit`. Where certain examples are attacked, `metrics` and `success`.

    An update is what a client sends less what it has received: of the model and of the `extras` of the strategy, one
    behind the other [N]. What BatchNorm has counted is no part of it, and is sent as it is. An update that is returned
    as the very object that it was leaves what is sent as it is, to the bit.
    """

    seed: int
    num_clients: int  # that train
    num_classes: int

    knows = Knows.OWN

    @property
    def malicious(self) -> Collection[int]:
        """The malicious clients."""
        return ()

    def attacks(self, client: int, round: int) -> bool:
        """Whether a client attacks in a round."""
        return False

    @property
    def metrics(self) -> Sequence[Metric]:
        """What `success` gives."""
        return ()

    def suit(self, task: "Task", data: "FederatedData") -> None:
        """In each process before its first turn: raise ConfigError where this attack cannot work on a task's data."""

    def begin(self, turn: "Turn") -> None:
        """Before a malicious client's turn: its batches, `turn.stream`, and what a step does may be made others."""

    def update(self, update: Floats, draws: np.random.Generator) -> Floats:
        """What a malicious client sends instead of this update [N], before it is compressed."""
        return update

    def together(self, own: Floats, honest: Floats, answered: int) -> Floats:
        """What the malicious clients send instead of their updates `own` [M, N]: one for each, or [N] for them all.

        Both are in the order of the clients. `honest` [H, N] are the updates of the others, with `knows` colluders
        none; `answered` is how many clients answer, M and the others.
        """
        return own

    def success(self, task: "Task", model: "nn.Module", batch: "Batch") -> Mapping[str, Summand]:
        """How far a model in evaluation mode does what the attack wants, on a batch of honest examples."""
        return {}


@dataclass
class Malicious(Attack):
    """An attack by some of the clients, from some round on.

    Examples:
        Clients that send half of their update:

        >>> class Half(Malicious):
        ...     def update(self, update, draws):
        ...         return update / 2
        >>> half = Half(0, 10, 2, fraction=0.25, clients=None, start_round=3)
        >>> len(half.malicious), [half.attacks(client, round=2) for client in half.malicious]
        (2, [False, False])
    """

    fraction: float  # of the clients, rounded to the nearest number of them; drawn from the seed
    clients: list[int] | None  # or these
    start_round: int  # the first round of the attack

    def __post_init__(self) -> None:
        require("attack.fraction", self.fraction, 0 <= self.fraction <= 1, "must be from 0 to 1")
        require("attack.start_round", self.start_round, self.start_round >= 1, "must be 1 or more")
        clients, last = self.clients or [], self.num_clients - 1
        there = len({*clients}) == len(clients) and all(0 <= client <= last for client in clients)
        require("attack.clients", self.clients, there, f"must be different clients from 0 to {last}, those that train")

    @cached_property
    def malicious(self) -> Collection[int]:  # type: ignore[override]
        """The malicious clients: those that are named, or as many as `fraction` says, drawn from the seed."""
        if self.clients is not None:
            return frozenset(self.clients)
        drawn = rng.generator(self.seed, "attack").permutation(self.num_clients)
        return frozenset(drawn[: round(self.fraction * self.num_clients)].tolist())

    def attacks(self, client: int, round: int) -> bool:
        return round >= self.start_round and client in self.malicious


def need_classes(task: "Task", data: "FederatedData") -> None:
    """For the `suit` of attacks on labels: raise ConfigError where there are none, or all are the same."""
    from fl_bench.tasks.base import Classifier

    if not isinstance(task, Classifier) or len(data.classes) < 2:
        raise ConfigError(f"attack: needs two classes or more, and task {type(task).__name__} has none to tell apart")
