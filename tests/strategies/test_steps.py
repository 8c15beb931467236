"""What a strategy's steps cost: counted where they are taken, and planned by the virtual clock before."""

from math import ceil

import numpy as np
import pytest
from conftest import FEW, STRATEGIES, Launch, often, table
from torch import nn
from turns import make_turn

from fl_bench.strategies.apfl import Mixture
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.centralized import Everything
from fl_bench.strategies.ditto import Ditto
from fl_bench.strategies.fedrep import Alternating
from fl_bench.strategies.perfedavg import Meta
from fl_bench.strategies.pfedme import MoreauEnvelope

# For each step of plain training: a personal model beside, a head before, a step of adaptation, five inner steps.
PASSES = {"apfl": 2, "ditto": 2, "fedrep": 2, "perfedavg": 2, "pfedme": 5}
WORDS = ("data=synthetic", "data.num_samples=200", "partition=linear", "num_clients=5", "clients_per_round=3",
         "num_rounds=2", "local.batch_size=16", "local.steps=null", "evaluate.clients=true")  # fmt: skip
# A virtual second for each step, and next to none for what travels.
SECONDS = ("network=heterogeneous", "network.spread=0", "network.seconds_per_step=1",
           "network.bytes_per_second_up=1e15", "network.bytes_per_second_down=1e15")  # fmt: skip
MORE = {"loadaboost": ("local.epochs=4",), "fedbuff": ("strategy.buffer=2",),
        "fedtrimmedavg": ("strategy.beta=0.4",)}  # fmt: skip


@pytest.mark.parametrize("strategy", often(STRATEGIES, *FEW, "apfl", "pfedme", "perfedavg", "fedrep"))
def test_what_was_done_is_what_the_clock_had_planned(launch: Launch, strategy: str) -> None:
    more = MORE.get(strategy, ("strategy.horizon=5",) if strategy.startswith("dp_") else ())
    folder = launch(f"strategy={strategy}", *WORDS, *SECONDS, *more)
    clients, metrics = table(folder, "clients"), table(folder, "metrics")
    trained = [row for row in clients if row["status"] == "ok"]
    assert len({row["num_examples"] for row in trained}) > (strategy != "centralized")
    for row in trained:
        nominal = ceil(int(row["num_examples"]) / 16) * PASSES.get(strategy, 1)
        if strategy == "loadaboost":  # 4 epochs are planned; 2 in round 1, and then 2, 4, 5 or 6
            assert float(row["virtual_seconds"]) == pytest.approx(4 * nominal)
            nominal *= int(float(row["train_amount"]))
        else:
            assert float(row["virtual_seconds"]) == pytest.approx(nominal)
        assert int(row["steps"]) == nominal
    assert {row["steps"] for row in clients if row["status"] != "ok"} <= {"0"}  # of those who were only evaluated
    assert metrics[0]["steps"] == ""
    for row in metrics[1:]:
        assert int(row["steps"]) == sum(int(of["steps"]) for of in clients if of["round"] == row["round"])


def test_parameters_that_cost_steps() -> None:
    assert (Alternating(1, head_passes=0).passes, Alternating(1, head_passes=3).passes) == (1, 4)
    assert MoreauEnvelope(lam=1.0, inner_steps=7, rate=0.5).passes == 7
    assert [Meta(None, order, 1e-3).passes for order in ("first", "hessian_free")] == [2, 4]  # type: ignore[arg-type]
    assert (LocalAlgorithm().passes, Ditto(lam=0.1).passes, Mixture(0.5, adaptive=True).passes) == (1, 2, 2)


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("strategy=perfedavg", "strategy.order=hessian_free"), 4 * 2),
        (("strategy=fedrep", "strategy.head_passes=3"), 4 * 2),
        (("strategy=pfedme", "strategy.inner_steps=3"), 3 * 2),
        (("strategy=centralized",), 5 * 2),  # the steps of all five
        (("strategy=ditto", "local.accumulate=4"), 2 * 2),  # a batch in pieces is one
        (("strategy=fedavg", "evaluate.adapt_steps=3"), 2),  # an evaluation is no training
        (("strategy=moon", "task=cifar"), 2),  # to look is no step
        (("strategy=qfedavg",), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_steps_by_hand(launch: Launch, words: tuple[str, ...], steps: int) -> None:
    folder = launch(*WORDS, *SECONDS, "local.steps=2", *words)
    trained = [row for row in table(folder, "clients") if row["status"] == "ok"]
    assert {row["steps"] for row in trained} == {str(steps)}
    assert [float(row["virtual_seconds"]) for row in trained] == pytest.approx([steps] * len(trained))


def test_ditto_computes_twice_as_long_as_fedavg_and_sends_as_much(launch: Launch) -> None:
    """31,400 bytes take 3.14 seconds up and 0.314 down; 4 steps of 2 seconds are 8, and 16 with a personal model."""
    devices = ("network=heterogeneous", "network.spread=0", "network.seconds_per_step=2",
               "network.bytes_per_second_up=1e4", "network.bytes_per_second_down=1e5")  # fmt: skip
    fedavg, ditto = (
        table(launch(f"strategy={name}", *devices, "local.steps=4", "num_rounds=2"), "metrics")[1:]
        for name in ("fedavg", "ditto")
    )
    assert [float(row["virtual_seconds"]) for row in fedavg] == pytest.approx([11.454, 22.908])
    assert [float(row["virtual_seconds"]) for row in ditto] == pytest.approx([19.454, 38.908])
    assert [row["bytes_up"] for row in fedavg] == [row["bytes_up"] for row in ditto]


def test_who_has_nothing_plans_no_step_but_where_all_is_in_one_place() -> None:
    sizes, local = np.array([0, 16, 17, 40]), {"steps": None, "epochs": 2, "batch_size": 16}
    assert Ditto(lam=0.1).steps(sizes, local).tolist() == [0, 4, 8, 12]
    assert Ditto(lam=0.1).steps(sizes, local | {"steps": 3}).tolist() == [0, 6, 6, 6]
    assert Everything().steps(sizes, local).tolist() == [10] * 4  # 73 rows are five batches
    assert Everything().steps(sizes, local | {"steps": 3}).tolist() == [12] * 4


def test_a_gradient_is_a_step_too() -> None:
    turn = make_turn(nn.Linear(1, 1, bias=False), [])
    turn.gradient({"x": turn.parameters.new_ones(1, 1), "y": turn.parameters.new_ones(1, 1)})
    assert turn.steps == 1


def test_who_sends_nothing_has_worked_and_who_fails_or_drops_counts_nothing(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: LocalAlgorithm, turn: object) -> None:
        if turn.client == 1:  # type: ignore[attr-defined]
            raise KeyError("as the test wants it")

    monkeypatch.setattr(LocalAlgorithm, "finish", finish)
    words = ("local.steps=3", "num_rounds=4", "num_clients=8", "network=flaky", "compression=importance")
    rows = table(launch(*words, "compression.threshold=1"), "clients")
    assert {(row["status"], row["steps"]) for row in rows} == {
        ("ok", "3"), ("withheld", "3"), ("dropped", "0"), ("failed", "0"),
    }  # fmt: skip
