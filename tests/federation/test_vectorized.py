"""Clients stacked into one program have the numbers of one at a time, but for rounding; and when memory is short."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import compose, digests, table
from numpy.typing import NDArray
from safetensors.torch import load_file

from fl_bench.build import build
from fl_bench.data.arrays import Columns
from fl_bench.federation import client
from fl_bench.federation.local import Trainer
from fl_bench.federation.vectorized import train_together, why_not
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Batch, Task
from fl_bench.tasks.mnist import Mnist

SMALL = ("task=cifar", "data=synthetic", "data.num_samples=300", "num_rounds=3", "local.batch_size=8")
UNEQUAL = ("num_clients=9", "partition=dirichlet", "partition.alpha=0.1", "seed=5")
FLAT = ("local.optimizer.momentum=0",)


def numbers(folder: Path) -> dict[str, NDArray | np.float64]:
    """Every number that a run leaves."""
    found: dict[str, NDArray | np.float64] = {
        name: t.numpy() for name, t in load_file(folder / "model.safetensors").items()
    }
    for file in folder.glob("state/*/*"):
        found |= {f"{file.relative_to(folder)} {name}": t.numpy() for name, t in load_file(file).items()}
    for name in ("metrics", "clients"):
        for row, cells in enumerate(table(folder, name)):
            found |= {f"{name} {row} {key}": np.float64(v) for key, v in cells.items() if re.fullmatch(r"[-\d.e]+", v)}
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("task=mnist", "data=synthetic", "data.num_samples=300", "num_rounds=3", *UNEQUAL),
        (*SMALL, *UNEQUAL),
        (*SMALL, *UNEQUAL, *FLAT, "local.epochs=2"),
        (*SMALL, *UNEQUAL, "strategy=fedprox", "strategy.mu=0.5"),
        (*SMALL, *UNEQUAL, "strategy=scaffold", "clients_per_round=5"),  # some have a variate, others not yet
        (*SMALL, *UNEQUAL, "strategy=feddyn", "model.norm=group"),
        (*SMALL, *UNEQUAL, "compression=fp16"),
        (*SMALL, *UNEQUAL, "local.clip_norm=0.3", "local.lr_schedule=exponential", "local.lr_decay=0.5"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("more", "tolerance"), [(("num_rounds=2", "local.steps=2"), 1e-5), ((), 0.05)], ids=["short", "long"]
)
def test_same_numbers_but_for_rounding(
    launch: Callable[..., Path], words: tuple[str, ...], more: tuple[str, ...], tolerance: float
) -> None:
    """Over many steps rounding may turn over a ReLU, a maximum or a prediction, from where small differences grow."""
    one, many = numbers(launch(*words, *more)), numbers(launch(*words, *more, "engine.vectorize=4"))
    assert one.keys() == many.keys()
    for name in one:
        assert np.linalg.norm(one[name] - many[name]) <= tolerance * np.linalg.norm(one[name]) + 1e-7, name
    assert any((one[name] != many[name]).any() for name in one)  # it was another program


def test_unequal_means_that_some_have_nothing(launch: Callable[..., Path]) -> None:
    rows = table(launch(*SMALL, *UNEQUAL, "num_rounds=1"), "clients")
    assert {row["status"] for row in rows} == {"ok", "empty"}
    assert len({row["num_examples"] for row in rows}) > 4


class Keeping(Mnist):
    """A task that leaves something with each client."""

    def private(self, model: Any) -> set[str]:
        return {"1.bias"}


class Summed(Mnist):
    """The loss of a batch is not the mean of its examples' losses."""

    def objective(self, model: Any, batch: Any) -> Any:
        loss, metrics = super().objective(model, batch)
        return loss * len(batch["y"]), metrics


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["task=cifar"], None),
        (["task=cifar", "model.norm=batch"], "batch norm"),
        (["task=cifar", "strategy=moon"], "Contrastive trains one client at a time"),
        (["task=cifar", "strategy=fedper"], "one client at a time"),
        (["task=cifar", "local.optimizer.name=Adafactor"], "Adafactor does not step number by number"),
        (["task=dcgan"], "not one loss and one optimiser"),
        (["task=imdb"], "torch.func says"),
        ([f"task._target_={__name__}.Keeping"], "what travels is not what is trained"),
        ([f"task._target_={__name__}.Summed"], "not the mean of its examples' losses"),
    ],
    ids=str,
)
def test_what_cannot_be_stacked_says_why(tmp_path: Path, words: list[str], reason: str | None) -> None:
    cfg = compose(*words)
    found = why_not(prepare(cfg, build(cfg.task, Task), tmp_path))
    assert found is None if reason is None else reason in str(found)


def test_the_fall_back_is_announced_and_has_the_bits_of_one_at_a_time(
    launch: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*SMALL, "num_rounds=1", "num_clients=3")
    for wish in ("auto", 2):
        more = ["model.norm=batch"] if wish == 2 else []
        assert digests(launch(*words, *more)) == digests(launch(*words, *more, f"engine.vectorize={wish}"))
        assert f"note: engine.vectorize={wish}: one client at a time: " in capsys.readouterr().err


def test_auto_stacks_linear_models(launch: Callable[..., Path]) -> None:
    words = ("task=mnist", "num_rounds=1", "local.steps=2")
    auto, fifty = (launch(*words, f"engine.vectorize={wish}") for wish in ("auto", 50))
    assert digests(auto) == digests(fifty)


def test_who_fails_in_a_stack_fails_alone(launch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    gather = Task.gather

    def poisoned(self: Task, columns: Columns, rows: np.ndarray, device: str) -> Batch:
        if 207 in rows:  # which the test set of 30 has not
            raise OSError("row 207 cannot be read")
        return gather(self, columns, rows, device)

    monkeypatch.setattr(Task, "gather", poisoned)
    words = (*SMALL, "num_rounds=1", "num_clients=6", "partition.holdout=0")
    one, many = (table(launch(*words, f"engine.vectorize={k}"), "clients") for k in ("off", 6))
    assert [row["status"] for row in many] == [row["status"] for row in one]
    assert sorted(row["status"] for row in one) == ["failed"] + 5 * ["ok"]


def no_room_for_more_than(limit: int, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(trainer: Trainer, clients: list[int], *rest: Any) -> Any:
        if len(clients) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return function(trainer, clients, *rest)

    return wrapped


def test_a_stack_without_room_is_halved(
    launch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("num_rounds=2", "num_clients=8", "local.steps=2")
    expected = launch(*words, "engine.vectorize=2")
    monkeypatch.setattr(client, "train_together", no_room_for_more_than(3, train_together))
    assert digests(launch(*words, "engine.vectorize=8")) == digests(expected)
    assert capsys.readouterr().err.count("out of GPU memory: from now on a worker trains 2 clients at once") == 1
