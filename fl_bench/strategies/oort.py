"""Oort: Lai et al. 2021, "Oort: Efficient Federated Learning via Guided Participant Selection", arXiv:2010.06081.

A client's utility is what its data could still teach, examples x loss (the paper has the root of the mean squared loss
over examples), times (T / t)^alpha where it takes t seconds, longer than the preferred T. The clients of the highest
utility are asked, and some who have not been heard of yet, the fastest of them.
"""

from collections.abc import Mapping

import numpy as np

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
        preferred_seconds = np.quantile(seconds, preferred)
        slow = seconds > preferred_seconds
        self.pace = np.ones(len(seconds))
        self.pace[slow] = (preferred_seconds / seconds[slow]) ** alpha
        self.losses = np.full(len(seconds), np.nan)
        self.heard = np.zeros(len(seconds), np.int64)  # the round in which a client answered last, 0: never

    def choose(self, round: int, available: Clients, count: int) -> Clients:
        new, known = available[self.heard[available] == 0], available[self.heard[available] > 0]
        wanted = round_half_up(count * self.explore * 0.98 ** (round - 1))
        newcomers = min(len(new), max(wanted, count - len(known)))
        generator = rng.generator(self.network.seed, "cohort", round)
        # Newcomers are drawn in proportion to their pace; of the known, those of the highest utility are taken.
        odds = self.pace[new] + 1e-12
        drawn = generator.choice(new, newcomers, replace=False, p=odds / odds.sum()) if newcomers else new[:0]
        utility = self.network.steps[known] * self.losses[known]
        # What was learned long ago may no longer hold: the paper's term of confidence, equation 1.
        utility = utility * self.pace[known] + np.sqrt(0.1 * np.log(round) / np.maximum(self.heard[known], 1))
        best = known[np.argsort(-utility, kind="stable")[: count - newcomers]]
        return np.concatenate([drawn, best])

    def learn(self, round: int, losses: Mapping[int, float]) -> None:
        clients = list(losses)
        self.losses[clients], self.heard[clients] = list(losses.values()), round


def round_half_up(value: float) -> int:
    return int(value + 0.5)
