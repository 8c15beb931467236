"""Machines and shells that are not as one expects: each run goes on as ever, or says in one line what to do."""

import json
import os
import pty
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import (
    COMMAND,
    ROOT,
    Launch,
    compose,
    digests,
    environment,
    forked,
    leftovers,
    long,
    processes,
    table,
    works_in,
)
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.serverapp.strategy import FedAvg
from test_faults import SMALL, failing, in_namespace

from fl_bench import cli
from fl_bench.build import build
from fl_bench.engines import ray_grid
from fl_bench.engines.base import SHORT, Engine
from fl_bench.errors import ConfigError
from fl_bench.machine import package
from fl_bench.runs.scratch import LONGEST, scratch_folder
from fl_bench.storage.temporary import LOCK, MARK
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn

RUN = "fl-bench figures=false num_rounds=3 data=synthetic data.num_samples=100 hydra.run.dir=run"
INLINE = f"{RUN} engine=inline"
SMALL_DISK = "mount -t tmpfs -o size={size} none /mnt && TMPDIR=/mnt {run}"
SHM = "mount -t tmpfs -o {options} none /dev/shm && {run}"
NO_ROOM = "No space left on device; let TMPDIR name a folder with more room"

CONDITIONS = {  # how it is made, the exit code, how the last line on stderr ends
    "a full TMPDIR": (SMALL_DISK.format(size="60k", run=INLINE), 1, NO_ROOM),
    "a full TMPDIR, partly written": (SMALL_DISK.format(size="20k", run=INLINE), 1, NO_ROOM),
    "a full TMPDIR of a simulation": (SMALL_DISK.format(size="4M", run=RUN), 1, "let TMPDIR name another"),
    "ulimit -v": (f"ulimit -v 3000000; {INLINE}", 1, "which maps more than it uses; 3906250 or unlimited would do"),
    "no loopback": (f"unshare -n {RUN}", 1, "would help, and engine=inline needs no network"),
    "a reader of the list that goes": ("set -o pipefail; fl-bench list | head -1; exit $?", 0, ""),
}  # fmt: skip
LONG = {  # runs each, most of them simulations
    "closed stdin and stdout, MPLBACKEND of a notebook, PYTHONWARNINGS": (
        "export MPLBACKEND=module://matplotlib_inline.backend_inline PYTHONWARNINGS=error;"
        f"{INLINE} figures=true <&- >&-",
        0,
        "preparing engine and data",
    ),
    "a reader that goes": (f"set -o pipefail; {INLINE} | head -1", 0, "preparing engine and data"),
    "a read-only /dev/shm": (SHM.format(options="ro", run=RUN), 0, ""),
    "a tiny /dev/shm": (SHM.format(options="size=1M", run=RUN), 0, ""),
    "ulimit -v that is enough": (f"ulimit -v 7000000; {RUN}", 0, "preparing engine and data"),
    "a reader that goes from a simulation": (f"set -o pipefail; {RUN} | head -1", 0, "preparing engine and data"),
}
ALL = [*CONDITIONS.values(), *(pytest.param(*condition, marks=long) for condition in LONG.values())]


@pytest.mark.parametrize(("script", "code", "end"), ALL, ids=[*CONDITIONS, *LONG])
def test_it_runs_or_says_in_one_line_what_to_do(
    tmp_path: Path, launch: Launch, script: str, code: int, end: str
) -> None:
    start = time.monotonic()
    result = in_namespace(script, tmp_path)
    seconds = time.monotonic() - start
    lines = result.stderr.splitlines()
    assert result.returncode == code, lines
    assert "".join(lines[-1:]).endswith(end)
    assert "Traceback" not in result.stderr
    if code:
        assert len([line for line in lines if "preparing engine" not in line]) == 1
        assert seconds < 20  # promised: 10 s on an idle machine
    elif "list" not in script:
        assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"
        whole = launch("num_rounds=3", "data=synthetic", "data.num_samples=100")
        assert digests(tmp_path / "run") == digests(whole)


