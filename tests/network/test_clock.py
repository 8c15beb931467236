"""The virtual clock against schedules by hand, and who drops out against the seed."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, make_network, table

from fl_bench import rng
from fl_bench.errors import RunError
from fl_bench.network import devices
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Plan, Schedule

# Four clients with 100 bytes down, 10 steps and 50 bytes up: 2 + 5 + 1, 1 + 10 + 1, 1 + 20 + 5 and 10 + 1 + 10 seconds.
ROWS = """0,0.5,50,50,,
1,1,50,100,,
2,2,10,100,,
3,0.1,5,10,,
"""
SECONDS = {0: 8.0, 1: 12.0, 2: 26.0, 3: 21.0}


def network(tmp_path: Path, rows: str = ROWS, steps: tuple[int, ...] = (10, 10, 10, 10), **given: Any) -> Network:
    return make_network(tmp_path, rows, steps, (100, 50), **{"repeat": False} | given)


def test_four_clients_by_hand(tmp_path: Path) -> None:
    schedule = Schedule(network(tmp_path), 4)
    assert schedule.plan(1) == Plan(1, [0, 1, 2, 3], set(), SECONDS, 26.0)
    assert schedule.plan(2).ends == 52.0
    assert schedule.network.expected_seconds.tolist() == [8, 12, 26, 21]


def test_each_exchange_of_a_round_waits_for_the_slowest_by_hand(tmp_path: Path) -> None:
    """Seconds of the first: 10 + 0 + 20, and 1 + 0 + 2; of the second: 5 + 4 x 1 + 0, and 0.5 + 4 x 5 + 0."""
    devices = "0,1,10,10,,\n1,5,100,100,,\n"
    costs = np.array([[100], [50]]), np.array([[200], [0]])
    made = make_network(tmp_path, devices, [[0, 0], [4, 4]], costs, repeat=False)
    assert made.steps.tolist() == [4, 4]
    plan = Schedule(made, 2).plan(1)
    assert plan == Plan(1, [0, 1], set(), {0: 39.0, 1: 23.5}, 30 + 20.5)
    assert Schedule(made, 1).plan(1).ends in (39.0, 23.5)  # nobody waits for another
    lots = [rng.generator(0, "dropout", 1, client).random() for client in (0, 1)]
    assert lots[0] < 0.5 < lots[1]  # so that the first drops, and the other waits for nobody
    flaky = make_network(tmp_path, devices, [[0, 0], [4, 4]], costs, repeat=False, dropout=0.5, deadline_s=25)
    assert Schedule(flaky, 2).plan(1) == Plan(1, [0, 1], {0}, {0: np.inf, 1: 23.5}, 25.0)


def test_a_deadline_drops_the_late_and_ends_the_round(tmp_path: Path) -> None:
    plan = Schedule(network(tmp_path, deadline_s=15), 4).plan(1)
    assert plan == Plan(1, [0, 1, 2, 3], {2, 3}, SECONDS, 15.0)
    assert Schedule(network(tmp_path, deadline_s=30), 4).plan(1).ends == 26.0  # all are there before
    assert Schedule(network(tmp_path, deadline_s=12), 4).plan(1).dropping == {2, 3}  # in time is in time


def test_of_more_that_are_asked_the_first_count(tmp_path: Path) -> None:
    plan = Schedule(network(tmp_path, over_select=2), 2).plan(1)
    assert plan == Plan(1, [0, 1, 2, 3], {2, 3}, SECONDS, 12.0)
    plan = Schedule(network(tmp_path, over_select=4 / 3), 3).plan(1)
    assert (plan.dropping, plan.ends) == ({2}, 21.0)


def test_among_equals_the_first_are_drawn_by_lot(tmp_path: Path) -> None:
    equal = "".join(f"{k},1,50,50,,\n" for k in range(20))
    schedule = Schedule(network(tmp_path, equal, (10,) * 20, over_select=2), 5)
    counts = np.zeros(20)
    for round in range(1, 401):
        plan = schedule.plan(round)
        counts[list(set(plan.asked) - set(plan.dropping))] += 1
    assert counts.sum() == 2000
    assert np.abs(counts - 100).max() < 4.5 * np.sqrt(100)


def test_who_drops_is_noticed_when_it_would_have_answered_or_at_the_deadline(tmp_path: Path) -> None:
    plan = Schedule(network(tmp_path, dropout=1), 4).plan(1)
    assert (plan.dropping, plan.ends) == ({0, 1, 2, 3}, 26.0)
    assert set(plan.seconds.values()) == {np.inf}
    assert Schedule(network(tmp_path, dropout=1, deadline_s=100), 4).plan(1).ends == 100.0


def test_a_client_without_samples_answers_but_is_not_waited_for(tmp_path: Path) -> None:
    """Client 0 has nothing to do: 2 + 0 + 1 seconds, and it takes nobody's place among the first two."""
    plan = Schedule(network(tmp_path, steps=(0, 10, 10, 10), over_select=2), 2).plan(1)
    assert plan == Plan(1, [0, 1, 2, 3], {2}, SECONDS | {0: 3.0}, 21.0)


