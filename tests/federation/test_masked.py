"""secure_aggregation=masks: the same model and the same metrics, and the server sees nothing but sums."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, forked, long

from fl_bench.federation import masked
from fl_bench.federation.exchange import TOTAL, Report
from fl_bench.federation.fleet import Fleet
from fl_bench.federation.masked import bytes_down, bytes_up

SMALL = ("task=mnist", "num_clients=5", "num_rounds=3", "local.lr=0.05", "figures=false")
BYTES = ("bytes_down", "bytes_up", "virtual_seconds")  # masks cost some


def told(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, but for what a run costs, and what clients say of rounds without a new model."""
    found = []
    for row in csv.DictReader((run / "metrics.csv").open()):
        hidden = ("train_loss", "train_accuracy", "steps") if row["aggregated"] == "0" else ()
        found.append({name: value for name, value in row.items() if name not in (*BYTES, *hidden)})
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=fedavg", "partition=linear", "max_examples=100000"),
        ("strategy=scaffold", "partition=dirichlet", "partition.alpha=0.1"),
        ("strategy=fednova", "weighting=uniform", "local.epochs=2", "local.steps=null"),
        ("strategy=fedadam", "network=flaky", "min_clients=3", "num_rounds=5"),
        ("strategy=fedprox", "network.over_select=1.3", "clients_per_round=3", "min_clients=3", "compression=topk"),
    ],
    ids=lambda words: words[0],
)
def test_masks_change_nothing(launch: Launch, words: tuple[str, ...]) -> None:
    plain, hidden = (launch(*SMALL, *words, f"secure_aggregation={which}") for which in ("none", "masks"))
    assert (hidden / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert told(hidden) == told(plain)
    rows = list(csv.DictReader((hidden / "clients.csv").open()))
    assert not rows[0].keys() & {"num_examples", "train_loss", "train_accuracy"}
    assert {row["steps"] for row in rows if row["status"] == "ok"} == {""}
    assert [row["status"] for row in rows] == [r["status"] for r in csv.DictReader((plain / "clients.csv").open())]


@long
def test_masks_are_the_same_in_a_simulation(tmp_path: Path) -> None:
    words = (*SMALL, "strategy=scaffold", "network=flaky", "min_clients=3", "secure_aggregation=masks")
    for engine in ("inline", "simulation"):
        given = (f"engine={engine}", "engine.client_resources.num_cpus=1", f"hydra.run.dir={engine}")
        ended = forked(*words, *given, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    for name in ("model.safetensors", "metrics.csv", "clients.csv"):
        assert (tmp_path / "simulation" / name).read_bytes() == (tmp_path / "inline" / name).read_bytes()


def test_what_is_hidden_is_not_drawn_either(launch: Launch) -> None:
    run = launch(*SMALL[:-1], "figures=true", "secure_aggregation=masks", "num_rounds=1")
    assert {file.stem for file in (run / "figures").iterdir()} == {"curves", "partition", "predictions"}


def test_what_masks_cost_is_counted(launch: Launch) -> None:
    """Of five parties: keys of 64 bytes, sealed shares of 80, shares of 32, and 8 bytes for each of the words."""
    run = launch(*SMALL, "secure_aggregation=masks", "num_rounds=1")
    words = 7850 + 2 + 2 * (1 + 69)  # the model; weight, steps; loss and accuracy
    row = next(csv.DictReader((run / "clients.csv").open()))
    assert (row["bytes_down"], row["bytes_up"]) == (
        str(4 * 7850 + 5 * (64 + 80 + 1)),
        str(64 + 5 * 80 + 8 * words + 5 * 32),
    )
    assert (bytes_down(5), bytes_up(5, 0)) == (725, 464)


def test_the_server_receives_nothing_but_noise(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Report] = []
    opened: list[Any] = []
    read, open_ = Fleet._report, masked.MaskedRound.open

    def report(self: Fleet, *given: Any) -> Report:
        reports.append(read(self, *given))
        return reports[-1]

    def unmasked(self: Any, words: Any, *given: Any) -> Any:
        before = words.copy()
        found = open_(self, words, *given)
        opened.append((before, words))
        return found

    monkeypatch.setattr(Fleet, "_report", report)
    monkeypatch.setattr(masked.MaskedRound, "open", unmasked)
    launch(*SMALL, "secure_aggregation=masks", "num_rounds=2", "engine.packing=false")  # a message a client
    sent = [report for report in reports if TOTAL in report.models]
    assert len(sent) == 2 * 5
    for one in sent:
        words = one.models[TOTAL]
        counts = np.bincount(words.view(np.uint8), minlength=256)
        expected = 8 * len(words) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 377  # chi-square with 255 degrees: p = 1e-6
        assert one.weight == 0
        assert [(a.metrics, a.reply, a.num_examples, a.weight, a.steps) for a in one.answers] == [({}, {}, 0, 0, None)]
    for before, after in opened:
        assert np.abs(after[:7850]).max() < 2**62
        assert abs(np.corrcoef(before[:7850].astype(float), after[:7850].astype(float))[0, 1]) < 5 / 7850**0.5


def test_a_client_that_fails_is_left_out(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    from fl_bench.federation.local import Trainer

    train = Trainer.train

    def fail(self: Trainer, client: int, *given: Any) -> Any:
        if client == 2:
            raise ValueError("no")
        return train(self, client, *given)

    monkeypatch.setattr(Trainer, "train", fail)
    plain, hidden = (launch(*SMALL, f"secure_aggregation={which}") for which in ("none", "masks"))
    assert (hidden / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert told(hidden) == told(plain)
    assert told(hidden)[1]["clients_failed"] == "1"


def test_the_sum_of_too_few_stays_hidden(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(*SMALL, "secure_aggregation=masks", "network=flaky", "network.dropout=0.5", "num_rounds=6")
    rows = told(run)[1:]
    assert [row["aggregated"] for row in rows] == [str(int(int(row["clients_ok"]) >= 3)) for row in rows]
    assert {row["aggregated"] for row in rows} == {"0", "1"}
    assert "of 5 have answered, and masks hide sums of fewer than 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("strategy=krum",), "robust: it looks at each client's update"),
        (("strategy=oort", "network=heterogeneous"), "strategy: it asks clients by their losses"),
        (("evaluate.clients=true",), "evaluate.clients=true: its columns say how clients differ"),
        (("partition.unseen=0.4",), "partition.unseen=0.4: those clients say their metrics one by one"),
        (("clients_per_round=1",), "clients_per_round=1: one client alone is no sum"),
    ],
)
def test_what_needs_more_than_the_sum_is_refused(refused: Callable[..., str], words: tuple[str, ...], why: str) -> None:
    assert why in refused(*SMALL, "secure_aggregation=masks", *words)


def test_a_client_with_more_examples_than_all_may_know_of_is_refused(refused: Callable[..., str]) -> None:
    why = refused(*SMALL, "partition=linear", "max_examples=300")  # of 4,000 a fifteenth, two, ...; four fifths of each
    assert "max_examples=300: client 1 trains on more; raise it for all, or let the client have fewer" in why


def test_one_client_that_can_be_reached_trains_for_nothing(launch: Launch) -> None:
    """Of two who are asked one drops out: its sum would be the other's."""
    words = ("num_clients=2", "network=flaky", "network.dropout=0.5", "num_rounds=6", "seed=3")
    rows = told(launch(*SMALL, *words, "secure_aggregation=masks"))[1:]
    assert {(row["clients_ok"], row["aggregated"]) for row in rows} >= {("1", "0"), ("2", "1")}
    assert not {("1", "1"), ("0", "1")} & {(row["clients_ok"], row["aggregated"]) for row in rows}
