"""Which way a metric gets better is what its task declares, whatever its name is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import table
from torch import nn

from fl_bench.metrics import Mean, Metric, metric_of
from fl_bench.tasks.base import Batch, Metrics
from fl_bench.tasks.mnist import Mnist


class Erring(Mnist):
    """Digits by the share of mistakes: a metric with neither "loss" nor "_fd" in its name, of which less is better."""

    metrics = (*Mnist.metrics, Metric("error", better="lower"))

    def score(self, model: nn.Module, batch: Batch) -> Metrics:
        found: Any = super().score(model, batch)
        right = found["accuracy"]
        return {**found, "error": Mean(right.count - float(right.total), right.count)}


class Undeclared(Erring):
    metrics = Mnist.metrics


WORDS = (f"task._target_={__name__}.Erring", "num_rounds=5", "evaluate.clients=true", "num_clients=12")


def test_a_falling_error_is_progress(launch: Callable[..., Path]) -> None:
    folder = launch(*WORDS, "early_stop={metric:test_error,patience:1}", "targets=[0.3]", "target_metric=test_error")
    errors = [float(row["test_error"]) for row in table(folder, "metrics")]
    assert len(errors) == 6  # not stopped while it falls
    assert errors == sorted(errors, reverse=True)
    reached = json.loads((folder / "run.json").read_text())["targets"]["0.3"]
    assert reached["round"] == next(round for round, error in enumerate(errors) if error <= 0.3) > 0


def test_the_worst_decile_has_the_highest_errors(launch: Callable[..., Path]) -> None:
    folder = launch(*WORDS)
    rows = [row for row in table(folder, "clients") if row["round"] == "5"]
    errors = sorted(float(row["client_error"]) for row in rows)
    last = table(folder, "metrics")[-1]
    assert float(last["client_error_worst_decile"]) == errors[-1] > errors[0]
    assert float(last["client_error_best_decile"]) == errors[0]


def test_what_is_not_declared_is_refused(launch: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    launch(f"task._target_={__name__}.Undeclared", exit_code=2)
    assert capsys.readouterr().err == (
        "fl-bench: task: Undeclared measures error and does not declare it; Undeclared.metrics needs "
        'Metric("error", better="lower"), or "higher"\n'
    )


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("test_loss", "loss"),
        ("client_loss_worst_decile", "loss"),
        ("client_box_iou_std", "box_iou"),
        ("train_alpha", None),
        ("clients_ok", None),
        ("test_iou", "iou"),
    ],
)
def test_the_metric_of_a_column(column: str, name: str | None) -> None:
    declared = {metric: Metric(metric, better="higher") for metric in ("loss", "iou", "box_iou")}
    found = metric_of(column, declared)
    assert (found.name if found else None) == name
