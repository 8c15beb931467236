"""Oort: Lai et al. 2021, "Oort: Efficient Federated Learning via Guided Participant Selection", arXiv:2010.06081.

A client's utility is what its data could still teach, batches x loss (the paper has examples x the root of their mean
squared loss), times (T / t)^alpha where it takes t seconds, longer than the preferred T. The clients of the highest
utility are asked, and some who have not been asked yet, the faster ones more likely.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Clients, Schedule


class Guided(Schedule):
    """`explore` is the share of newcomers in round 1, which falls by 2 % a round; T is a quantile of the clients' t."""

    def __init__(
        self, network: Network, clients_per_round: int, explore: float, alpha: float, preferred: float
    ) -> None:
        for name, value in (("explore", explore), ("preferred", preferred)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must be from 0 to 1")
        if not 0 <= alpha < np.inf:
            raise ValueError(f"alpha={alpha}: must be a number from 0")
        super().__init__(network, clients_per_round)
        self.explore = explore
        seconds = network.expected_seconds
        preferred_seconds = np.quantile(seconds[network.steps > 0], preferred)
        slow = seconds > preferred_seconds
        self.pace = np.ones(len(seconds))
        self.pace[slow] = (preferred_seconds / seconds[slow]) ** alpha
        self.losses = np.full(len(seconds), np.nan)  # the last of each client
        self.heard = np.zeros(len(seconds), np.int64)  # the round in which a client was asked last, 0: never

    def choose(self, round: int, available: Clients, count: int) -> Clients:
        available = available[self.network.steps[available] > 0]
        new, known = available[self.heard[available] == 0], available[self.heard[available] > 0]
        wanted = int(count * self.explore * 0.98 ** (round - 1) + 0.5)
        newcomers = min(len(new), max(wanted, count - len(known)))
        generator = rng.generator(self.network.seed, "cohort", round)
        # Newcomers are drawn in proportion to their pace; of the known, those of the highest utility are taken.
        odds = self.pace[new] + 1e-12
        drawn = generator.choice(new, newcomers, replace=False, p=odds / odds.sum()) if newcomers else new[:0]
        ranked = known[np.argsort(-self._utility(round, known), kind="stable")]
        chosen = np.concatenate([drawn, ranked[: count - newcomers]])
        self.heard[chosen] = round
        return chosen

    def learn(self, round: int, losses: Mapping[int, float]) -> None:
        self.losses[list(losses)] = list(losses.values())

    def _utility(self, round: int, clients: Clients) -> NDArray[np.float64]:
        """Of clients that were asked before; one that has never answered has the mean of the losses that are known."""
        losses = self.losses[clients]
        unknown = np.isnan(losses)
        losses[unknown] = losses[~unknown].mean() if not unknown.all() else 1.0
        # What was learned long ago may no longer hold: the paper's term of confidence.
        confidence = np.sqrt(0.1 * np.log(round) / self.heard[clients])
        utility: NDArray[np.float64] = (self.network.steps[clients] * losses + confidence) * self.pace[clients]
        return utility
