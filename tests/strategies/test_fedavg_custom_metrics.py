import csv

import pytest
from conftest import Launch
from flwr.app import MetricRecord, RecordDict

from fl_bench.metrics import FUNCTIONS
from fl_bench.strategies.fedavg_custom_metrics import FedAvgCustomMetrics

# 20 clients with accuracies 0.01 ... 0.20, the client with 0.01 weighing 81 and the others 1
VALUES = [(k / 100, 81 if k == 1 else 1) for k in range(1, 21)]


def aggregate(metric: str) -> dict[str, object]:
    strategy = FedAvgCustomMetrics([f"{metric}_{function}" for function in FUNCTIONS])
    strategy.lower_is_better = ["loss"]
    contents = [RecordDict({"metrics": MetricRecord({"num-examples": n, metric: v})}) for v, n in VALUES]
    return dict(strategy.evaluate_metrics_aggr_fn(contents, "num-examples"))


def test_every_function_by_hand() -> None:
    expected = {
        "mean": (0.01 * 81 + sum(range(2, 21)) / 100) / 100,
        "uniform": 0.105,
        "median": 0.105,
        "std": (sum((k - 10.5) ** 2 for k in range(1, 21)) / 20) ** 0.5 / 100,
        "min": 0.01,
        "max": 0.20,
        "worst_decile": 0.015,
        "best_decile": 0.195,
    }
    assert aggregate("accuracy") == pytest.approx({f"accuracy_{name}": value for name, value in expected.items()})


def test_the_worst_losses_are_the_highest() -> None:
    losses = aggregate("loss")
    assert losses["loss_worst_decile"] == pytest.approx(0.195)
    assert losses["loss_best_decile"] == pytest.approx(0.015)


def test_the_columns_of_a_run(launch: Launch) -> None:
    folder = launch("strategy=fedavg_custom_metrics", "strategy.metrics=[accuracy_min,accuracy_mean]", "num_rounds=2")
    metrics = list(csv.DictReader((folder / "metrics.csv").open()))
    clients = [row for row in csv.DictReader((folder / "clients.csv").open()) if row["round"] == "2"]
    accuracies = [float(row["client_accuracy"]) for row in clients]
    assert float(metrics[2]["client_accuracy_min"]) == min(accuracies)
    assert float(metrics[2]["client_accuracy_mean"]) == pytest.approx(float(metrics[2]["client_accuracy"]))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("f1_mean", "strategy.metrics: clients do not report f1; they report loss, accuracy"),
        ("loss_medium", "metrics: loss_medium does not end in a function; did you mean median?"),
    ],
)
def test_what_cannot_be_aggregated_is_said_before_the_run(
    launch: Launch, capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    launch("strategy=fedavg_custom_metrics", f"strategy.metrics=[{name}]", exit_code=2)
    assert line in capsys.readouterr().err
