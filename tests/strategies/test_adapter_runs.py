"""Runs of FLoRA, FlexLoRA and HetLoRA on a small model: bytes, order, breaks, and what is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import Launch, compose, digests, forked, long, often, table
from omegaconf import DictConfig
from safetensors.torch import load_file

from fl_bench import commands
from fl_bench.runs.begin import Start
from fl_bench.runs.checks import check
from fl_bench.runs.execute import execute

RUN = (
    "task=mnist", "task._target_=adapted.Digits", "num_clients=4", "num_rounds=3", "local.steps=3",
)  # fmt: skip
RANKS = "strategy.ranks=[1,2,4]"  # of four clients: 1, 2, 4, 1
PER_RANK = 4 * (784 + 12 + 12 + 10)  # bytes of a component of both adapters


def compose_words(words: Sequence[str]) -> DictConfig:
    return compose(*words)


@pytest.mark.parametrize(
    ("name", "down"),
    [
        ("flexlora", [1, 2, 4, 1]),
        ("hetlora", [1, 2, 4, 1]),
        ("flora", [8, 8, 8, 8]),  # the stack of all four
    ],
)
def test_bytes_are_those_of_each_rank(name: str, down: list[int], launch: Launch) -> None:
    run = launch(*RUN, f"strategy={name}", RANKS)
    rows = [row for row in table(run, "clients") if row["round"] == "2"]
    assert [int(row["bytes_up"]) for row in rows] == [PER_RANK * rank for rank in (1, 2, 4, 1)]
    whole = 4 * (784 * 12 + 12 * 10)  # of weights, which are longer than any stack here
    assert max(down) * PER_RANK < whole
    assert [int(row["bytes_down"]) for row in rows] == [PER_RANK * rank for rank in down]


def test_adapters_are_compressed_on_their_way(launch: Launch) -> None:
    run = launch(*RUN, "strategy=flexlora", RANKS, "compression=fp16", "num_rounds=1")
    rows = [row for row in table(run, "clients") if row["round"] == "1"]
    assert [int(row["bytes_up"]) for row in rows] == [PER_RANK * rank // 2 for rank in (1, 2, 4, 1)]
    assert [int(row["bytes_down"]) for row in rows] == [PER_RANK * rank for rank in (1, 2, 4, 1)]


NAMES = ("flora", "flexlora", "hetlora")
UNEVEN = (RANKS, "network.dropout=0.3", "evaluate.clients=true", "clients_per_round=3")


@pytest.mark.parametrize("name", NAMES)
def test_learns(name: str, launch: Launch) -> None:
    run = launch(*RUN, f"strategy={name}", RANKS, "local.steps=20", "local.optimizer.name=Adam", "local.lr=0.01")
    losses = [float(row["test_loss"]) for row in table(run, "metrics")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", often(NAMES, "flora"))
def test_neither_the_order_nor_a_break_changes_a_bit(name: str, launch: Launch, tmp_path: Path) -> None:
    words = (*RUN, f"strategy={name}", *UNEVEN)
    whole = launch(*words, "num_rounds=5")
    assert any(row["status"] == "dropped" for row in table(whole, "clients"))
    backwards = ("engine.packing=false", "engine._target_=fl_bench.runs.checks.Backwards")
    assert digests(launch(*words, "num_rounds=5", *backwards)) == digests(whole)
    broken, scratch = launch(*words, "num_rounds=3"), tmp_path / "more"
    scratch.mkdir()
    assert execute(compose(*words, "num_rounds=5"), broken, scratch, Start.RESUME) == 0
    assert digests(broken) == digests(whole)
    for row in (row for row in table(whole, "clients") if row["round"] == "4" and row["status"] == "ok"):
        which = ("--round", "4", "--client", row["client"], "--trust", "adapted")
        assert commands.call("replay", [str(whole), *which]) == 0


@long
@pytest.mark.parametrize("name", NAMES)
def test_engines_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    words = (
        "task=instruct",
        f"strategy={name}",
        RANKS,
        "num_clients=4",
        "num_rounds=3",
        "local.steps=1",
        "figures=false",
    )
    for engine in ("inline", "simulation"):
        result = forked(*words, f"engine={engine}", f"hydra.run.dir={engine}", cwd=tmp_path, timeout=400)
        assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "inline") == digests(tmp_path / "simulation")


@long
@pytest.mark.parametrize("name", NAMES)
def test_the_checks_hold(name: str, tmp_path: Path) -> None:
    """With one client, and nothing pruned, HetLoRA is plain training."""
    outcomes = {which: outcome for which, outcome, _ in check(name, compose_words, RUN[:2], tmp_path)}
    known = {"one_client"} if name == "hetlora" else set()
    assert {which for which, outcome in outcomes.items() if outcome == "ok"} == {"order", "dropped"} | known
    assert "FAILED" not in outcomes.values()


def test_flora_clients_keep_the_weights_of_the_server(launch: Launch) -> None:
    """To the bit: what a client has after its last turn is the model of the round before."""
    run = launch(*RUN, "strategy=flora", "num_rounds=2")
    before = load_file(launch(*RUN, "strategy=flora", "num_rounds=1") / "model.safetensors")
    states = [load_file(file) for file in run.glob("state/*/2.*")]
    assert len(states) == 4
    for state in states:
        assert {name: tensor.shape for name, tensor in state.items()} == {
            "1.base_layer.weight": (12, 784),
            "3.base_layer.weight": (10, 12),
        }
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("strategy.ranks=[5]", "strategy.ranks=[5]: must not be above the model's rank 4"),
        ("strategy.ranks=[0]", "strategy.ranks=[0]: must be a list of ranks of 1 or more"),
        ("strategy.ranks=[]", "strategy.ranks=[]: must be a list of ranks of 1 or more"),
        ("task._target_=fl_bench.tasks.mnist.Mnist", "needs adapters of which A and B travel, and nothing else"),
        ("robust=median", "robust: cannot be had with this strategy"),
        ("attack=sign_flip", "attack: cannot be had with this strategy"),
        ("privacy=local", "privacy: cannot be had with this strategy"),
        ("secure_aggregation=masks", "secure_aggregation=masks: must be none with this strategy"),
        ("ledger=signed", "ledger.signed=true: must be false with this strategy"),
        ("network=heterogeneous", "network.bytes_per_second_up="),
        ("compression=topk", "compression: TopK follows a client's update over the rounds"),
        ("topology=ring", "strategy: its server half is more than a plain mean"),
    ],
)
def test_refused(word: str, text: str, refused: Callable[..., str]) -> None:
    said = refused(*RUN, "strategy=flexlora", word)
    assert text in said
    assert said.count("\n") == 1