QUITTER = """
import sys

from fl_bench.strategies.base import LocalAlgorithm, Turn


class Quitter(LocalAlgorithm):
    def finish(self, turn: Turn) -> None:
        if (turn.client, turn.round) == (3, 2):
            sys.exit()
"""
YAML = "# goes\nserver: {_target_: flwr.serverapp.strategy.FedAvg}\nclient: {_target_: quitter.Quitter}\n"
WORDS = ("--config-dir", "conf", "strategy=quitter", "num_rounds=5", "figures=false", "hydra.run.dir=run")


def seen(folder: Path) -> tuple[set[str], set[str]]:
    """Where the processes that work in a folder listen for connections, and the tokens that they ask for."""
    addresses, tokens = set(), set()
    for entry in processes():
        with suppress(psutil.Error, OSError):  # it has just ended
            if works_in(entry, folder):
                process = psutil.Process(int(entry.name))
                listening = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
                addresses |= {connection.laddr.ip.removeprefix("::ffff:") for connection in listening}
                tokens |= {process.environ()["RAY_AUTH_TOKEN"]} if process.name() == "raylet" else set()
    return addresses, tokens


@long
def test_a_simulation_in_another_checkout_with_a_long_tmpdir(tmp_path: Path) -> None:
    """All that a single simulation can show: the workers' path, Ray's sockets and ports, and a client that exits."""
    mine, elsewhere, temporary = tmp_path / "mine", tmp_path / "elsewhere", tmp_path / ("t" * 60)
    for folder in (mine / "conf" / "strategy", elsewhere / "fl_bench", temporary):
        folder.mkdir(parents=True)
    (mine / "quitter.py").write_text(QUITTER)
    (mine / "conf" / "strategy" / "quitter.yaml").write_text(YAML)
    (elsewhere / "conf").symlink_to(mine / "conf")
    (elsewhere / "fl_bench" / "__init__.py").write_text("raise RuntimeError('the other checkout')")
    env = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": f"{ROOT}{os.pathsep}{mine}"}
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen([COMMAND, *WORDS], cwd=elsewhere, env=env, stdout=output, stderr=output)
    addresses: set[str] = set()
    tokens: set[str] = set()
    shorts: set[Path] = set()
    while process.poll() is None:
        addresses, tokens = map(set.union, (addresses, tokens), seen(elsewhere))
        shorts |= {link.readlink() for link in temporary.glob(f"*/{SHORT}")}
        time.sleep(0.5)
    shown = (tmp_path / "output.txt").read_text()
    assert process.returncode == 0, shown
    assert addresses == {"127.0.0.1"}
    (token,) = tokens
    assert len(token) == 64
    rows = {(row["round"], row["client"]): row for row in table(elsewhere / "run", "clients")}
    assert [key for key, row in rows.items() if row["status"] == "failed"] == [("2", "3")]
    assert rows["2", "3"]["why"].startswith("SystemExit: (quitter.py:")
    assert "starting again" not in shown
    inline = forked(*WORDS, "engine=inline", cwd=mine)
    assert inline.returncode == 0, inline.stderr
    assert digests(elsewhere / "run") == digests(mine / "run")
    assert not leftovers(elsewhere)
    assert not list(temporary.iterdir())
    (short,) = shorts
    assert not short.exists()


def test_a_worker_with_another_package_says_so() -> None:
    message = Message(RecordDict(), 1, MessageType.QUERY)
    reply = ray_grid.app_of(("0.0 abc", "/elsewhere"))(message, Context(1, 1, {}, RecordDict(), {}))
    assert reply.error.reason == (
        f"its fl-bench is {' in '.join(package())}, and that of the command is 0.0 abc in /elsewhere"
    )


