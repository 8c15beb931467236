"""Flower's stock strategies beside ours and the papers' formulas: numbers for docs/flower-differences.md.

Each function from `momentum_of_variances` on is a case, and says what has come out. It fails where ours is not the
paper's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from serving import Model, serve

from fl_bench.robust.base import Rule, Told
from fl_bench.robust.before import Mixing
from fl_bench.robust.by_coordinate import TrimmedMean
from fl_bench.robust.krum import Bulyan, Krum, MultiKrum
from fl_bench.strategies import fedopt, qfedavg

VAR = "norm.running_var"
LOSSES = ("train_loss", qfedavg.LOSS)  # what Flower's q-FedAvg reads, and what ours does
OPTIMISERS = ("FedAdam", "FedYogi", "FedAdagrad")


def made(*arguments: Any, **given: Any) -> Model:
    """`serve`, where it must make a model."""
    served = serve(*arguments, **given)
    assert served is not None
    return served[0]


def weight(server: Strategy, updates: Iterable[float], weights: Sequence[int] = ()) -> float:
    """The one weight of a model after a round, from 0, if these are the clients' updates."""
    return float(made(server, {"w": [0.0]}, [{"w": [update]} for update in updates], weights)["w"][0])


# BatchNorm's statistics


def variances(server: Strategy, rounds: int) -> list[float]:
    """A running variance after each round: from 1, and 0.05 at all clients whatever they are sent."""
    path = [1.0]
    for number in range(1, rounds + 1):
        sent, models = {VAR: [path[-1]]}, [{VAR: [0.05]}] * 2
        metrics = [dict.fromkeys(LOSSES, 1.0)] * 2
        path.append(float(made(server, sent, models, metrics=metrics, round=number)[VAR][0]))
    return path[1:]


def below_zero(server: Strategy) -> str:
    path = variances(server, 60)
    first = next((number for number, value in enumerate(path, 1) if value < 0), None)
    return f"{path[first - 1]:.3f} in round {first}" if first else f"{path[9]:.3f} after 10 rounds, never negative"


def momentum_of_variances() -> str:
    theirs = below_zero(flower.FedAvgM(server_momentum=0.9))
    ours = variances(fedopt.FedAvgM(0.9, 1.0), 60)
    return f"a variance that is 0.05 at all clients, from 1: {theirs}; ours {only(ours):.3f} from round 1 on"


def adaptive_variances() -> str:
    theirs, ours = [], []
    for name in OPTIMISERS:
        moments = {} if name == "FedAdagrad" else {"beta_1": 0.9, "beta_2": 0.99}
        theirs.append(f"{name} {below_zero(getattr(flower, name)(eta=0.1, tau=1e-3, **moments))}")
        ours += variances(getattr(fedopt, name)(eta=0.1, tau=1e-3, **moments), 60)
    return f"as for `fedavgm`, with eta = 0.1: {'; '.join(theirs)}; ours {only(ours):.3f} from round 1 on"


def only(values: Iterable[float]) -> float:
    """The one value that they all have."""
    (value,) = {round(value, 6) for value in values}
    return value


# Optimisers at the server


def steps(server: Strategy, update: float, rounds: int) -> NDArray[np.float64]:
    """How far a weight moves in each round, if this is the clients' mean update in all of them."""
    path = [0.0]
    for number in range(1, rounds + 1):
        models = [{"w": [path[-1] + update]}] * 2
        path.append(float(made(server, {"w": [path[-1]]}, models, round=number)["w"][0]))
    return np.diff(path)


def paper_steps(name: str, update: float, rounds: int, beta_1: float = 0.0, beta_2: float = 0.0) -> list[float]:
    """The same by algorithm 2 of Reddi et al. 2021."""
    eta, tau = 0.01, 1e-3
    m, v, path = 0.0, tau**2, []
    for _ in range(rounds):
        m = beta_1 * m + (1 - beta_1) * update
        v = {
            "FedAdagrad": v + update**2,
            "FedAdam": beta_2 * v + (1 - beta_2) * update**2,
            "FedYogi": v - (1 - beta_2) * update**2 * float(np.sign(v - update**2)),
        }[name]
        path.append(eta * m / (v**0.5 + tau))
    return path


