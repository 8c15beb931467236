"""SplitFed beside FedAvg, beside plain loops of torch, and byte by byte."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, compose, digests, forked, long, table
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from fl_bench import commands, rng
from fl_bench.build import build
from fl_bench.data import tables
from fl_bench.data.arrays import batches
from fl_bench.data.partition import Partition
from fl_bench.errors import ConfigError
from fl_bench.federation.exchange import beside_in
from fl_bench.federation.fleet import Fleet
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.runs.prepare import prepare
from fl_bench.strategies.splitfed import halves
from fl_bench.tasks.base import Task

# Digits of 64 pixels: at the clients 64 to 8 numbers, at the server 8 to 6 to 10.
WORDS = (
    "strategy=splitfed", "task=tabular", "data=digits", "model=mlp", "model.hidden=[8,6]", "num_clients=3",
    "num_rounds=2", "partition=linear", "partition.holdout=0", "local.steps=null", "local.epochs=2",
    "local.batch_size=100", "local.lr=0.3",
)  # fmt: skip
V1, V2 = "strategy.variant=v1", "strategy.variant=v2"
LOWER, UPPER = 64 * 8 + 8, 8 * 6 + 6 + 6 * 10 + 10


def model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("more", [(), ("+local.optimizer.momentum=0.9", "clients_per_round=2")])
def test_v1_is_fedavg_computed_in_two_places(launch: Launch, more: tuple[str, ...]) -> None:
    split = launch(*WORDS, V1, *more)
    fedavg = launch(*(word for word in WORDS if not word.startswith("strategy")), "strategy=fedavg", *more)
    ours, theirs = model(split), model(fedavg)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0)
    for ours_row, row in zip(table(split, "metrics"), table(fedavg, "metrics"), strict=True):
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            assert (name in row) == (name in ours_row)
            if row[name]:
                np.testing.assert_allclose(float(ours_row[name]), float(row[name]), atol=1e-6)


def test_v2_is_a_loop_in_which_one_upper_half_sees_all_batches(launch: Launch, tmp_path: Path) -> None:
    folder = launch(*WORDS, V2, "partition=iid", "num_clients=2", "local.epochs=1")
    data = tables.digits()
    x, y = (torch.from_numpy(data.train[name]) for name in "xy")
    partition = Partition.open(tmp_path / "scratch1" / "data")
    rows = [partition.train_rows(client) for client in range(2)]
    rng.seed_torch(0, "model")
    net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 10))
    for round in (1, 2):
        order = rng.generator(0, "server order", round).permutation(2)
        lowers = [nn.Linear(64, 8) for _ in range(2)]
        todo = []
        for client, lower in enumerate(lowers):
            lower.load_state_dict(net[0].state_dict())
            endless = batches(rows[client], 100, rng.generator(0, "batches", round, client))
            todo.append(list(islice(endless, 8)))  # 719 rows in batches of 100
        for step in range(8):
            for client in np.argsort(order):
                part = todo[client][step]
                trained = [*lowers[client].parameters(), *net[2:].parameters()]
                loss = cross_entropy(net[1:](lowers[client](x[part])), y[part])
                for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                    parameter.data -= 0.3 * gradient
        for name in ("weight", "bias"):  # both have 719 rows
            getattr(net[0], name).data = sum(getattr(lower, name).data for lower in lowers) / 2
    for ours, tensor in zip(model(folder).values(), sorted_by(model(folder), net), strict=True):
        torch.testing.assert_close(ours, tensor, atol=1e-6, rtol=0)


def sorted_by(named: dict[str, torch.Tensor], net: nn.Sequential) -> list[torch.Tensor]:
    """The tensors of the loop's net in the order of the run's names: 1.0 is its first layer, 2.0 the second, 3."""
    places = {"1.0": 0, "2.0": 2, "3": 4}
    return [getattr(net[places[name.rpartition(".")[0]]], name.rpartition(".")[2]).data for name in named]


def test_v2_with_one_client_is_plain_training(launch: Launch) -> None:
    one = launch(*WORDS, V2, "num_clients=1")
    fedavg = launch(*(word for word in WORDS if not word.startswith("strategy")), "strategy=fedavg", "num_clients=1")
    for name, tensor in model(fedavg).items():
        torch.testing.assert_close(model(one)[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("more", "number"),
    [((), 4), (("compression=fp16", "compression/down=fp16"), 2)],
)
def test_every_byte_is_counted(launch: Launch, more: tuple[str, ...], number: int) -> None:
    """Of each row in each of two epochs go 8 numbers and a label of 8 bytes up, and 8 numbers down."""
    folder = launch(*WORDS, V1, "num_rounds=1", *more)
    sizes = [sum(int(row["samples"]) for row in table(folder, "partition") if row["client"] == k) for k in "012"]
    assert sum(sizes) == 1438
    for row, size in zip(table(folder, "clients"), sizes, strict=True):
        assert int(row["bytes_up"]) == number * LOWER + 2 * size * (8 * number + 8)
        assert int(row["bytes_down"]) == number * LOWER + 2 * size * 8 * number
        assert int(row["steps"]) == 2 * -(-size // 100)


def test_what_each_side_sees(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower half there and back, activations and labels up, gradients down: no pixel, and nothing of the upper."""
    down: list[dict[str, tuple[int, ...]]] = []
    up: list[dict[str, tuple[int, ...]]] = []
    exchange = Fleet.exchange

    def watched(fleet: Fleet, messages: Any, plan: Any, *rest: Any, **options: Any) -> Any:
        messages = list(messages)
        answers = exchange(fleet, messages, plan, *rest, **options)
        for found, contents in (
            (down, [m.content for m in messages]),
            (up, [a.message.content for a in answers if a.message is not None]),
        ):
            for content in contents:
                found.append({name: array.shape for name, array in beside_in(content).items()})
        models = {name for m in messages for name in m.content.array_records["arrays"]}
        assert not messages or models == {"1.0.weight", "1.0.bias"}
        for answer in answers:
            arrays: Any = answer.message.content.array_records.get("arrays", {}) if answer.message is not None else {}
            assert not any(array.numpy().any() for name, array in arrays.items() if not name.startswith("1.0"))
        return answers

    monkeypatch.setattr(Fleet, "exchange", watched)
    launch(*WORDS, V2, "num_rounds=1")
    assert {name for found in down for name in found} == {"gradient"}
    assert {name for found in up for name in found} == {"activations", "labels"}
    assert all(len(shape) == 1 if name == "labels" else shape[1:] == (8,) for f in up for name, shape in f.items())


