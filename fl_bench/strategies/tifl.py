"""TiFL: Chai et al. 2020, "TiFL: A Tier-based Federated Learning System", arXiv:2001.09249.

Clients of like speed form tiers, and a round asks clients of one tier, so that nobody waits for a straggler. As in the
paper's adaptive selection tiers that the model serves badly are chosen more often; here by their training loss, which
clients report anyway, where the paper evaluates the model on every tier. Odds are in proportion to it; the paper has
them by rank, anew every few rounds, and credits that bound how often a tier is chosen.
"""

from collections.abc import Mapping

import numpy as np

from fl_bench import rng
from fl_bench.build import positive
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Clients, Schedule


class Tiers(Schedule):
    """A tier is chosen with odds in proportion to its mean loss; where it is too small, its neighbours help."""

    def __init__(self, network: Network, clients_per_round: int, tiers: int) -> None:
        positive(tiers=tiers)
        super().__init__(network, clients_per_round)
        order = np.lexsort((network.expected_seconds, network.steps == 0))  # who has nothing to train on comes last
        self.rank = np.empty(len(order), np.int64)  # of each client: 0 is the fastest
        self.rank[order] = np.arange(len(order))
        self.tier = self.rank * tiers // np.count_nonzero(network.steps)
        self.losses: dict[int, float] = {}  # the last of each client

    def choose(self, round: int, available: Clients, count: int) -> Clients:
        available = available[self.network.steps[available] > 0]
        if not len(available):
            return available
        tiers = np.unique(self.tier[available])
        known = {tier: [loss for client, loss in self.losses.items() if self.tier[client] == tier] for tier in tiers}
        means = [float(np.mean(known[tier])) if known[tier] else np.inf for tier in tiers]
        # A tier that has not been heard of stands as high as the worst.
        worst = max((mean for mean in means if mean < np.inf), default=1.0)
        odds = np.minimum(means, worst) + 1e-12
        tier = rng.generator(self.network.seed, "tier", round).choice(tiers, p=odds / odds.sum())
        members = available[self.tier[available] == tier]
        if len(members) < count:
            distance = np.abs(self.rank[available] - np.median(self.rank[members]))
            members = np.sort(available[np.argsort(distance, kind="stable")[:count]])
        return super().choose(round, members, min(count, len(members)))

    def learn(self, round: int, losses: Mapping[int, float]) -> None:
        self.losses |= losses
