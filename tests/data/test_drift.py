"""What changes about clients' samples over the rounds: by hand, the same for whoever trains, and as good as shifts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, compose, digests, forked, long, table

from fl_bench.build import build
from fl_bench.data import drift
from fl_bench.data.arrays import FederatedData
from fl_bench.data.partition import NOBODY, Partition
from fl_bench.federation.local import Trainer
from fl_bench.federation.vectorized import train_together
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

NONE = Partition(NOBODY, np.zeros(1, np.int64), NOBODY)
ONCE: dict[str, Any] = {"at": 3, "over": 1, "back": None, "stagger": 0, "share": 1.0}
SMALL = ("data=synthetic", "data.num_samples=200", "num_clients=5", "num_rounds=3", "evaluate.clients=true")


def drifting(name: str, y: list[int], owners: list[int], count: int = 3, seed: int = 0, **keys: Any) -> Any:
    labels = np.array(y)
    columns = {"x": np.zeros((len(y), 1, 2, 2), np.uint8), "y": labels}
    data = FederatedData(columns, columns, tuple(map(str, range(count))))
    partition = Partition.of(np.array(owners), max(owners) + 1, 0.5, np.random.default_rng(0))
    return getattr(drift, name)(seed=seed, data=data, partition=partition, unseen=NONE, **keys)


def progress(row: int, rounds: int, **keys: Any) -> list[float]:
    made = drifting("Rotation", [0] * 4, [0, 0, 1, -1], angle=90.0, **ONCE | keys)
    return [float(made.progress(np.array([row]), round)[0]) for round in range(rounds)]


def labels(made: Any, round: int) -> list[int]:
    rows, y = np.arange(made.data.num_samples), made.data.train["y"]
    found: list[int] = made({"y": torch.from_numpy(y)}, rows, round)["y"].tolist()
    return found


def make(tmp_path: Path, *words: str) -> Trainer:
    folder = tmp_path / f"data of {' '.join(words)}"
    folder.mkdir()
    cfg = compose(*SMALL, *words)
    return prepare(cfg, build(cfg.task, Task), folder)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [0, 0, 0, 1, 1, 1, 1, 1, 1]),
        ({"over": 4}, [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ({"back": 2}, [0, 0, 0, 1, 1, 0, 0, 1, 1]),
        ({"over": 2, "back": 3}, [0, 0, 0, 0.5, 1, 1, 0.5, 0, 0, 0.5]),
        ({"share": 0.0}, [0] * 9),
    ],
    ids=["sudden", "gradual", "recurring", "gradual and recurring", "nobody"],
)
def test_how_far_a_change_is(keys: dict[str, Any], expected: list[float]) -> None:
    assert progress(0, len(expected), **keys) == expected
    assert progress(3, len(expected), **keys) == [0] * len(expected)  # nobody's row


def test_some_clients_change_and_not_all_at_once() -> None:
    made = drifting("Labels", [0] * 1000, [*range(1000)], classes=[0, 1], **ONCE | {"share": 0.3, "stagger": 4})
    counts = [sum(labels(made, round)) for round in range(9)]
    assert counts[:3] == [0, 0, 0]
    assert counts[7:] == [300, 300]
    assert np.diff(counts[2:8]) == pytest.approx(60, abs=25)  # five rounds in which they begin, equally likely
    again = drifting("Labels", [0] * 1000, [*range(1000)], classes=[0, 1], **ONCE | {"share": 0.3, "stagger": 4})
    other = drifting("Labels", [0] * 1000, [*range(1000)], seed=1, classes=[0, 1], **ONCE | {"share": 0.3})
    assert labels(again, 5) == labels(made, 5)
    assert labels(other, 9) != labels(made, 9)


def test_classes_take_each_others_names() -> None:
    made = drifting("Labels", [0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, -1], classes=[0, 2], **ONCE)
    assert labels(made, 2) == [0, 1, 2, 0, 1, 2]
    assert labels(made, 3) == [2, 1, 0, 2, 1, 2]  # the last row is nobody's
    circle = drifting("Labels", [0, 1, 2], [0, 0, 0], classes=[2, 0, 1], **ONCE)
    assert labels(circle, 3) == [1, 2, 0]


def test_of_a_gradual_change_each_row_sees_its_own_moment() -> None:
    made = drifting("Labels", [0] * 4000, [0] * 4000, classes=[0, 1], **ONCE | {"over": 4})
    seen = np.array([labels(made, round) for round in range(8)])
    assert seen.mean(axis=1) == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1], abs=0.03)
    assert (np.diff(seen, axis=0) >= 0).all()


def test_images_turn_a_little_in_each_round(tmp_path: Path) -> None:
    words = ("data_drift=rotation", "data_drift.at=2", "data_drift.over=3", "data_drift.angle=270")
    trainer = make(tmp_path, "task=cifar", *words)
    rows, images = trainer.partition.train_rows(1), trainer.data.train["x"]
    nothing = trainer.augment.chances(0, "batches", 1, 1)(len(rows))
    for round, quarters in enumerate([0, 0, 1, 2, 3, 3]):
        seen = trainer.examples(rows, nothing, round)["x"].numpy()
        assert (seen == np.rot90(images[rows], quarters, axes=(2, 3))).all(), round


def test_a_drift_of_the_first_round_is_a_shift(launch: Launch) -> None:
    """Another formulation: all clients turned by 90 degrees before anybody trains."""
    words = ("task=cifar", *SMALL, "local.steps=2")
    once = ("data_drift.at=1", "data_drift.over=1", "data_drift.angle=90")
    drifted = launch(*words, "data_drift=rotation", *once)
    shifted = launch(*words, "shift=rotation", "shift.angles=[90]")
    assert (drifted / "model.safetensors").read_bytes() == (shifted / "model.safetensors").read_bytes()
    seen = [[row["client_loss"] for row in table(folder, "metrics")] for folder in (drifted, shifted)]
    assert seen[0][1:] == seen[1][1:]
    assert seen[0][0] != seen[1][0]  # before the first round


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(True, ["01", "01", "01", "01234", "01234", "0123456"]), (False, ["01", "01", "01", "234", "234", "56"])],
)
def test_classes_come_one_after_the_other(keep: bool, expected: list[str]) -> None:
    made = drifting("Classes", [*range(7)] * 2, [0, 1] * 7, count=7, first=2, add=3, every=2, keep=keep)
    rounds = [made.rows(np.arange(7), round).tolist() for round in range(6)]
    assert ["".join(map(str, rows)) for rows in rounds] == expected
    assert made.rows(np.arange(7), 1000).tolist() == rounds[5]


def test_who_has_no_sample_yet_neither_trains_nor_is_evaluated(launch: Launch) -> None:
    words = ("partition=pathological", "partition.classes_per_client=1", "num_clients=10", "data.num_samples=400")
    folder = launch(*SMALL, *words, "data_drift=classes", "data_drift.every=1", "local.steps=2", "num_rounds=2")
    rows = [(row["round"], row["client"], row["status"], bool(row["client_loss"])) for row in table(folder, "clients")]
    with_one = {"0": "01", "1": "01", "2": "0123"}  # client k holds class k
    for round, client, status, evaluated in rows:
        there = client in with_one[round]
        assert evaluated == there
        assert (status in ("ok", "evaluated")) == there, (round, client, status)
    assert [row["clients_ok"] for row in table(folder, "metrics")][1:] == ["2", "4"]


@pytest.mark.parametrize("kind", ["labels", "rotation", "classes"])
def test_the_server_tests_on_what_it_has_always_had(tmp_path: Path, kind: str) -> None:
    plain, drifted = make(tmp_path), make(tmp_path, f"data_drift={kind}")
    payload, batches = plain.untrained(), plain.test_batches
    assert drifted.test(payload, batches) == plain.test(payload, batches)
    late = drifted.evaluate_client(1, 30, payload, {}, {}), plain.evaluate_client(1, 30, payload, {}, {})
    assert (late[0] != late[1]) == (kind == "classes" or 1 in changing(drifted))


def changing(trainer: Trainer) -> list[int]:
    return np.flatnonzero(trainer.drift._starts[:-1] < 100).tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [("data_drift=labels", "data_drift.at=2"), ("data_drift=classes",)])
def test_stacked_clients_have_the_same_samples(tmp_path: Path, words: tuple[str, ...]) -> None:
    trainer = make(tmp_path, "task=mnist", *words)
    payload, clients = trainer.untrained(), list(range(5))
    stacked = train_together(trainer, clients, 2, payload, {}, [{} for _ in clients])
    for client in clients:
        alone = trainer.train(client, 2, payload, {}, {})
        assert stacked[client].num_examples == alone.num_examples
        assert stacked[client].payload == pytest.approx(alone.payload, abs=1e-5)
        assert stacked[client].metrics["accuracy"].value == alone.metrics["accuracy"].value


def test_a_run_goes_on_as_if_it_had_not_stopped(launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, "data_drift=labels", "data_drift.at=2", "data_drift.over=2", "data_drift.stagger=1", "seed=3")
    whole, half = launch(*words), launch(*words, "num_rounds=1")
    (scratch := tmp_path / "scratch").mkdir()
    assert execute(compose(*words), half, scratch, begin=Start.RESUME) == 0
    assert digests(half) == digests(whole) == digests(launch(*words, "engine.packing=false"))
    assert digests(whole) != digests(launch(*SMALL, "seed=3"))


@long
def test_a_simulation_drifts_as_one_process_does_also_where_it_goes_on(launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, "data_drift=labels", "data_drift.at=2", "data_drift.over=2")
    simulated = ("engine=simulation", "figures=false", "hydra.run.dir=run")
    inline = launch(*words)
    for given in ((*words, *simulated, "num_rounds=1"), ("resume", "run", "num_rounds=3")):
        done = forked(*given, cwd=tmp_path, timeout=200)
        assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run") == digests(inline)


def test_all_data_in_one_place_drifts_as_its_clients_do(tmp_path: Path) -> None:
    trainer = make(tmp_path, "strategy=centralized", "data_drift=labels", "data_drift.at=1")
    rows = trainer.rows(0, 1)
    nothing = trainer.augment.chances(0, "batches", 1, 0)(len(rows))
    seen = trainer.examples(rows, nothing, 1)["y"].numpy()
    moved = {k for k in range(5) if (seen != trainer.data.train["y"][rows])[np.isin(rows, trainer.partition.rows[
        trainer.partition.starts[k] : trainer.partition.starts[k + 1]])].any()}  # fmt: skip
    assert sorted(moved) == changing(trainer)
    assert len(moved) == 2  # half of five, to the even number


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data_drift=labels", "data_drift.at=0"), r"data_drift.at=0: must be 1 or more"),
        (("data_drift=labels", "data_drift.over=0"), r"data_drift.over=0: must be 1 or more"),
        (("data_drift=labels", "data_drift.over=3", "data_drift.back=2"), r"data_drift.back=2: must be at least "),
        (("data_drift=labels", "data_drift.share=2"), r"data_drift.share=2: must be from 0 to 1"),
        (("data_drift=labels", "data_drift.stagger=-1"), r"data_drift.stagger=-1: must be 0 or more"),
        (("data_drift=labels", "data_drift.classes=[0,10]"), "must be two or more different classes from 0 to 9"),
        (("data_drift=labels", "data_drift.classes=[1]"), "must be two or more different classes from 0 to 9"),
        (("data_drift=rotation", "task=tabular", "data=embedded"), "data_drift: this one needs images"),
        (("data_drift=classes", "data_drift.first=0"), r"data_drift.first=0: must be from 1 to 10"),
        (("data_drift=classes", "data_drift.add=0"), r"data_drift.add=0: must be 1 or more"),
        (("data_drift=classes", "data_drift.every=0"), r"data_drift.every=0: must be 1 or more"),
    ],
)
def test_what_is_refused(refused: Callable[..., str], words: tuple[str, ...], message: str) -> None:
    assert message in refused("data=synthetic", *words)
