"""Each algorithm on a model of one weight, by numbers worked out by hand.

The loss of weight w for a target t is (w - t)^2, its gradient 2 (w - t), and the learning rate is 0.1.
"""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from serving import serve
from torch import nn
from turns import LOCAL, make_turn

from fl_bench.data.partition import Partition
from fl_bench.strategies.apfl import Mixture
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.centralized import Everything
from fl_bench.strategies.ditto import Ditto
from fl_bench.strategies.feddyn import DynamicRegularization, FedDyn
from fl_bench.strategies.fednova import Normalized, NormalizedAveraging
from fl_bench.strategies.fedrep import Alternating
from fl_bench.strategies.loadaboost import Boosted, MedianLoss, plan
from fl_bench.strategies.perfedavg import Meta
from fl_bench.strategies.pfedme import MoreauEnvelope
from fl_bench.strategies.scaffold import ControlVariates, Scaffold
from fl_bench.strategies.server import MovedMean
from fl_bench.strategies.turn import Turn


def turn_of(weights: list[float], target: float, steps: int, **given: Any) -> Turn:
    """A turn with a product of weights, one a layer: prediction w1 * w2 * ... for x = 1."""
    layers = [nn.Linear(1, 1, bias=False) for _ in weights]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.fill_(weight)
    batch = {"x": torch.ones(1, 1), "y": torch.full((1, 1), target)}
    state, extras = ({k: torch.tensor([v]) for k, v in given.pop(key, {}).items()} for key in ("state", "extras"))
    return make_turn(model, [batch] * steps, state=state, extras=extras, **given)


def play(algorithm: LocalAlgorithm, turn: Turn) -> float:
    """What the client sends, of a single weight."""
    turn.model.train()
    algorithm.begin(turn)
    algorithm.train(turn)
    with torch.no_grad():
        algorithm.finish(turn)
    return float(turn.parameters[0])


def close(value: float | list[float]) -> object:
    return pytest.approx(value, abs=1e-6)


def moved(server: MovedMean, name: str, sent: float, mean: float, clients: list[int], **metrics: float) -> float:
    """The server's new value of one number, of these clients' mean; all four have ten examples each."""
    made = serve(server, {name: [sent]}, [{name: [mean]}], [10 * len(clients)], [metrics], all_weights=40)
    assert made is not None
    return float(made[0][name][0])


def test_plain_steps() -> None:
    assert play(LocalAlgorithm(), turn_of([0.0], 1.0, 2)) == close(0.36)  # 0 -> 0.2 -> 0.36


def test_scaffold() -> None:
    turn = turn_of([0.0], 1.0, 2, extras={"variate": 0.5}, state={"variate": 1.0})
    # gradients -2 and, at 0.25, -1.5; corrected by 0.5 - 1
    assert play(ControlVariates(), turn) == close(0.45)
    mine = 1 - 0.5 + (0 - 0.45) / (2 * 0.1)  # option II of the paper: -1.75, the mean of -2 and -1.5
    assert float(turn.state["variate"]) == close(mine)
    assert float(turn.extras["variate"]) == close(0.5 + mine - 1)


def test_scaffolds_server() -> None:
    server = Scaffold(server_lr=0.5)
    assert moved(server, "w", 1.0, 2.0, [0, 3]) == close(1.5)
    assert moved(server, "variate/w", 1.0, 3.0, [0, 3]) == close(1 + 2 / 4 * 2)  # two of four
    assert moved(server, "1.running_var", 1.0, 0.3, [0, 3]) == close(0.3)


def test_feddyn() -> None:
    turn = turn_of([0.0], 1.0, 2, state={"gradient": 0.2}, config={"alpha": 0.5})
    # -2 - 0.2 -> 0.22; then -1.56 + 0.5 * 0.22 - 0.2 -> 0.385
    assert play(DynamicRegularization(), turn) == close(0.385)
    assert float(turn.state["gradient"]) == close(0.2 - 0.5 * 0.385)


def test_feddyns_server() -> None:
    server = FedDyn(alpha=0.5)
    # h = -0.5 / 4 * (2 * 0.4) = -0.1, w = 0.4 + 0.1 / 0.5
    assert moved(server, "w", 0.0, 0.4, [1, 2]) == close(0.6)
    # h = -0.1 - 0.5 / 4 * (2 * 0.1) = -0.125
    assert moved(server, "w", 0.6, 0.7, [1, 2]) == close(0.7 + 0.125 / 0.5)


@pytest.mark.parametrize(
    ("unit", "momentum", "effective", "sent"),
    [
        (1.0, 0.0, 2.0, 1.18),  # 1 -> 1.2 -> 1.36: 0.36 by 2 steps
        (3.0, 0.0, 2.0, 1.54),  # three times 0.18
        (1.0, 0.5, 2.5, 1.184),  # 1 -> 1.2 -> 1.2 + 0.1 (1.6 + 0.5 * 2) = 1.46: 0.46 by 1 + 1.5
        (3.0, 0.5, 2.5, 1.552),
    ],
)
def test_fednova(unit: float, momentum: float, effective: float, sent: float) -> None:
    local = LOCAL | {"steps": 2, "lr": 0.1, "optimizer": {"name": "SGD", "momentum": momentum}}
    turn = turn_of([1.0], 2.0, 2, local=local, config={"unit": unit})
    assert play(Normalized(), turn) == close(sent)
    assert turn.reply == {"effective_steps": close(effective)}


