"""Simulations whose processes are killed, hang, or lose their parent; and what is left of them: nothing."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import begin, compose, digests, forked, leftovers, long, table
from omegaconf import DictConfig

from fl_bench.config.origin import UNKNOWN, Origin
from fl_bench.engines.base import Engine
from fl_bench.errors import AGAIN_SMALLER
from fl_bench.machine import num_cpus
from fl_bench.observers import journal
from fl_bench.runs import launch
from fl_bench.runs.begin import Start
from fl_bench.runs.process import Arm, Crashed, in_own_process

KILLS = int(os.environ.get("FL_BENCH_KILLS", "1"))  # docs/reliability.md says with how many it was last tried
WORDS = ("figures=false", "strategy=scaffold", "network=flaky", "clients_per_round=6", "num_rounds=100")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return begin(*WORDS, *words, "hydra.run.dir=run", cwd=folder, output=folder / "output.txt")


def wait_for_round(folder: Path, round: int) -> None:
    deadline = time.monotonic() + 100
    metrics = folder / "run" / "metrics.csv"
    while not (metrics.exists() and metrics.read_text().count("\n") > round + 1):
        assert time.monotonic() < deadline, (folder / "output.txt").read_text()
        time.sleep(0.02)


def workers(folder: Path) -> list[int]:
    """The processes of Ray's workers that have an actor, in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd").startswith(str(folder)):
                found += [int(entry.name)] * (b"ClientAppActor" in (entry / "cmdline").read_bytes())
        except OSError:  # it has just ended
            continue
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    result = forked(*WORDS, "engine=inline", "hydra.run.dir=run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return digests(folder / "run")


@pytest.mark.parametrize("number", range(KILLS))
@long
def test_a_worker_that_is_killed_at_any_moment_makes_no_difference(
    tmp_path: Path, expected: dict[str, str], number: int
) -> None:
    chance = random.Random(number)
    process = start(tmp_path)
    wait_for_round(tmp_path, chance.randrange(50))
    time.sleep(chance.random() / 10)
    while not (victims := workers(tmp_path)):  # each is without a name for the moment in which Ray changes it
        assert process.poll() is None, (tmp_path / "output.txt").read_text()
    os.kill(chance.choice(victims), signal.SIGKILL)
    assert process.wait(timeout=100) == 0
    assert (tmp_path / "output.txt").read_text().count("starting again from the last checkpoint") == 1
    assert digests(tmp_path / "run") == expected
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("number", range(KILLS))
@long
def test_the_whole_group_is_killed_at_any_moment(tmp_path: Path, expected: dict[str, str], number: int) -> None:
    chance = random.Random(number)
    process = start(tmp_path)
    if number % 2:
        wait_for_round(tmp_path, chance.randrange(50))
    else:
        while not (tmp_path / "run" / "run.json").exists():
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 10))  # while Ray starts, too
    os.killpg(process.pid, signal.SIGKILL)  # the command; the simulation, which is a group of its own, dies with it
    process.wait(timeout=10)
    deadline = time.monotonic() + 20
    while leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not leftovers(tmp_path)
    result = forked("resume", "run", "engine=inline", cwd=tmp_path)  # removes the other's temporary folder, too
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "run") == expected


FAULTY = """
import ctypes, os, time
from pathlib import Path

from fl_bench.strategies.base import LocalAlgorithm, Turn

WAYS = {2: lambda: os._exit(9), 4: lambda: ctypes.string_at(0), 6: lambda: time.sleep(1000)}


class Faulty(LocalAlgorithm):
    def finish(self, turn: Turn) -> None:
        done = Path(f"done{turn.round}")
        if turn.client == 3 and turn.round in WAYS and not done.exists():
            done.touch()
            WAYS[turn.round]()
"""


@long
def test_a_worker_that_exits_one_that_crashes_and_one_that_hangs(tmp_path: Path, launch: Callable[..., Path]) -> None:
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "conf" / "strategy" / "faulty.yaml").write_text(
        "# once each\nserver: {_target_: flwr.serverapp.strategy.FedAvg}\nclient: {_target_: faulty.Faulty}\n"
    )
    limits = ("engine.round_timeout_s=8", "engine.max_restarts=3")
    words = ("--config-dir", "conf", "strategy=faulty", "num_rounds=7", "figures=false", "hydra.run.dir=run")
    result = forked(*words, *limits, cwd=tmp_path, timeout=200)
    assert result.returncode == 0, result.stderr
    notes = [line for line in result.stderr.splitlines() if "starting again" in line]
    assert len(notes) == 3
    assert "round 2: the worker of clients" in notes[0]
    assert "round 4: the worker of clients" in notes[1]
    assert notes[2] == (
        "fl-bench: note: no round has ended for engine.round_timeout_s=8; "
        "starting again from the last checkpoint (1 more times)"
    )
    assert digests(tmp_path / "run") == digests(launch("num_rounds=7"))
    assert not leftovers(tmp_path)


