"""What a run has cost, in all and until its targets."""

import json

import pytest
from conftest import Launch, table

from fl_bench.metrics import Metric
from fl_bench.observers.costs import Costs

SPENT = {"steps": 5, "bytes_down": 10, "bytes_up": 3}  # in a round


def test_when_targets_were_first_reached() -> None:
    costs = Costs("test_accuracy", [0.5, 0.8, 0.95])
    costs.metric = Metric("accuracy", better="higher")
    accuracies = [0.1, 0.6, 0.4, None, 0.8, 0.9]
    for round, accuracy in enumerate(accuracies):
        row = {"round": round} | (SPENT | {"virtual_seconds": 2.0 * round} if round else {})
        costs.add(row | ({} if accuracy is None else {"test_accuracy": accuracy}))
    reached = costs.record["targets"]
    assert {target: cost and cost["round"] for target, cost in reached.items()} == {"0.5": 1, "0.8": 4, "0.95": None}
    assert reached["0.8"].pop("wall_seconds") >= 0
    assert reached["0.8"] == {"round": 4, "steps": 20, "bytes_down": 40, "bytes_up": 12, "virtual_seconds": 8.0}
    assert costs.record["total"] == {"steps": 25, "bytes_down": 50, "bytes_up": 15, "virtual_seconds": 10.0}


def test_a_run_that_began_without_counting_steps_goes_on_without() -> None:
    costs = Costs("test_accuracy", [])
    costs.__setstate__(
        {"total": {"bytes_down": 10, "bytes_up": 3, "virtual_seconds": 2.0}, "reached": {}, "elapsed": 1}
    )
    costs.add({"round": 2, "virtual_seconds": 4.0} | SPENT)
    assert costs.record["total"] == {"bytes_down": 20, "bytes_up": 6, "virtual_seconds": 4.0}


def test_of_a_loss_less_is_better() -> None:
    costs = Costs("test_loss", [0.5])
    costs.metric = Metric("loss", better="lower")
    for round, loss in enumerate([0.9, 0.6, 0.4]):
        costs.add({"round": round, "test_loss": loss})
    assert costs.record["targets"]["0.5"]["round"] == 2


def test_a_run_with_targets(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = launch("num_rounds=8", "targets=[0.5,0.7,0.99]", "network=heterogeneous")
    record = json.loads((folder / "run.json").read_text())
    rows = table(folder, "metrics")
    for target in (0.5, 0.7):
        first = next(index for index, row in enumerate(rows) if float(row["test_accuracy"]) >= target)
        cost = record["targets"][str(target)]
        assert cost["round"] == first
        assert cost["bytes_down"] == sum(int(row["bytes_down"]) for row in rows[1 : first + 1])
        assert cost["virtual_seconds"] == float(rows[first]["virtual_seconds"])
    assert record["targets"]["0.99"] is None
    assert record["total"]["bytes_up"] == 8 * 10 * 31400
    assert "(2.5 MB down, 2.5 MB up, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("target_metric=test_acc",), "target_metric=test_acc: must be one of this run's test_loss, test_accuracy"),
        (("strategy=fedper", "task=cifar", "data=synthetic", "evaluate.clients=true"),
         "target_metric=test_accuracy: must be one of this run's client_loss, client_accuracy"),
    ],
)  # fmt: skip
def test_an_unknown_metric(
    launch: Launch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    launch("targets=[0.5]", *words, exit_code=2)
    assert line in capsys.readouterr().err
