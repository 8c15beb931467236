"""Poisson cohorts: whether a client takes part in a round does not depend on the others."""

from typing import Literal

from fl_bench import rng
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Clients, Schedule


class Poisson(Schedule):
    """A round asks each client with probability clients_per_round / num_clients, and waits for all who answer."""

    def __init__(self, network: Network, clients_per_round: int) -> None:
        num_clients = len(network.steps)
        super().__init__(network, num_clients)
        self.rate = clients_per_round / num_clients

    def choose(self, round: int, available: Clients, count: int) -> Clients:
        tosses = rng.generator(self.network.seed, "cohort", round).random(len(self.network.steps))
        return available[tosses[available] < self.rate]


def sampled(network: Network, clients_per_round: int, sampling: Literal["fixed", "poisson"]) -> Schedule:
    """Cohorts of a fixed size, or Poisson's of that size on average."""
    return (Poisson if sampling == "poisson" else Schedule)(network, clients_per_round)
