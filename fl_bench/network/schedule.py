"""Who is asked in each round, and whose answers count."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.network.clock import Network

Clients = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """A round before any client has trained: all of this follows from the seed and from what clients said before."""

    round: int
    asked: Sequence[int]  # the clients of the round, rising
    dropping: Collection[int] = frozenset()  # of those, who will not answer in time
    seconds: Mapping[int, float] = field(default_factory=dict)  # from being asked to answering; inf: never
    ends: float = 0.0  # virtual second
    told: Mapping[str, Any] = field(default_factory=dict)  # to the strategy's server half, in the round's config


class Schedule:
    """Rounds one after another: a uniform sample of those who can be reached, of whom the first count.

    Bonawitz et al. 2019, arXiv:1902.01046: `network.over_select` times as many are asked as are wanted. Among equals
    the first are drawn by lot. A strategy's yaml may name a subclass as `schedule`.

    Must override:
        Nothing.

    May override:
        `choose`, for who is asked; `learn`, to hear of losses; `plan`, where rounds are not one after another. Numbers
        and arrays among the attributes are saved in checkpoints.

    Examples:
        A turn takes 10 seconds down, a second a step, 10 seconds up; client k takes k + 1 steps:

        >>> network = Network(
        ...     dropout=0.0, deadline_s=None, over_select=1.0, seconds_per_step=1.0, bytes_per_second_up=1.0,
        ...     bytes_per_second_down=1.0, spread=0.0, traces=None, repeat=False, seed=0,
        ...     steps=np.array([1, 2, 3, 4]), bytes_down=10, bytes_up=10,
        ... )
        >>> plan = Schedule(network, clients_per_round=4).plan(1)
        >>> plan.asked, plan.dropping, plan.ends
        ([0, 1, 2, 3], set(), 24.0)
        >>> plan.seconds
        {0: 21.0, 1: 22.0, 2: 23.0, 3: 24.0}
    """

    def __init__(self, network: Network, clients_per_round: int) -> None:
        self.network = network
        self.wanted = clients_per_round  # answers in a round
        self.now = 0.0  # virtual seconds

    def plan(self, round: int) -> Plan:
        """The next round; the clock then stands at its end. Where nobody can be reached, it waits for somebody.

        Raises RunError where nobody ever can be again.
        """
        begun = self.now = self.network.reachable(round, self.now)
        available = self.network.devices.available(self.now)
        count = min(ceil(self.network.over_select * self.wanted - 1e-9), len(available))
        asked = sorted(self.choose(round, available, count).tolist()) if count else []
        answers = {client: self.network.answer(round, client, self.now) for client in asked}
        useful = [client for client in asked if answers[client].comes and self.network.steps[client]]
        lots = rng.generator(self.network.seed, "ties", round).permutation(len(useful))
        in_time = sorted(zip((answers[client].at for client in useful), lots, useful, strict=True))[: self.wanted]
        if len(in_time) == self.wanted:
            self.now = in_time[-1][0]
        else:
            self.now = max((answer.at for answer in answers.values()), default=self.now)
        self.now = max(self.now, begun + self.network.in_step([client for _, _, client in in_time], begun))
        late = set(useful) - {client for _, _, client in in_time}
        dropping = {client for client in asked if not answers[client].comes} | late
        return Plan(round, asked, dropping, {client: a.seconds for client, a in answers.items()}, self.now)

    def choose(self, round: int, available: Clients, count: int) -> Clients:
        """At most `count` of the clients that can be reached, int64 [count]; `available` is rising."""
        generator = rng.generator(self.network.seed, "cohort", round)
        return generator.choice(available, count, replace=False, shuffle=False)

    def learn(self, round: int, losses: Mapping[int, float]) -> None:
        """After a round: the training losses of those who answered, by client."""

    def __getstate__(self) -> dict[str, Any]:
        """All but the network, which is the same in every round."""
        return {name: value for name, value in vars(self).items() if name != "network"}