def test_fednovas_server() -> None:
    server = NormalizedAveraging()
    # the unit is 1 at first: 1 + 3 / 1 * 0.1; then it is 3: 1 + 4 / 3 * 0.3; then 4: 1 + 2 / 4 * 0.4
    assert moved(server, "w", 1.0, 1.1, [0, 1], effective_steps=3.0) == close(1.3)
    assert moved(server, "w", 1.0, 1.3, [0, 1], effective_steps=4.0) == close(1.4)
    assert moved(server, "w", 1.0, 1.4, [0, 1], effective_steps=2.0) == close(1.2)


@pytest.mark.parametrize("unit", [1.0, 3.0])
def test_fednovas_unit_is_no_part_of_its_model(unit: float) -> None:
    """Updates 0.2 and 0.36 of 1 and 2 steps, of 10 examples each: 1 + 1.5 * (0.2 + 0.18) / 2, in any unit."""
    server, sent = NormalizedAveraging(), []
    server.unit = unit
    for steps in (1, 2):
        local = LOCAL | {"steps": steps, "lr": 0.1}
        sent.append(play(Normalized(), turn_of([1.0], 2.0, steps, local=local, config={"unit": unit})))
    assert moved(server, "w", 1.0, sum(sent) / 2, [0, 1], effective_steps=1.5) == close(1.285)


def test_ditto() -> None:
    turn = turn_of([0.0], 1.0, 2, state={"personal": 2.0})
    assert play(Ditto(lam=1.0), turn) == close(0.36)
    assert float(turn.state["personal"]) == close(1.32)  # 2 -> 2 - 0.1 (2 + 2) = 1.6 -> 1.6 - 0.1 (1.2 + 1.6)


def test_pfedme() -> None:
    turn = turn_of([0.0], 1.0, 2)
    # theta: 0.2, 0.32, and w 0.16; theta: 0.424, 0.4864, and w 0.3232
    assert play(MoreauEnvelope(lam=2.0, inner_steps=2, rate=0.5), turn) == close(0.3232)
    assert float(turn.state["personal"]) == close(0.4864)


@pytest.mark.parametrize(("adaptive", "share"), [(True, 0.6), (False, 0.5)])
def test_apfl(adaptive: bool, share: float) -> None:
    turn = turn_of([0.0], 1.0, 1, state={"personal": 1.0})
    algorithm = Mixture(alpha=0.5, adaptive=adaptive)
    # the mixture is 0.5, its gradient -1: v += 0.1 * 0.5 * 1, alpha += 0.1 * (v - w) * 1
    assert play(algorithm, turn) == close(0.2)
    assert float(turn.state["personal"]) == close(1.05)
    assert float(turn.state["alpha"]) == close(share)
    algorithm.personalize(turn)
    assert float(turn.parameters[0]) == close(share * 1.05)  # the server's model is still 0


@pytest.mark.parametrize(("order", "end"), [("first", 0.1), ("hessian_free", 0.05)])
def test_perfedavg(order: Literal["first", "hessian_free"], end: float) -> None:
    # adapted: 0 + 0.25 * 2 = 0.5, gradient there -1; the whole derivative is (1 - 0.25 * 2) of it
    assert play(Meta(0.25, order, delta=0.01), turn_of([0.0], 1.0, 1)) == close(end)


def test_perfedavg_is_evaluated_after_one_step() -> None:
    turn = turn_of([0.0], 1.0, 1)
    Meta(0.25, "first", delta=0.01).personalize(turn)
    assert float(turn.parameters[0]) == close(0.5)


def test_fedrep_trains_the_head_and_then_the_base() -> None:
    turn = turn_of([1.0, 1.0], 3.0, 1)
    # the head: 1 + 0.1 * 2 * 2 * 1 = 1.4; then the base, which predicts 1.4: 1 + 0.1 * 2 * 1.6 * 1.4
    play(Alternating(personal_layers=1, head_passes=1), turn)
    assert turn.parameters.tolist() == close([1.448, 1.4])


@pytest.mark.parametrize(("steps", "end"), [(1, 0.36), (None, 0.2)])
def test_one_place_takes_the_steps_of_all_clients_or_the_epochs_of_one(steps: int | None, end: float) -> None:
    algorithm = Everything()
    two_clients = Partition(np.arange(6), np.array([0, 3, 6]), np.array([2, 5]))
    assert algorithm.rows(two_clients, 0).tolist() == [0, 1, 3, 4]
    local = LOCAL | {"steps": steps, "lr": 0.1}
    assert play(algorithm, turn_of([0.0], 1.0, 1, local=local)) == close(end)


@pytest.mark.parametrize(
    ("amount", "parts"), [(10, [5, 5, 4, 1]), (5, [3, 3, 2]), (4, [2, 2, 1]), (2, [1, 1]), (1, [1, 1])]
)
def test_loadaboosts_plan(amount: int, parts: list[int]) -> None:
    assert plan(amount) == parts


@pytest.mark.parametrize(("threshold", "done"), [(1.0, 2), (0.4, 4), (0.1, 5), (math.inf, 2)])
def test_loadaboost_goes_on_until_its_loss_is_below(threshold: float, done: int) -> None:
    # losses before each step: 1, 0.64, 0.41, 0.26, 0.17; the means of the parts 0.82, 0.34 and 0.17
    turn = turn_of([0.0], 1.0, 4, config={"loss-threshold": threshold})
    play(Boosted(2, None), turn)
    assert turn.reply["amount"] == done


def test_loadaboosts_server_sends_the_median() -> None:
    server = MedianLoss(tolerance=2.0)
    serve(server, {"w": [0.0]}, [{"w": [0.0]}] * 3, metrics=[{"last_loss": loss} for loss in (1.0, 5.0, 2.0)])
    assert server.tolerance * server.median == 4.0