WINDOWS = """0,0.5,50,50,5,20
1,1,50,100,5,15
1,0.5,50,100,40,
2,2,10,100,100,
3,0.1,5,10,100,110
"""


def test_clients_that_come_and_go(tmp_path: Path) -> None:
    """Nobody is there at 0. At 5 are 0 (until 20; 8 seconds) and 1 (until 15; 12 seconds, so that it is cut off)."""
    schedule = Schedule(network(tmp_path, WINDOWS), 2)
    assert schedule.plan(1) == Plan(1, [0, 1], {1}, {0: 8.0, 1: np.inf}, 15.0)
    # at 15 only client 0 is there, until 20
    assert schedule.plan(2) == Plan(2, [0], {0}, {0: np.inf}, 20.0)
    # nobody until 40, when client 1 is back, faster: 1 + 5 + 1
    assert schedule.plan(3) == Plan(3, [1], set(), {1: 7.0}, 47.0)


def test_a_client_without_samples_is_not_what_the_clock_waits_for(tmp_path: Path) -> None:
    """Client 0 has nothing to do and is there at once; 1, of 12 seconds, comes at 30."""
    schedule = Schedule(network(tmp_path, "0,0.5,50,50,,\n1,1,50,100,30,\n", (0, 10)), 2)
    assert schedule.plan(1) == Plan(1, [0, 1], set(), {0: 3.0, 1: 12.0}, 42.0)


def test_when_nobody_comes_any_more_the_run_ends(tmp_path: Path) -> None:
    schedule = Schedule(network(tmp_path, ROWS.replace(",,", ",,10")), 4)
    assert schedule.plan(1) == Plan(1, [0, 1, 2, 3], {1, 2, 3}, SECONDS | {1: np.inf, 2: np.inf, 3: np.inf}, 10.0)
    line = (
        rf"round 2: network.traces={tmp_path}/traces.csv: no client with samples .* second 10; with network.repeat=true"
    )
    with pytest.raises(RunError, match=line):
        schedule.plan(2)


def test_drawn_devices_have_the_median_and_the_spread() -> None:
    table = devices.drawn(rng.generator(0, "devices"), 20_000, (0.1, 1e6, 5e6), 0.5)
    for column, median in ((table.seconds_per_step, 0.1), (table.bytes_per_second_down, 5e6)):
        assert np.median(column) == pytest.approx(median, rel=0.02)
        assert np.log(column).std() == pytest.approx(0.5, rel=0.02)
    assert abs(np.corrcoef(table.seconds_per_step, table.bytes_per_second_up)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("network.dropout=1.5", "network.dropout=1.5: must be from 0 to 1"),
        ("network.deadline_s=0", "network.deadline_s=0: must be a positive number, or null"),
        ("network.over_select=0.5", "network.over_select=0.5: must be a number from 1"),
        ("network.bytes_per_second_up=0", "network.bytes_per_second_up=0: must be a positive number"),
        ("network.spread=-1", "network.spread=-1: must be a number from 0"),
        ("network.repeat=true", "network.repeat=True: there are no network.traces to repeat"),
        ("network.dropouts=1", "network.dropouts: unknown key; did you mean dropout?"),
        ("min_clients=11", "min_clients=11: a round has 10 answers with this strategy"),
    ],
)
def test_mistakes(launch: Launch, capsys: pytest.CaptureFixture[str], word: str, line: str) -> None:
    launch("network=flaky", f"++{word}", exit_code=2)
    assert line in capsys.readouterr().err


