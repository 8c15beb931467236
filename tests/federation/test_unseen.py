"""Rows that the server keeps to choose by, clients who never train, and how many clients are evaluated."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, compose, digests, forked, long, table

from fl_bench.build import build
from fl_bench.federation.local import Trainer
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

SMALL = ("data=synthetic", "data.num_samples=400", "num_clients=10", "num_rounds=3", "local.steps=2", "seed=3")
UNSEEN = ("partition.unseen=0.3", "partition.holdout=0.25")


def made(tmp_path: Path, *words: str) -> Trainer:
    return prepare(cfg := compose(*SMALL, *words), build(cfg.task, Task), tmp_path)


def held(trainer: Trainer) -> list[set[int]]:
    """The rows of each client that trains, and then of each that does not."""
    parts = (trainer.partition, trainer.unseen)
    return [{*p.train_rows(k), *p.heldout_rows(k)} for p in parts for k in range(len(p.ends))]


def test_nobody_has_what_the_server_keeps(tmp_path: Path) -> None:
    trainer = made(tmp_path, "evaluate.validation=0.2", "partition=dirichlet", "partition.alpha=0.5")
    kept = {*trainer.validation_rows}
    assert len(kept) == 80
    assert set().union(*held(trainer)) == {*range(400)} - kept
    assert sum(map(len, held(trainer))) == 320
    assert kept != {*range(80)}


def test_who_never_trains_is_drawn_and_keeps_its_rows(tmp_path: Path) -> None:
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    whole.mkdir()
    apart.mkdir()
    everybody = made(whole, "partition=linear", "partition.holdout=0.25")
    trainer = made(apart, "partition=linear", *UNSEEN)
    assert (len(trainer.partition.ends), len(trainer.unseen.ends)) == (7, 3)
    before, after = held(everybody), held(trainer)
    assert sorted(map(sorted, before)) == sorted(map(sorted, after))
    places = [before.index(rows) for rows in after]  # which client each was
    assert places[:7] == sorted(places[:7])
    assert places[7:] == sorted(places[7:]) != [7, 8, 9]
    assert trainer.weighting.each.tolist() == [everybody.weighting.each[place] for place in places[:7]]


def test_what_a_run_says_of_them(launch: Launch) -> None:
    folder = launch(*SMALL, *UNSEEN, "evaluate.adapt_steps=3", "evaluate.validation=0.1", "evaluate.clients=true")
    clients = [row for row in table(folder, "clients") if row["round"] == "3"]
    assert [row["client"] for row in clients if row["status"] == "ok"] == [str(k) for k in range(7)]
    strangers = [row for row in clients if row["unseen_loss"]]
    assert [row["client"] for row in strangers] == ["7", "8", "9"]
    assert not any(row["client_loss"] or row["num_examples"] for row in strangers)
    rows = table(folder, "metrics")
    for column in ("unseen_accuracy", "unseen_adapted_loss", "validation_loss", "validation_accuracy", "client_loss"):
        assert all(row[column] for row in rows), column
    assert float(rows[-1]["unseen_adapted_loss"]) != float(rows[-1]["unseen_loss"])
    mean = np.mean([float(row["unseen_loss"]) for row in strangers])  # they hold out equally many
    assert float(rows[-1]["unseen_loss"]) == pytest.approx(mean, rel=1e-6)
    split = table(folder, "partition")
    assert {row["client"] for row in split} == {str(k) for k in range(10)}
    assert sum(int(row["samples"]) for row in split) == 360
    best = json.loads((folder / "run.json").read_text())["best"]
    by_validation = max(rows, key=lambda row: (float(row["validation_accuracy"]), -int(row["round"])))
    assert str(best["round"]) == by_validation["round"]
    assert best["test_accuracy"] == float(by_validation["test_accuracy"])


def test_an_unseen_clients_model_is_the_servers_by_hand(tmp_path: Path) -> None:
    trainer = made(tmp_path, *UNSEEN)
    payload = trainer.untrained() + 0.01
    found = trainer.evaluate_client(8, 1, payload, {}, {})
    rows = trainer.unseen.heldout_rows(1)
    weight, bias = np.split((payload).astype(np.float64), [7840])
    pixels = trainer.data.train["x"][rows].reshape(len(rows), -1) / 255
    scores = pixels @ weight.reshape(10, 784).T + bias
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(rows)), trainer.data.train["y"][rows]]
    assert found["received/loss"].value == pytest.approx(losses.mean(), rel=1e-5)
    assert found["loss"].value == found["received/loss"].value  # it has nothing of its own, and takes no steps


def test_half_of_what_clients_hold_out(tmp_path: Path, launch: Launch) -> None:
    words = ("partition.holdout=0.5", "evaluate.clients=true")
    trainer = made(tmp_path, *words, "evaluate.validation=clients")
    found: Any = trainer.evaluate_client(0, 1, trainer.untrained(), {}, {})
    assert (found["validation/loss"].count, found["loss"].count) == (10, 10)
    trainer.clients_validate = False
    both: Any = trainer.evaluate_client(0, 1, trainer.untrained(), {}, {})["loss"]
    assert both.count == 20
    assert float(both.total) == pytest.approx(float(found["validation/loss"].total) + float(found["loss"].total))
    folder = launch(*SMALL, *words, "evaluate.validation=clients", "strategy=fedper", "task=cifar",
                    "early_stop.metric=validation_accuracy")  # fmt: skip
    assert all(row["validation_accuracy"] for row in table(folder, "metrics"))
    assert all(row["validation_accuracy"] for row in table(folder, "clients") if row["client_accuracy"])


def test_a_sample_of_the_clients_is_evaluated_the_same_each_time(launch: Launch) -> None:
    rows = table(launch(*SMALL, "evaluate.clients=true", "evaluate.max_clients=4"), "clients")
    by_round = [{row["client"] for row in rows if row["round"] == r and row["client_loss"]} for r in "0123"]
    assert len(by_round[0]) == 4
    assert by_round == 4 * [by_round[0]]


@pytest.mark.parametrize("strategy", ["scaffold", "fedper", "oort", "fedbuff", "centralized"])
def test_with_strategies_of_every_kind_and_in_any_packing(launch: Launch, strategy: str) -> None:
    words: tuple[str, ...] = (
        *SMALL, *UNSEEN, f"strategy={strategy}", "evaluate.clients=true", "network=heterogeneous", "task=cifar",
        "evaluate.max_clients=5", "evaluate.validation=clients", "compression=topk",
    )  # fmt: skip
    words += ("strategy.buffer=3",) if strategy == "fedbuff" else ()
    one = launch(*words)
    assert digests(one) == digests(launch(*words, "engine.packing=false"))
    trained = {int(row["client"]) for row in table(one, "clients") if row["bytes_up"] != "0"}
    assert trained
    assert max(trained) < 7
    assert all(row["unseen_accuracy"] for row in table(one, "metrics"))
    assert not any("unseen_adapted_accuracy" in row for row in table(one, "metrics"))


@long
def test_a_recipe_in_a_simulation_and_where_it_goes_on(launch: Launch, tmp_path: Path) -> None:
    words = (
        *SMALL, *UNSEEN, "task=images", "model=resnet8", "model.norm=group", "augment=flip_crop", "partition=dirichlet",
        "local.lr_schedule=cosine", "local.lr_horizon=4", "evaluate.validation=0.1", "clients_per_round=3",
    )  # fmt: skip
    short = forked(*words, "figures=false", "num_rounds=2", "hydra.run.dir=run", cwd=tmp_path)
    assert short.returncode == 0, short.stderr
    assert forked("resume", "run", "num_rounds=3", "engine=inline", cwd=tmp_path).returncode == 0
    assert digests(tmp_path / "run") == digests(launch(*words))
    again = forked("replay", "run", "--round", "3", "--client", "8", "--evaluation", cwd=tmp_path)
    assert "the same as in clients.csv" in again.stdout, again.stdout + again.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("partition.unseen=1",), "partition.unseen=1: must be from 0 to below 1"),
        (("evaluate.validation=some",), "evaluate.validation=some: must be from 0 to below 1, or clients"),
        (("evaluate.max_clients=0",), "evaluate.max_clients=0: must be 1 or more, or null"),
    ],
)
def test_values_that_cannot_be(words: tuple[str, ...], line: str) -> None:
    with pytest.raises(Exception, match=line):
        compose(*words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((*UNSEEN, "partition.holdout=0"), "partition.unseen=0.3: none holds out a sample; raise partition.holdout"),
        ((*UNSEEN, "clients_per_round=8"), "clients_per_round=8: must not be more than the 7 clients that train, as "),
        (
            ("evaluate.validation=0.1", "strategy=fedper", "task=cifar"),
            "evaluate.validation=0.1: the server has no who",
        ),
        ((*UNSEEN, "strategy=dp_server_fixed"), "partition.unseen=0.3: epsilon is for cohorts drawn from all num_cl"),
        (("early_stop.metric=validation_loss",), "early_stop.metric=validation_loss: must be one of this run's "),
        (
            ("partition.unseen=0.04",),
            "partition.unseen=0.04: is 0 of 10 clients; must be some, and leave some to train",
        ),
        (
            ("partition.unseen=0.96",),
            "partition.unseen=0.96: is 10 of 10 clients; must be some, and leave some to train",
        ),
        (("evaluate.validation=0.001",), "evaluate.validation=0.001: is none of 400 samples; raise it"),
        (
            ("evaluate.validation=clients", "evaluate.clients=true", "partition.holdout=0.03"),
            "evaluate.validation=clients: no client holds out two samples; raise partition.holdout",
        ),
        (
            ("evaluate.validation=0.1", "partition=file", "partition.path=SPLIT"),
            "evaluate.validation=0.1: a file names rows of all the training data; use evaluate.validation=clients",
        ),
        (("evaluate.validation=0.99",), "num_clients=10: there are only 4 samples to share out"),
    ],
    ids=str,
)
def test_what_does_not_fit(refused: Callable[..., str], words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("row,client\n0,0\n")
    words = tuple(word.replace("SPLIT", f"{tmp_path}/split.csv") for word in words)
    assert f"fl-bench: {line}" in refused(*SMALL, *words)