def first_steps(name: str, seen: Sequence[int] = (1, 2, 3, 10)) -> str:
    """How long the steps are, against the paper's, with the tau and the betas of our yaml; eta does not matter."""
    moments = {} if name == "FedAdagrad" else {"beta_1": 0.9, "beta_2": 0.99}
    said, largest = [], 0.0
    for update in (0.01, 0.002):
        paper = paper_steps(name, update, max(seen), **moments)
        theirs, ours = (
            steps(getattr(kind, name)(eta=0.01, tau=1e-3, **moments), update, max(seen)) / paper - 1
            for kind in (flower, fedopt)
        )
        percents = ", ".join(f"{100 * theirs[number - 1]:+.0f} %" for number in seen)
        said.append(f"{percents} where the mean update is {update}")
        largest = max(largest, np.abs(ours).max())
    assert largest < 1e-3, largest
    rounds = ", ".join(map(str, seen))
    against = f"length of the steps in rounds {rounds} against the paper's, with tau = 0.001"
    return f"{against}: {'; '.join(said)}; ours within 0.1 %"


# q-FedAvg


def fair_step() -> str:
    theirs = flower.QFedAvg(client_learning_rate=0.1, q=1.0)
    ours = qfedavg.QFedAvg(1.0, None, 0.1, {"name": "SGD", "momentum": 0.9})
    sent, models = {"w": [0.0]}, [{"w": [1.0]}] * 2
    metrics = [dict.fromkeys(LOSSES, 2.0)] * 2
    moved = [float(made(server, sent, models, metrics=metrics)["w"][0]) for server in (theirs, ours)]
    # Loss 2, update 1, q = 1: 1 / (1 + q L / 2)
    assert np.allclose(moved, [1 / (1 + lipschitz / 2) for lipschitz in (10, 1)])
    return (
        f"lr = 0.1, momentum 0.9, q = 1, loss 2, all updates 1: the model moves by {moved[0]:.3f} (L = 10); ours by "
        f"{moved[1]:.3f} (L = 1)"
    )


def fair_statistics() -> str:
    sent, models = {"w": [0.0], VAR: [1.0]}, [{"w": [1.0], VAR: [0.05]}] * 2
    metrics = [dict.fromkeys(LOSSES, 2.0)] * 2
    servers = flower.QFedAvg(client_learning_rate=0.1, q=1.0), qfedavg.QFedAvg(1.0, None, 0.1, {"name": "SGD"})
    new = [made(server, sent, models, metrics=metrics) for server in servers]
    theirs, ours = (f"by {float(model['w'][0]):.3f} and to {float(model[VAR][0]):.3f}" for model in new)
    return f"at all clients a weight moves by 1 and a variance to 0.05, from 1: {theirs}; ours {ours}"


def without_fairness() -> str:
    sent, models = {"w": [0.0]}, [{"w": [1.0]}, {"w": [0.0]}]
    servers = flower.QFedAvg(client_learning_rate=0.1, q=0.0), qfedavg.QFedAvg(0.0, None, 0.1, {"name": "SGD"})
    both = [made(server, sent, models, [30, 10], [dict.fromkeys(LOSSES, 2.0)] * 2)["w"][0] for server in servers]
    average = weight(flower.FedAvg(), [1.0, 0.0], [30, 10])
    return f"updates 1 and 0 of clients with 30 and 10 examples: {only(both):.2f}, where FedAvg has {average:.2f}"


# Robust rules


def by_rule(rule: Rule, updates: Sequence[Sequence[float]] | NDArray[np.float32]) -> NDArray[np.float64]:
    """The update that a rule of ours makes of these [n, N]."""
    told = Told(range(len(updates)), np.random.default_rng(0))
    new = rule.combine(np.asarray(updates, np.float64), told)
    assert new is not None
    return new


