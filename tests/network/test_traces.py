"""Traces: what is read of them, what is wrong with them, how they end, and how they begin anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TRACE_COLUMNS, Launch, make_network, table

from fl_bench.network import devices
from fl_bench.network.schedule import Plan, Schedule

Refusal = Callable[..., str]  # the text of traces, and words

TRACES = f"""{TRACE_COLUMNS}0,0.5,50,50,,
1,1,50,100,,
2,2,10,100,,
3,0.1,5,10,,
"""


def schedule(tmp_path: Path, rows: str, num_clients: int, wanted: int, **given: Any) -> Schedule:
    """Of clients with 100 bytes down, 10 steps and 50 bytes up."""
    return Schedule(make_network(tmp_path, rows, [10] * num_clients, (100, 50), **{"repeat": False} | given), wanted)


def test_traces_begin_anew(tmp_path: Path) -> None:
    """They last 20 seconds. Client 1 takes 12 and is there for the first 4; 0 takes 8 and is there from 5 to 20."""
    repeated = schedule(tmp_path, "0,0.5,50,50,5,20\n1,1,50,100,,4\n", 2, 2, repeat=True)
    plans = [repeated.plan(round) for round in range(1, 8)]
    assert [plan.asked for plan in plans] == [[1], [0], [0], [1], [0], [0], [1]]
    assert [plan.ends for plan in plans] == [4, 13, 20, 24, 33, 40, 44]
    assert [len(plan.dropping) for plan in plans] == [1, 0, 1, 1, 0, 1, 1]
    assert plans[5] == Plan(6, [0], {0}, {0: np.inf}, 40.0)  # the end of the traces cuts a turn off, too


def test_traces_that_begin_anew_are_those_written_out(tmp_path: Path) -> None:
    """A period of 0.7 seconds, of which no multiple but those by powers of 2 is exact."""
    rows = [(0, 0.1, 0.3), (0, 0.4, 0.7), (1, 0.0, 0.35), (2, 0.2, 0.6), (3, 0.65, 0.7), (4, 0.3, 0.4)]
    short = "".join(f"{client},0.001,1e4,1e4,{start},{end}\n" for client, start, end in rows)
    long = "".join(
        f"{client},0.001,1e4,1e4,{start + count * 0.7},{end + count * 0.7}\n"
        for count in range(200)
        for client, start, end in rows
    )
    repeated = schedule(tmp_path, short, 5, 3, repeat=True, dropout=0.3)
    written = schedule(tmp_path, long, 5, 3, dropout=0.3)
    plans = [repeated.plan(round) for round in range(1, 1001)]
    assert plans == [written.plan(round) for round in range(1, 1001)]
    assert plans[-1].ends > 20


@pytest.mark.parametrize("period", [0.1, 0.7, 1 / 3, 86400.0, 1e-3])
def test_every_time_lies_in_one_period(period: float) -> None:
    none = np.zeros(0)
    table = devices.Devices(none.astype(int), none, none, none, none, none, period=period)
    for count in [*range(1, 2000), 10**6 + 1, 10**9 + 7]:
        for at in (count * period, np.nextafter(count * period, 0), np.nextafter(count * period, np.inf)):
            begun, following = table.begins(float(at))
            assert begun <= at < following
            assert begun == (count if at >= count * period else count - 1) * period


def test_nobody_to_ask(launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "traces.csv"
    file.write_text(TRACE_COLUMNS + "".join(f"{k},1,1e6,1e6,,10\n" for k in range(4)))
    words = ("network=heterogeneous", f"network.traces={file}", "num_clients=4", "num_rounds=5", "local.steps=4")
    folder = launch(*words, exit_code=1)
    rows = table(folder, "metrics")[1:]
    assert [row["clients_sampled"] for row in rows] == ["4", "4", "4"]  # 4 seconds a round; in the third, cut off
    assert [row["clients_ok"] for row in rows] == ["4", "4", "0"]
    assert [float(row["virtual_seconds"]) for row in rows] == pytest.approx([4.0628, 8.1256, 10])
    line = f"round 4: network.traces={file}: no client with samples can be reached after virtual second 10; with "
    assert f"fl-bench: {line}network.repeat=true the traces would begin anew\n" in capsys.readouterr().err
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    rows = table(launch(*words, "network.repeat=true"), "metrics")[1:]
    assert [row["clients_ok"] for row in rows] == ["4", "4", "0", "4", "4"]
    assert [float(row["virtual_seconds"]) for row in rows] == pytest.approx([4.0628, 8.1256, 10, 14.0628, 18.1256])


@pytest.fixture
def refusal(launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """What a run says of traces of this text: one line, and behind the name of the file."""

    def start(text: str, *words: str) -> str:
        file = tmp_path / "traces.csv"
        file.write_bytes(text.encode(errors="surrogateescape"))
        launch("network=heterogeneous", f"network.traces={file}", *words, exit_code=2)
        error = capsys.readouterr().err
        named = f"fl-bench: network.traces={file}: "
        assert error.startswith(named)
        assert error.count("\n") == 1
        return error.removeprefix(named)

    return start


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "has no column client, seconds_per_step, bytes_per_second_up"),
        ("client,seconds_per_step\n0,1", "has no column bytes_per_second_up, bytes_per_second_down, available_from"),
        (TRACES.replace("1,1,50", "1,fast,50"), "line 3: seconds_per_step is 'fast': must be a number from 0"),
        (TRACES.replace("1,1,50", "1,-1,50"), "line 3: seconds_per_step is '-1': must be a number from 0"),
        (TRACES.replace("1,1,50", "1,inf,50"), "line 3: seconds_per_step is 'inf'"),
        (TRACES.replace("1,1,50", "1,,50"), "line 3: seconds_per_step is '': must be a number from 0"),
        (TRACES.replace("2,2,10", "2,2,0"), "line 4: bytes_per_second_up is '0': must be a positive number"),
        (TRACES.replace("2,2,10", "2,2,nan"), "line 4: bytes_per_second_up is 'nan'"),
        (TRACES.replace("3,0.1", "4,0.1"), "line 5: client is '4': must be a client, from 0 to 3"),
        (TRACES.replace("3,0.1", "2.5,0.1"), "line 5: client is '2.5': must be a client"),
        (TRACES.replace("3,0.1", "2,0.1"), "line 5: its time overlaps with that of another row"),
        (TRACES.replace("5,10,,", "5,10,9,8"), "line 5: available_to is '8': must be more than available_from"),
        (TRACES.replace("5,10,,", "5,10,now,"), "line 5: available_from is 'now': must be a number of seconds"),
        (TRACES.replace("5,10,,", "5,10,,,7"), "line 5: has more cells than the 6 columns"),
        (TRACES.replace(",,\n", ",,,\n"), "line 2: has more cells than the 6 columns"),
        (TRACES.replace("2,2,10", "\n\n2,x,10"), "line 6: seconds_per_step is 'x'"),
        (TRACE_COLUMNS, "has no row for client 0, and num_clients=4"),
        ("\0\1\2", ""),
        ("\udcff", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_bad_traces_are_one_line_that_says_where(refusal: Refusal, text: str, line: str) -> None:
    assert line in refusal(text, "num_clients=4")


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ("5,", "line 3: available_to is '': must be a number, since network.repeat=true"),
        ("5,inf", "line 3: available_to is 'inf': must be a number, since network.repeat=true"),
        ("-5,9", "line 3: available_from is '-5': must be a number of seconds from 0, or empty"),
        ("5,5", "line 3: available_to is '5': must be more than available_from"),
    ],
)
def test_traces_that_cannot_begin_anew(refusal: Refusal, cells: str, line: str) -> None:
    text = f"{TRACE_COLUMNS}0,1,50,50,,9\n1,1,50,50,{cells}\n"
    assert refusal(text, "network.repeat=true", "num_clients=2").startswith(line)


def test_traces_that_are_not_there(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("network=heterogeneous", "network.traces=/nowhere.csv", exit_code=2)
    assert "network.traces=/nowhere.csv: cannot be read: No such file or directory" in capsys.readouterr().err
