"""Oort: Lai et al. 2021, "Oort: Efficient Federated Learning via Guided Participant Selection", arXiv:2010.06081.

A client's utility is what its data could still teach, batches x loss of its last turn (the paper has examples x the
root of their mean squared loss; clients report their mean loss only), clipped at a quantile of all that are known and
brought to 0..1. The longer ago it was asked, the more is added; where it takes t seconds, longer than the preferred T,
all is times (T / t)^alpha. Clients are drawn in proportion to utility from the best, and newcomers in proportion to
pace. T stands still: the paper's pacer, which raises it when utility falls, is not here.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fl_bench import rng
from fl_bench.build import not_negative
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Clients, Schedule

Floats = NDArray[np.float64]


class Guided(Schedule):
    """Algorithm 1 of the paper, for rounds of `clients_per_round`.

    `explore` is the share of newcomers in round 1; it falls by 2 % a round, down to `explore_least`. T is the quantile
    `preferred` of the clients' t. `clip` is the quantile at which utilities are clipped. Of those asked before, whoever
    has `cutoff` times the utility of the last of the best can be drawn: 1 is the best only, 0 everybody.
    """

    def __init__(
        self,
        network: Network,
        clients_per_round: int,
        explore: float,
        explore_least: float,
        alpha: float,
        preferred: float,
        clip: float,
        cutoff: float,
    ) -> None:
        shares = {"explore": explore, "preferred": preferred, "clip": clip, "cutoff": cutoff}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must be from 0 to 1")
        if not 0 <= explore_least <= explore:
            raise ValueError(f"explore_least={explore_least}: must be from 0 to explore={explore}")
        not_negative(alpha=alpha)
        super().__init__(network, clients_per_round)
        self.explore, self.explore_least, self.clip, self.cutoff = explore, explore_least, clip, cutoff
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
        share = max(self.explore * 0.98 ** (round - 1), self.explore_least)
        newcomers = min(len(new), max(int(count * share + 0.5), count - len(known)))
        others = min(len(known), count - newcomers)
        generator = rng.generator(self.network.seed, "cohort", round)
        drawn = _draw(generator, new, self.pace[new], newcomers)
        utility = self._utility(round)[known]
        good = utility >= self.cutoff * np.sort(utility)[-others] if others else utility < 0
        chosen = np.concatenate([drawn, _draw(generator, known[good], utility[good], others)])
        self.heard[chosen] = round
        return chosen

    def learn(self, round: int, losses: Mapping[int, float]) -> None:
        self.losses[list(losses)] = list(losses.values())

    def _utility(self, round: int) -> Floats:
        """Of all clients [num_clients]; it means nothing for those that were never asked.

        One that was asked and has never answered has the mean of what is known.
        """
        taught = self.network.steps * self.losses
        known = np.isfinite(taught)
        if known.any():
            most, least = np.quantile(taught[known], self.clip), taught[known].min()
            # 1 for those with the most, all of them where all are equal.
            taught = 1 - (most - np.minimum(taught, most)) / ((most - least) or 1.0)
            taught[~known] = taught[known].mean()
        else:
            taught = np.ones(len(taught))
        # What was learned long ago may no longer hold: the paper's term of confidence.
        confidence = np.sqrt(0.1 * np.log(round) / np.maximum(self.heard, 1))
        utility: Floats = (taught + confidence) * self.pace
        return utility


def _draw(generator: np.random.Generator, clients: Clients, odds: Floats, count: int) -> Clients:
    """So many clients, one after another, each in proportion to its odds among those that are left."""
    odds = odds + 1e-12  # so that there are enough of them where the slow count nothing
    return generator.choice(clients, count, replace=False, p=odds / odds.sum()) if count else clients[:0]