def found(server: Strategy | None, size: float, cases: int = 40) -> int:
    """In how many cases Krum, Flower's or ours, takes the client that is the mean of all, the nearest to the others."""
    right = 0
    for case in range(cases):
        rng = np.random.default_rng(case)
        sent = rng.normal(size=60_000).astype(np.float32)
        models = [sent + (size * rng.normal(size=60_000)).astype(np.float32) for _ in range(8)]
        middle = int(rng.integers(8))
        models[middle] = sent + np.mean([model - sent for model in models], axis=0).astype(np.float32)
        if server is None:
            updates = np.stack([model - sent for model in models])
            right += int(np.array_equal(by_rule(Krum(Mixing(), 0, 1), updates), updates[middle]))
        else:
            new = made(server, {"w": sent}, [{"w": model} for model in models])
            right += int(np.array_equal(new["w"], models[middle]))
    return right


def distances() -> str:
    sizes = (1e-3, 1e-4, 1e-5)
    theirs, ours = (
        ", ".join(str(found(server, size)) for size in sizes) for server in (flower.Krum(num_malicious_nodes=1), None)
    )
    return (
        "60,000 parameters, eight clients, updates of 1e-3, 1e-4 and 1e-5 of the weights: Krum finds the right client "
        f"in {theirs} of 40 cases, where chance would in 5; ours in {ours}"
    )


def selected_means() -> str:
    at, weights = (0.0, 1.0, 3.0, 9.0, 9.5), (1, 9, 1, 1, 1)  # with f = 1 the scores are 10, 5, 13, 36.25 and 42.5
    theirs = weight(flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2), at, weights)
    (ours,) = by_rule(MultiKrum(Mixing(), 0, 1, 2), [[update] for update in at])
    assert np.isclose(ours, 0.5)
    return f"updates 0 and 1 are selected, the second of 9 times the examples: {theirs:.2f}; ours {ours:.2f}"


def selected_once() -> str:
    at = (0.0, 5.0, 15.0, 18.0, 19.0, 24.0, 27.0)
    theirs = weight(flower.Bulyan(num_malicious_nodes=1), at)
    (ours,) = by_rule(Bulyan(Mixing(), 0, 1), [[update] for update in at])
    # By the paper 0, 5, 18, 19 and 24 are selected, and the three nearest to their median 18 count.
    assert np.isclose(ours, (18 + 19 + 24) / 3)
    return (
        f"f = 1, updates 0, 5, 15, 18, 19, 24, 27: {theirs:.2f}, the mean of 15, 18 and 19; ours {ours:.2f}, "
        "that of 18, 19 and 24"
    )


def refusals() -> str:
    updates, said = [0.0, *(100 + 0.1 * index for index in range(9))], []
    for number in (9, -3):
        krum = weight(flower.Krum(num_malicious_nodes=number), updates)
        try:
            new = serve(flower.Bulyan(num_malicious_nodes=number), {"w": [0.0]}, [{"w": [u]} for u in updates])
            bulyan = f"makes {'no model' if new is None else 'one'}"
        except ValueError:
            bulyan = "raises ValueError"
        said.append(f"num_malicious={number}: Krum's model is at {krum:.1f}, Bulyan {bulyan}")
    least = Krum(Mixing(), 0, 9).needed
    return f"ten clients, nine of them near 100: {'; '.join(said)}. Ours: with 9 it needs {least} answers"


def nobody_is_cut() -> str:
    theirs = weight(flower.FedTrimmedAvg(beta=0.09), [1.0] * 9 + [1000.0])
    least = TrimmedMean(Mixing(), 0, 0.09).needed
    return f"beta=0.09, nine updates of 1 and one of 1000: {theirs:.1f}. Ours: it needs {least} answers"