@long
def test_a_client_that_takes_too_long_in_a_simulation(tmp_path: Path) -> None:
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "slow.yaml").write_text(
        "# slow\nserver: {_target_: flwr.serverapp.strategy.FedAvg}\nclient: {_target_: faulty.Faulty}\n"
    )
    ways = "{2: lambda: os._exit(9), 4: lambda: ctypes.string_at(0), 6"
    (tmp_path / "faulty.py").write_text(FAULTY.replace(ways, "{2"))
    words = ("--config-dir", "conf", "strategy=slow", "num_rounds=3", "figures=false", "hydra.run.dir=run")
    result = forked(*words, "engine.client_timeout_s=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    failed = [row for row in table(tmp_path / "run", "clients") if row["status"] == "failed"]
    assert [(row["round"], row["client"], row["why"]) for row in failed] == [
        ("2", "3", "it took more than engine.client_timeout_s=5")
    ]


def test_for_want_of_memory_it_starts_again_with_half_as_many_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = compose("engine=simulation", "engine.client_resources.num_cpus=0.5", "engine.client_resources.num_gpus=0.25")
    seen = []

    def attempt(cfg: DictConfig, engine: Engine, folder: Path, start: Start, origin: Origin, tell: object) -> int:
        seen.append((start, dict(engine.resources)))
        record = journal.Journal(folder, cfg)
        record.end(1, "round 3: the worker of clients 1, 2 died")
        return AGAIN_SMALLER if len(seen) < 3 else 0

    monkeypatch.setattr(launch, "_attempt", attempt)
    assert launch.launch(cfg, tmp_path, Start.NEW, origin=UNKNOWN) == 0
    assert seen == [
        (Start.NEW, {"num_cpus": 0.5, "num_gpus": 0.25}),
        (Start.RESUME, {"num_cpus": 1.0, "num_gpus": 0.5}),
        (Start.RESUME, {"num_cpus": 2.0 if num_cpus() > 1 else 1.0, "num_gpus": 1.0}),
    ]
    assert capsys.readouterr().err.count("round 3: the worker of clients 1, 2 died; starting again") == 2


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    process = start(tmp_path, "engine=inline", "num_rounds=100000")
    wait_for_round(tmp_path, 2)
    for words in (("resume", "run"), ("engine=inline", "hydra.run.dir=run")):
        result = forked(*words, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (2, f"fl-bench: {tmp_path / 'run'}: a run is going on in it\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_how_a_process_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_own_process(lambda arm: 7) == 7
    with pytest.raises(Crashed, match="was killed by SIGKILL"):
        in_own_process(lambda arm: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[arg-type, return-value]
    with pytest.raises(Crashed, match="has exited with 5"):
        in_own_process(lambda arm: os._exit(5))


def test_what_a_process_raises_is_said_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert in_own_process(lambda arm: 1 // 0) == 1
    assert capfd.readouterr().err.startswith("fl-bench: ZeroDivisionError: integer division or modulo by zero (test_")


def wait_for_the_end(arm: Arm) -> int:
    try:
        arm(True)
        time.sleep(100)
    except KeyboardInterrupt:
        print("the files are finished")
    return 130


def test_in_the_background_of_a_shell_it_can_be_stopped_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """There SIGINT is ignored, also by what is started; SIGTERM, which the command takes for Ctrl-C, must reach it."""
    monkeypatch.setattr("fl_bench.runs.process._wait", interrupted_at_the_first_round)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert in_own_process(wait_for_the_end) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().out == "the files are finished\n"


def interrupted_at_the_first_round(child: int, pipe: int, timeout: float | None) -> int:
    os.read(pipe, 1)
    raise KeyboardInterrupt


def slow_start_and_end(arm: Arm) -> int:
    time.sleep(1.5)
    for _ in range(3):
        arm(True)
        time.sleep(0.3)
    arm(False)
    time.sleep(1.5)
    return 0


def no_first_round(arm: Arm) -> int:
    arm(True)
    time.sleep(100)
    return 0


@pytest.mark.alone
def test_only_rounds_are_timed() -> None:
    assert in_own_process(slow_start_and_end, timeout=1.2) == 0
    start = time.monotonic()
    with pytest.raises(Crashed, match=r"no round has ended for engine.round_timeout_s=1.2"):
        in_own_process(no_first_round, timeout=1.2)
    assert time.monotonic() - start < 20


@long
@pytest.mark.parametrize("engine", ["inline", pytest.param("simulation", marks=long)])
def test_ctrl_c_twice_ends_at_once(tmp_path: Path, engine: str) -> None:
    process = start(tmp_path, f"engine={engine}", "num_rounds=100000")
    wait_for_round(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) in (130, -signal.SIGINT)
    deadline = time.monotonic() + 5
    while leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not leftovers(tmp_path)
