"""Numbers to predict in place of classes: how they are counted, and what a run makes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Launch, own_task, table
from torch import nn

from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.data.labels import countable
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean


def test_numbers_to_predict_are_counted_in_tenths() -> None:
    y = np.random.default_rng(0).permutation(np.arange(1000.0))
    numbers, names = countable(y, ["any"])
    assert list(names) == [
        "0 to 99", "100 to 199", "200 to 299", "300 to 399", "400 to 499",
        "500 to 599", "600 to 699", "700 to 799", "800 to 899", "900 to 999",
    ]  # fmt: skip
    assert (numbers == y // 100).all()


@pytest.mark.parametrize(
    ("y", "numbers", "names"),
    [
        ([0.0, 1.0, 1.0, 0.0], [0, 1, 1, 0], ["0", "1"]),
        ([2.5, 2.5], [0, 0], ["2.5"]),
        ([1e6, 1e6 + 0.5], [0, 1], ["1000000", "1000000.5"]),  # as many digits as tell them apart
        ([[3.0], [-1.0]], [1, 0], ["-1", "3"]),
        ([[3.0, 9.0], [-1.0, 9.0]], [1, 0], ["-1", "3"]),
        ([0.5, np.nan, np.inf], [0, 1, 1], ["0.5", "inf to nan"]),
    ],
)
def test_few_and_odd_numbers_to_predict(y: list[float], numbers: list[int], names: list[str]) -> None:
    made, named = countable(np.array(y), ["any"])
    assert made.tolist() == numbers
    assert list(named) == names


def test_classes_stay_what_they_are() -> None:
    y, names = np.array([1, 0]), ("no", "yes")
    assert countable(y, names) == (y, names)


class Regression(Task):
    """A quarter of the digit that an image shows is a number to predict."""

    def load_embedded(self, folder: Path) -> FederatedData:
        data = sources.digits()
        train, test = ({**columns, "y": columns["y"] / np.float32(4)} for columns in (data.train, data.test))
        return FederatedData(train, test, classes=("any",))

    def model(self, data: FederatedData) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 1))

    def objective(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        loss = (model(batch["x"] / 255)[:, 0] - batch["y"]).square().mean()
        return loss, {"loss": batch_mean(loss, len(batch["y"]))}


def test_a_run_whose_labels_are_numbers(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*own_task(f"{__name__}.Regression"), "num_rounds=1")
    folder = launch(*words, "figures=true", "local.lr=0.01")
    held = table(folder, "partition")
    assert {row["label"] for row in held} == {"0", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2", "2.25"}
    assert sum(int(row["samples"]) for row in held) == sources.digits().num_samples
    launch(*words, "partition=shards", exit_code=2)
    said = capsys.readouterr().err
    assert said.startswith("fl-bench: partition=shards: needs a class")
    assert said.count("\n") == 1