def test_only_what_a_run_has_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("lock", "link", "fifo", "other", "left"):
        (tmp_path / f"fl-bench-{name}").mkdir()
    (tmp_path / "fl-bench-lock" / "lock").touch()
    (tmp_path / "mark").write_bytes(MARK)
    (tmp_path / "fl-bench-link" / LOCK).symlink_to(tmp_path / "mark")
    os.mkfifo(tmp_path / "fl-bench-fifo" / LOCK)
    (tmp_path / "fl-bench-other" / LOCK).write_text("mine\n")
    (tmp_path / "fl-bench-left" / LOCK).write_bytes(MARK)
    os.mkfifo(tmp_path / "fl-bench-pipe")
    (tmp_path / "fl-bench-file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / LOCK).write_bytes(MARK)
    (tmp_path / "fl-bench-folder").symlink_to(tmp_path / "elsewhere")
    if os.getuid() == 0:
        (tmp_path / "fl-bench-theirs").mkdir()
        (tmp_path / "fl-bench-theirs" / LOCK).write_bytes(MARK)
        os.chown(tmp_path / "fl-bench-theirs", 12345, 12345)
    before = set(tmp_path.rglob("*"))
    with scratch_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with scratch_folder() as other:  # this process has the first
            assert folder.exists()
            assert other != folder
    left = tmp_path / "fl-bench-left"
    assert before - set(tmp_path.rglob("*")) == {left, left / LOCK}


def test_a_long_tmpdir_has_a_short_folder_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ("t" * 60)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("t" * 60)))
    with scratch_folder() as folder:
        short = (folder / SHORT).readlink()
        assert len(str(short)) <= LONGEST
        assert (short / LOCK).read_bytes() == MARK
    assert not short.exists()


def test_another_folder_than_tmpdir_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with scratch_folder():
        note = f"fl-bench: note: TMPDIR=/nowhere: cannot be written; temporary files lie in {tmp_path}\n"
        assert capsys.readouterr().err == note


HOOKS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("code", [0, 3])
def test_a_strategy_that_exits_has_failed(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hook: str, code: int
) -> None:
    monkeypatch.setattr(FedAvg, hook, lambda *_: sys.exit(code))
    folder = launch(*SMALL, "evaluate.clients=true", exit_code=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fl-bench: SystemExit: {code} (test_conditions.py:")
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", 1)


def test_a_client_that_exits_has_failed(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(turn: Turn) -> None:
        sys.exit(3)

    monkeypatch.setattr(LocalAlgorithm, "finish", failing(leave))
    rows = table(launch(*SMALL), "clients")
    failed = [(row["round"], row["client"], row["why"].split(" (")[0]) for row in rows if row["status"] == "failed"]
    assert failed == [("2", "2", "SystemExit: 3")]


def test_clients_that_exit_when_stacked_are_tried_one_by_one(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = launch(*SMALL)
    monkeypatch.setattr("fl_bench.federation.client.train_together", lambda *_: sys.exit(3))
    assert digests(launch(*SMALL, "engine.vectorize=4")) == digests(whole)


@pytest.mark.parametrize("words", [("list",), ("engine=inline",), ("check", "strategy=fedavg")], ids="-".join)
def test_ctrl_c_while_it_starts(tmp_path: Path, words: tuple[str, ...]) -> None:
    """One of the first modules that it imports presses it."""
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    result = subprocess.run(
        [COMMAND, *words], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_more_workers_than_there_is_memory_for_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_cpus=1e-06: would start \d+ workers, and this machine has memory for"):
        build(compose("engine=simulation", "engine.client_resources.num_cpus=0.000001").engine, Engine)


@pytest.mark.parametrize("kind", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
def test_what_a_reader_that_has_gone_is_told_is_dropped(kind: Callable[[], tuple[int, int]]) -> None:
    ours, theirs = kind()
    os.close(ours)
    with cli.Output(theirs, "w") as output:
        assert [output.write(b"one"), output.write(b"two")] == [3, 3]


def test_other_errors_of_an_output_are_errors() -> None:
    with cli.Output(os.open("/dev/full", os.O_WRONLY), "w") as output, pytest.raises(OSError, match="No space left"):
        output.write(b"one")