def test_who_drops_is_known_from_the_seed(launch: Launch) -> None:
    folder = launch("network=flaky", "network.dropout=0.4", "num_rounds=8", "clients_per_round=7", "seed=5")
    rows = table(folder, "clients")
    found = {(int(row["round"]), int(row["client"])) for row in rows if row["status"] == "dropped"}
    expected = {
        (int(row["round"]), int(row["client"]))
        for row in rows
        if rng.generator(5, "dropout", int(row["round"]), int(row["client"])).random() < 0.4
    }
    assert found == expected
    assert len(rows) == 56
    assert 10 < len(found) < 35
    dropped = [row for row in rows if row["status"] == "dropped"]
    costs = ("steps", "bytes_down", "bytes_up", "virtual_seconds")
    assert {tuple(row[name] for name in costs) for row in dropped} == {("0", "31400", "0", "")}
    metrics = table(folder, "metrics")[1:]
    assert sum(int(row["clients_dropped"]) for row in metrics) == len(found)
    assert all(int(row["clients_ok"]) + int(row["clients_dropped"]) == 7 for row in metrics)


def test_those_who_answer_do_what_they_would_have_done(launch: Launch) -> None:
    """In the first round, where all have the same model."""
    flaky, ideal = (launch(f"network={name}", "num_rounds=1") for name in ("flaky", "ideal"))
    rows = {row["client"]: row["train_loss"] for row in table(ideal, "clients")}
    answered = [row for row in table(flaky, "clients") if row["status"] == "ok"]
    assert 0 < len(answered) < 10
    assert all(row["train_loss"] == rows[row["client"]] for row in answered)


def test_when_all_drop_the_model_stays_and_the_run_goes_on(launch: Launch) -> None:
    folder = launch("network=flaky", "network.dropout=1", "num_rounds=3", "strategy=scaffold", "figures=true")
    metrics = table(folder, "metrics")
    assert (folder / "figures" / "curves.png").exists()
    assert len({row["test_loss"] for row in metrics}) == 1
    assert [row["aggregated"] for row in metrics] == ["", "0", "0", "0"]
    assert "train_loss" not in metrics[0]
    assert not (folder / "state").exists()
    assert json.loads((folder / "run.json").read_text())["status"] == "done"


def test_too_few_answers_keep_the_model_and_what_clients_had(launch: Launch) -> None:
    words = ("network=flaky", "network.dropout=0.5", "num_rounds=10", "clients_per_round=4", "min_clients=3")
    folder = launch(*words, "strategy=scaffold")
    metrics = table(folder, "metrics")
    for before, row in pairwise(metrics):
        assert row["aggregated"] == str(int(int(row["clients_ok"]) >= 3))
        assert (row["test_loss"] == before["test_loss"]) == (row["aggregated"] == "0")
    assert {"0", "1"} == {row["aggregated"] for row in metrics[1:]}
    counted = {row["round"] for row in metrics if row["aggregated"] == "1"}
    rows = [row for row in table(folder, "clients") if row["status"] == "ok" and row["round"] in counted]
    newest = {row["client"]: row["round"] for row in rows}
    states = {file.parent.name: file.stem for file in (folder / "state").glob("*/*")}
    assert states == newest


FRAGILE = (
    "krum", "multikrum", "bulyan", "fedtrimmedavg", "fedmedian", "qfedavg", "fedadam", "dp_client_adaptive",
    "dp_server_adaptive", "loadaboost", "feddyn", "centralized",
)  # fmt: skip


@pytest.mark.parametrize("strategy", FRAGILE)
def test_strategies_with_few_answers(launch: Launch, strategy: str) -> None:
    more = ["strategy.beta=0.34"] if strategy == "fedtrimmedavg" else []
    words = ("network=flaky", "network.dropout=0.7", f"strategy={strategy}", "num_rounds=6", "num_clients=3", *more)
    folder = launch(*words)
    assert {row["clients_ok"] for row in table(folder, "metrics")[1:]} >= {"0", "1"}
