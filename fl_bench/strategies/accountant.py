"""What rounds with noise tell of any one client: epsilon, by Renyi differential privacy (package dp-accounting).

A neighbour of a federation is one that differs in all data of one client. Cohorts of a fixed size are accounted as they
are drawn, without replacement (Wang et al. 2019, arXiv:1808.00087): there one client is replaced by another. Poisson
cohorts (Mironov et al. 2019, arXiv:1908.10530) are smaller in epsilon: there one client comes or goes.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WEAK = 10.0  # above it, epsilon protects nobody: Ponomareva et al. 2023, arXiv:2303.00654, section 5.2.1
CLOSE = 1e-4  # how far below `target_epsilon` the noise may keep epsilon, as a share of itself


@dataclass
class Privacy:
    """How clients are drawn, how much noise there is, and what may be spent.

    `noise_multiplier` z is the noise's standard deviation by the most that one client can change the sum of the
    updates: the clipping norm where one comes or goes, twice that where one is replaced.
    """

    noise_multiplier: float
    sampling: Literal["fixed", "poisson"]
    clients_per_round: int
    num_clients: int
    target_delta: float
    target_epsilon: float | None  # found for `horizon` rounds: then the noise is what keeps to it
    max_epsilon: float | None  # the run ends before
    horizon: int

    def __post_init__(self) -> None:
        rules = (
            ("noise_multiplier", 0 <= self.noise_multiplier < math.inf, "must be a number from 0"),
            (
                "target_delta",
                0 < self.target_delta * self.num_clients < 1,
                f"must be above 0, and well below 1 / {self.num_clients}, the share of one client",
            ),
            ("target_epsilon", _positive(self.target_epsilon), "must be a positive number, or null"),
            ("max_epsilon", _positive(self.max_epsilon), "must be a positive number, or null"),
            ("horizon", self.horizon >= 1, "must be 1 or more"),
        )
        for name, holds, wish in rules:
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)}: {wish}")
        if self.target_epsilon is not None:
            self.noise_multiplier = self._solved(self.target_epsilon)
            self.max_epsilon = min(self.target_epsilon, self.max_epsilon or math.inf)
        if self.max_epsilon is not None and (first := self.epsilon(1)) > self.max_epsilon:
            raise ValueError(f"max_epsilon={self.max_epsilon}: already the first round has epsilon {first:.4g}")

    @property
    def change(self) -> int:
        """How many clipping norms the sum of the updates can change where one client does."""
        return 1 if self.sampling == "poisson" else 2

    def epsilon(self, rounds: int, noise_multiplier: float | None = None) -> float:
        """What so many rounds have told, for `target_delta`; infinite without noise."""
        z = self.noise_multiplier if noise_multiplier is None else noise_multiplier
        return epsilon(self.sampling, self.clients_per_round, self.num_clients, z, rounds, self.target_delta)

    def lasts(self, rounds: int) -> bool:
        """Whether so many rounds keep to `max_epsilon`."""
        return self.max_epsilon is None or self.epsilon(rounds) <= self.max_epsilon

    def _solved(self, target: float) -> float:
        """The least noise multiplier, to a share of CLOSE, whose epsilon is not above the target."""
        from scipy.optimize import brentq

        def excess(logarithm: float) -> float:
            return math.log(self.epsilon(self.horizon, math.exp(logarithm)) / target)

        low, high = math.log(1e-2), math.log(1e4)
        if excess(high) > 0:
            raise ValueError(f"target_epsilon={target}: no noise keeps to it for horizon={self.horizon} rounds")
        if excess(low) < 0:
            return math.exp(low)
        return math.exp(brentq(excess, low, high, xtol=CLOSE) + CLOSE)


@cache
def epsilon(
    sampling: Literal["all", "fixed", "poisson"],
    cohort: int,
    population: int,
    noise_multiplier: float,
    times: int,
    delta: float,
) -> float:
    """What normal noise on the sum of a cohort tells so many times of one of the population; infinite without noise.

    The noise's standard deviation is `noise_multiplier` times the most that one can change the sum.
    """
    if not times:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    from dp_accounting import rdp  # two seconds to import

    curves = [_curve(kind, cohort, population, noise_multiplier) for kind in {sampling, "all"}]
    orders = rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS
    return min(float(rdp.compute_epsilon(orders, times * curve, delta)[0]) for curve in curves)


@cache
def _curve(sampling: str, cohort: int, population: int, noise_multiplier: float) -> NDArray[np.float64]:
    """The Renyi divergence of one round, for each of dp-accounting's default orders.

    To take everybody tells at least as much as a sample does: with little noise that bound is below the one of "fixed".
    """
    import dp_accounting as dp
    from dp_accounting import rdp

    relation, gaussian = dp.NeighboringRelation, dp.GaussianDpEvent(noise_multiplier)
    neighbours, event = {
        "all": (relation.ADD_OR_REMOVE_ONE, gaussian),
        "poisson": (relation.ADD_OR_REMOVE_ONE, dp.PoissonSampledDpEvent(cohort / population, gaussian)),
        "fixed": (relation.REPLACE_ONE, dp.SampledWithoutReplacementDpEvent(population, cohort, gaussian)),
    }[sampling]
    # It has no public name for the curve, and to compose each round anew would compute it each time.
    with _unheard():  # it warns of each order that does not converge, and leaves it out
        curve: NDArray[np.float64] = rdp.RdpAccountant(neighboring_relation=neighbours).compose(event)._rdp
    return curve


@contextmanager
def _unheard() -> Iterator[None]:
    """What is logged goes nowhere; absl would set up the root logger for it, and leave it so."""
    nowhere = logging.NullHandler()
    logging.root.addHandler(nowhere)
    try:
        yield
    finally:
        logging.root.removeHandler(nowhere)


def _positive(value: float | None) -> bool:
    return value is None or 0 < value < math.inf