@pytest.mark.parametrize("variant", [V1, V2])
def test_who_drops_out_is_left_out(launch: Launch, variant: str) -> None:
    """It takes no step and sends nothing, and the round goes on without it."""
    folder = launch(*WORDS, variant, "network=flaky", "num_rounds=4", "seed=3")
    statuses = [row["status"] for row in table(folder, "clients")]
    assert {"ok", "dropped"} == set(statuses)
    for row in table(folder, "clients"):
        if row["status"] == "dropped":
            assert row["steps"] == "0"
            assert row["bytes_up"] == "0"


def test_who_fails_in_mid_round_is_in_no_mean(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """v1 without a client that fails at its third batch is FedAvg without that client."""
    from fl_bench.strategies.splitfed import Lower

    go_on = Lower.go_on

    def failing(self: Lower, turn: Any) -> Any:
        found = go_on(self, turn)
        if turn.client == 1 and turn.steps == 2:
            raise RuntimeError("the link is down")
        return found

    monkeypatch.setattr(Lower, "go_on", failing)
    folder = launch(*WORDS, V1, "num_rounds=1")
    assert [row["status"] for row in table(folder, "clients")] == ["ok", "failed", "ok"]
    words = [word for word in WORDS if not word.startswith("strategy")]

    from fl_bench.strategies.base import LocalAlgorithm

    train = LocalAlgorithm.train

    def also(self: LocalAlgorithm, turn: Any) -> Any:
        if turn.client == 1:
            raise RuntimeError("the link is down")
        return train(self, turn)

    monkeypatch.setattr(LocalAlgorithm, "train", also)
    without = model(launch(*words, "strategy=fedavg", "num_rounds=1"))
    for name, tensor in model(folder).items():
        torch.testing.assert_close(tensor, without[name], atol=1e-6, rtol=0)


HARD = ("network=flaky", "compression=quantize", "clients_per_round=2", "num_rounds=4", "evaluate.clients=true",
        "partition.holdout=0.1")  # fmt: skip


@pytest.mark.parametrize("variant", [V1, V2])
def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(launch: Launch, tmp_path: Path, variant: str) -> None:
    whole = launch(*WORDS, variant, *HARD)
    parts = launch(*WORDS, variant, *HARD, "num_rounds=2")
    assert execute(compose(*WORDS, variant, *HARD), parts, tmp_path, Start.RESUME) == 0
    assert digests(parts) == digests(whole)
    assert digests(launch(*WORDS, variant, *HARD, "engine.packing=false")) == digests(whole)


@long
@pytest.mark.parametrize("variant", [V1, V2])
def test_the_simulation_has_the_same_bytes(tmp_path: Path, variant: str) -> None:
    runs = []
    for engine in ("inline", "simulation"):
        words = (*WORDS, variant, *HARD, "figures=false", f"engine={engine}", f"hydra.run.dir={engine}")
        done = forked(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        runs.append(digests(tmp_path / engine))
    assert runs[0] == runs[1]


def test_the_whole_model_is_evaluated_and_its_parts_are_drawn(launch: Launch, tmp_path: Path) -> None:
    folder = launch(*WORDS, V2, "figures=true")
    assert commands.call("evaluate", [str(folder), "--out", str(tmp_path / "out.csv")]) == 0
    said, last = table(tmp_path, "out")[0], table(folder, "metrics")[-1]
    assert (said["test_loss"], said["test_accuracy"]) == (last["test_loss"], last["test_accuracy"])
    assert commands.call("replay", [str(folder), "--round", "2", "--client", "1"]) == 0
    parts = [(row["module"], row["numbers"], row["at"]) for row in table(folder, "parts")]
    assert parts == [("0", "0", ""), ("1", str(LOWER), "client"), ("2", "54", "server"), ("3", "70", "server")]
    assert (folder / "figures" / "parts.png").exists()
    with pytest.raises(ConfigError, match=r"^strategy: clients send arrays beside a model, the labels too"):
        commands.call("audit", [str(folder)])


def test_where_a_model_is_cut() -> None:
    chain = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 2)
    )
    first = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    lower, upper = halves(chain, None)
    assert (list(lower.state_dict()), len(upper)) == (first, 3)
    lower, upper = halves(chain, 5)
    assert list(upper.state_dict()) == ["5.weight", "5.bias"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("model=logistic",), "strategy: the model has one layer, and both halves need some"),
        (
            ("strategy.cut=0",),
            "strategy.cut=0: must be from 2 to 3, or null, as both halves need weights; modules",
        ),
        (("strategy.cut=4",), "strategy.cut=4: must be from 2 to 3"),
        (("strategy.variant=v3",), "strategy.variant=v3"),
        (("task=text", "data=embedded", "model=lstm"), "strategy: Lstm is no chain of modules (nn.Sequential)"),
        (("task=dcgan", "data=embedded", "model=dcgan"), "task: Dcgan cannot be had with splitfed"),
        (("attack=sign_flip",), "attack: cannot be had with strategy=splitfed: a client's update is of its own half"),
        (("secure_aggregation=masks",), "secure_aggregation=masks: must be none with strategy=splitfed"),
        (("local.clip_norm=1.0",), "local.clip_norm=1.0: must be null with strategy=splitfed"),
        (("compression=topk",), "compression: TopK follows a client's update over the rounds"),
        (("setting=vertical", "strategy=splitfed"), "setting=vertical: SplitFed averages models"),
        (("topology=ring",), "strategy: its server half is more than a plain mean; use another, or topology=star"),
        (("ledger=signed",), "strategy: its rounds have several exchanges"),
    ],
)
def test_what_does_not_fit_is_refused(refused: Any, words: tuple[str, ...], says: str) -> None:
    said = refused("strategy=splitfed", "task=tabular", "data=digits", "model=mlp", *words)
    assert says in said
    assert said.count("\n") == 1


def test_the_clock_plans_each_exchange(tmp_path: Path) -> None:
    cfg = compose(*WORDS)
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    planned = trainer.algorithm.planned(np.array([64, 20, 0]), {"steps": None, "epochs": 1, "batch_size": 32})
    # 64 rows are two batches and 20 are one; a step is taken when its gradient comes, and the last brings nothing back
    assert [exchange.steps.tolist() for exchange in planned] == [[0, 0, 0], [1, 1, 0], [1, 0, 0]]
    up = [{name: array.shape for name, array in exchange.up.items()} for exchange in planned]
    assert up == [{"activations": (32, 8), "labels": (32,)}] * 2 + [{}]
    assert [list(exchange.down) for exchange in planned] == [[], ["gradient"], ["gradient"]]
