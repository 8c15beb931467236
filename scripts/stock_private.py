"""Flower's wrappers for differential privacy beside ours: numbers for docs/flower-differences.md, as in stock.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from flwr.supercore.privacy_accounting import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, SamplingMethod
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant
from numpy.typing import ArrayLike
from serving import Model, serve
from stock import made

from fl_bench.strategies import private
from fl_bench.strategies.accountant import Privacy


def privacy(noise_multiplier: float, clients: int, of: int | None = None, sampling: Any = "fixed") -> Privacy:
    return Privacy(
        noise_multiplier, sampling, clients_per_round=clients, num_clients=of or clients, target_delta=1e-5,
        target_epsilon=None, max_epsilon=None, horizon=1,
    )  # fmt: skip


def stock_fixed(noise_multiplier: float, clients: int, accountant: Any = None) -> Strategy:
    wrapper = flower.DifferentialPrivacyServerSideFixedClipping
    return wrapper(flower.FedAvg(), noise_multiplier, 1.0, clients, accountant=accountant)


def own_fixed(noise_multiplier: float, clients: int) -> Strategy:
    return private.FixedClipping(1.0, True, privacy(noise_multiplier, clients))


def one_of_ten() -> tuple[Model, list[Model]]:
    """A model of 40,001 numbers, and ten clients' of which one moves the first of them by 1."""
    sent = {"w": np.zeros(40_001)}
    models = [{"w": np.full(40_001, 1e-9)} for _ in range(10)]
    models[0]["w"][0] = 1.0
    return sent, models


def noise_of(server: Strategy, models: Sequence[Model] | None = None) -> float:
    """The standard deviation of what is added to the numbers that nobody has moved."""
    sent, few = one_of_ten()
    np.random.seed(0)
    return float(made(server, sent, models or few)["w"][1:].std())


def weighed_by_examples() -> str:
    weights = [910, *[10] * 9]
    moved = [float(made(server(0, 10), *one_of_ten(), weights)["w"][0]) for server in (stock_fixed, own_fixed)]
    noise = [noise_of(server(1.0, 10)) for server in (stock_fixed, own_fixed)]
    assert np.allclose((moved[1], noise[1]), (1 / 10, 2 / 10), rtol=0.02)
    return (
        "norm 1, z = 1, ten clients, one of them with 910 of the 1,000 examples: it can move the mean by "
        f"{moved[0]:.2f}, and the noise has the standard deviation {noise[0]:.2f}: {moved[0] / noise[0]:.1f} times too "
        f"little; ours {moved[1]:.2f} and {noise[1]:.2f}, for one client that is replaced by another"
    )


def norms() -> str:
    stock = flower.DifferentialPrivacyServerSideAdaptiveClipping
    theirs = [
        followed(stock(flower.FedAvg(), 0.0, 10, initial_clipping_norm=start), "clipping_norm") for start in (0.3, 3.0)
    ]
    ours = [
        followed(private.AdaptiveClipping(start, 0.5, 0.2, None, at_server=True, privacy=privacy(0, 10)), "norm")
        for start in (0.1, 1.0, 10.0)
    ]
    assert np.allclose(ours, 2.0, rtol=0.1)
    return (
        "updates with lengths from 1 to 3, and so the quantile 0.5 at 2: after 60 rounds without noise the norm is "
        f"{theirs[0]:.1g} from 0.3, and {theirs[1]:,.0f} from 3; ours {ours[0]:.2f} from 0.1, {ours[1]:.2f} from 1, "
        f"{ours[2]:.2f} from 10"
    )


def followed(server: Any, norm: str) -> float:
    """The norm after 60 rounds of ten clients."""
    rng = np.random.default_rng(0)
    for number in range(1, 61):
        made(server, {"w": [0.0]}, [{"w": [length]} for length in rng.uniform(1, 3, 10)], round=number)
    return float(getattr(server, norm))


def noise_of_the_next_norm() -> str:
    z, count = 0.01, 0.02  # so little noise that the norm moves as without
    needed = (z**-2 - (2 * count) ** -2) ** -0.5 / 10
    theirs = flower.DifferentialPrivacyServerSideAdaptiveClipping(
        flower.FedAvg(), z, 10, initial_clipping_norm=1.0, clipped_count_stddev=count
    )
    ours = private.AdaptiveClipping(1.0, 0.5, 0.2, count, at_server=True, privacy=privacy(z, 10, sampling="poisson"))
    long = [{"w": np.array([100.0, *np.zeros(40_000)])}] * 10
    factors = [noise_of(server, long) / needed for server in (theirs, ours)]
    assert np.isclose(factors[1], 1.0, rtol=0.02)
    return (
        f"all ten clients are clipped: the noise is {factors[0]:.2f} times that of the norm which clipped them; ours "
        f"{factors[1]:.2f} times"
    )


def failures() -> str:
    sent, models = {"w": [0.0]}, [{"w": [1.0]}] * 2
    assert serve(stock_fixed(0, 3), sent, models, failed=1) is None
    ours = float(made(own_fixed(0, 3), sent, models, failed=1)["w"][0])
    assert np.isclose(ours, 2 / 3)
    return f"one of three clients fails, the others' updates are 1: no model; ours moves by {ours:.2f}"


def zero_update() -> str:
    sent: Mapping[str, ArrayLike] = {"w": [0.0]}
    made(own_fixed(0, 2), sent, [sent, sent])
    try:
        made(stock_fixed(0, 2), sent, [sent, sent])
    except ZeroDivisionError as error:
        return f"a client sends back what it was sent: ZeroDivisionError ({error}); ours makes a model of it"
    raise AssertionError("it is no longer so")


def accounted() -> str:
    """Of Flower's z = 1: noise of one norm, and so z = 0.5 of ours where one client is replaced by another."""
    theirs = accountant(1000)
    theirs.compose(GaussianPrivacyEvent(1.0, 100, 1000), 100)
    everybody, fixed, poisson = (
        privacy(z, clients, 1000, way).epsilon(100)
        for z, clients, way in ((0.5, 1000, "fixed"), (0.5, 100, "fixed"), (1.0, 100, "poisson"))
    )
    try:
        made(stock_fixed(1.0, 2, accountant(2)), {"w": [0.0]}, [{"w": [1.0]}] * 2, [1, 2])
        raise AssertionError("unequal weights are no longer refused")
    except ValueError as error:
        refused = str(error)
    return (
        "100 of 1,000 clients in each of 100 rounds, z = 1, delta 1e-5: its accountant says epsilon "
        f"{theirs.get_epsilon(1e-5):.0f}, and with unequal weights `{refused}`; with that noise, where one client is "
        f"replaced by another, it is {everybody:.0f}, and {fixed:.1f} if it counts that they are a sample; taken for "
        f"Poisson cohorts, it would seem to be {poisson:.1f}"
    )


def accountant(population: int) -> RdpAccountant:
    relation, sampling = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
    return RdpAccountant(PrivacyConfig(1e-5, population, relation, sampling))
