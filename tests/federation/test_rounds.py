"""Known equivalences: federated training against plain PyTorch written out here."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, table
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional

from fl_bench import rng
from fl_bench.data.arrays import batches as endless
from fl_bench.data.partition import Partition, iid
from fl_bench.data.sources import digits
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn

Rows = NDArray[np.int64]


def batches(rows: Rows, local: Mapping[str, Any], generator: np.random.Generator) -> Iterator[Rows]:
    """`local.steps` batches, or those of `local.epochs` epochs."""
    count = local["steps"] or local["epochs"] * -(-len(rows) // local["batch_size"])
    return islice(endless(rows, local["batch_size"], generator), count)


SMALL = ("num_rounds=3", "partition.holdout=0")


def central(seed: int, epochs_of_batches: Iterable[Rows], lr: float) -> dict[str, torch.Tensor]:
    """Logistic regression by plain PyTorch from the same initial model."""
    rng.seed_torch(seed, "model")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    data = digits().train
    for rows in epochs_of_batches:
        images, labels = torch.from_numpy(data["x"][rows]), torch.from_numpy(data["y"][rows])
        optimizer.zero_grad()
        functional.cross_entropy(model(images / 255), labels).backward()
        optimizer.step()
    return model.state_dict()


def shares(seed: int, num_clients: int) -> Partition:
    owners = iid(digits().train, num_clients, rng.generator(seed, "partition"))
    return Partition.of(owners, num_clients, 0, rng.generator(seed, "partition order"))


def test_one_client_with_everything_is_central_sgd_to_the_bit(launch: Launch) -> None:
    folder = launch("num_clients=1", "local.steps=null", "local.epochs=1", "seed=5", *SMALL)
    local = {"steps": None, "epochs": 1, "batch_size": 32}
    rows = shares(5, 1).train_rows(0)
    plan = (part for r in (1, 2, 3) for part in batches(rows, local, rng.generator(5, "batches", r, 0)))
    expected = central(5, plan, lr=0.1)
    actual = load_file(folder / "model.safetensors")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_one_full_batch_step_on_equal_shares_is_one_central_full_batch_step(launch: Launch) -> None:
    folder = launch("num_rounds=1", "partition.holdout=0", "local.steps=1", "local.batch_size=400")
    expected = central(0, [np.arange(4000)], lr=0.1)
    actual = load_file(folder / "model.safetensors")
    assert max((actual[name] - expected[name]).abs().max() for name in expected) < 1e-6


def test_the_weights_of_unequal_clients(launch: Launch) -> None:
    """FedAvg by a second formulation: each client alone, then a float64 mean weighted by its samples."""
    folder = launch("num_rounds=1", "partition=linear", "partition.holdout=0", "local.lr=0.5", "num_clients=3")
    owners = rng.generator(0, "partition")
    from fl_bench.data.partition import linear

    partition = Partition.of(linear(digits().train, 3, owners), 3, 0, rng.generator(0, "partition order"))
    local = {"steps": 4, "epochs": 1, "batch_size": 32}
    models = [
        central(0, batches(partition.train_rows(k), local, rng.generator(0, "batches", 1, k)), lr=0.5) for k in range(3)
    ]
    weights = partition.train_sizes / partition.train_sizes.sum()
    actual = load_file(folder / "model.safetensors")
    for name in actual:
        mean = sum(w * model[name].double() for w, model in zip(weights, models, strict=True))
        assert (actual[name] - mean).abs().max() < 1e-7


def test_fedprox_without_mu_is_fedavg_to_the_bit(launch: Launch) -> None:
    plain, prox = launch(*SMALL), launch("strategy=fedprox", "strategy.mu=0", *SMALL)
    for name in ("metrics.csv", "clients.csv", "model.safetensors"):
        assert (plain / name).read_bytes() == (prox / name).read_bytes()


def test_the_tables_are_as_promised(launch: Launch) -> None:
    folder = launch("num_rounds=4", "clients_per_round=3", "evaluate.every=3", "evaluate.clients=true")
    metrics, clients, partition = (table(folder, name) for name in ("metrics", "clients", "partition"))
    assert list(metrics[0]) == [
        "round", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
        "client_loss", "client_loss_uniform", "client_loss_std",
        "client_loss_worst_decile", "client_loss_best_decile", "client_loss_min",
        "client_accuracy", "client_accuracy_uniform", "client_accuracy_std",
        "client_accuracy_worst_decile", "client_accuracy_best_decile",
        "client_accuracy_min",
        "clients_sampled", "clients_ok", "clients_failed", "clients_dropped", "clients_withheld",
        "aggregated", "steps", "bytes_down", "bytes_up", "virtual_seconds",
    ]  # fmt: skip
    assert [row["round"] for row in metrics] == list("01234")
    assert [bool(row["test_loss"]) for row in metrics] == [True, False, False, True, True]
    assert [bool(row["train_loss"]) for row in metrics] == [False, True, True, True, True]
    assert [row["clients_sampled"] for row in metrics] == ["", "3", "3", "3", "3"]
    # 784 * 10 weights and 10 biases of 4 bytes, for 3 clients
    assert metrics[1]["bytes_up"] == metrics[1]["bytes_down"] == str(7850 * 4 * 3)
    assert list(clients[0])[:4] == ["round", "client", "status", "num_examples"]
    trained = [row for row in clients if row["status"] == "ok"]
    assert len(trained) == 12
    assert sum(int(row["samples"]) for row in partition) == 4000
    # the mean over clients, from the clients' own rows: all took 4 steps of 32
    losses = [float(row["train_loss"]) for row in trained if row["round"] == "2"]
    assert float(metrics[2]["train_loss"]) == pytest.approx(sum(losses) / 3, rel=1e-12)
    assert [row["status"] for row in clients if row["round"] == "0"] == ["evaluated"] * 10
    held = [float(row["client_accuracy"]) for row in clients if row["round"] == "4"]
    assert len(held) == 10
    assert float(metrics[4]["client_accuracy"]) == pytest.approx(sum(held) / 10, rel=1e-12)


def test_cohorts_follow_the_seed_and_change_by_round(launch: Launch) -> None:
    def cohorts(*more: str) -> list[list[str]]:
        rows = table(launch("num_rounds=5", "clients_per_round=3", *more), "clients")
        return [[row["client"] for row in rows if row["round"] == str(r)] for r in range(1, 6)]

    first = cohorts()
    assert first == cohorts("strategy=fedmedian")
    assert first != cohorts("seed=1")
    assert len({tuple(cohort) for cohort in first}) > 1
    assert all(len(set(cohort)) == 3 for cohort in first)


def test_empty_clients_are_named_and_weigh_nothing(launch: Launch) -> None:
    rows = table(launch("num_rounds=1", "partition=exponential", "num_clients=20"), "clients")
    statuses = [row["status"] for row in rows]
    assert statuses.count("empty") > 0
    assert set(statuses) == {"ok", "empty"}


def test_a_run_that_diverges_says_which_client_and_why(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = launch("local.lr=1e30", "num_rounds=5", exit_code=1)
    line = capsys.readouterr().err
    assert line.startswith("fl-bench: round ")
    assert "client 0: its training loss is nan" in line or "its largest change of a weight is" in line
    assert line.count("\n") == 1
    assert '"status": "failed"' in (folder / "run.json").read_text()
    assert line.rstrip().endswith(f"fl-bench replay {folder} --round 1 --client 0")
    assert {row["status"] for row in table(folder, "clients")} == {"failed"}


FAILING = "fl_bench.strategies.base.LocalAlgorithm.finish"


def test_a_client_that_raises_is_left_out(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        if turn.client == 3:
            raise KeyError("no\nluck")

    monkeypatch.setattr(FAILING, finish)
    folder = launch("num_rounds=2")
    metrics, clients = table(folder, "metrics"), table(folder, "clients")
    assert [row["status"] for row in clients if row["client"] == "3"] == ["failed", "failed"]
    assert (metrics[1]["clients_ok"], metrics[1]["clients_failed"]) == ("9", "1")


def test_a_round_in_which_all_clients_fail_ends_the_run(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        raise KeyError("no luck")

    monkeypatch.setattr(FAILING, finish)
    launch("num_rounds=2", exit_code=1)
    assert "round 1: 10 of 10 clients failed; client 0: KeyError: 'no luck'" in capsys.readouterr().err


def test_how_clients_metrics_are_spread(launch: Launch) -> None:
    folder = launch("num_rounds=1", "num_clients=12", "partition=linear", "evaluate.clients=true")
    last = table(folder, "metrics")[-1]
    rows = [row for row in table(folder, "clients") if row["round"] == "1" and row["client_accuracy"]]
    accuracies = sorted(float(row["client_accuracy"]) for row in rows)
    assert len(accuracies) == 12  # so that a tenth of them is one
    assert float(last["client_accuracy_min"]) == accuracies[0]
    assert float(last["client_accuracy_worst_decile"]) == pytest.approx(accuracies[0])
    assert float(last["client_accuracy_best_decile"]) == pytest.approx(accuracies[-1])
    assert float(last["client_accuracy_std"]) == pytest.approx(np.std(accuracies))
    losses = [float(row["client_loss"]) for row in rows]
    assert float(last["client_loss_worst_decile"]) == pytest.approx(max(losses))


def test_a_step_before_evaluation_changes_what_clients_score_and_nothing_else(launch: Launch) -> None:
    plain, adapted = (
        table(launch("num_rounds=2", "evaluate.clients=true", f"evaluate.adapt_steps={steps}"), "metrics")
        for steps in (0, 3)
    )
    for before, after in zip(plain, adapted, strict=True):
        assert {k: v for k, v in before.items() if not k.startswith("client_")} == {
            k: v for k, v in after.items() if not k.startswith("client_")
        }
    assert float(adapted[0]["client_accuracy"]) > float(plain[0]["client_accuracy"]) + 0.1
