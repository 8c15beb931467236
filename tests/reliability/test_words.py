"""Command lines by the thousand, of every kind that somebody might type: none ends in a traceback or touches a file
that is not its own.

Each is made from its number (odd_words.py), so that one that fails can be made again. All is as it is for a user, but
that no round is trained, and that a simulation's workers are this process.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import compose
from odd_words import BASE, VERBS, YAMLS, Words, words_of

from fl_bench import cli, commands
from fl_bench.engines.inline import Inline
from fl_bench.engines.simulation import Simulation
from fl_bench.federation.rounds import Rounds
from fl_bench.runs.execute import execute

COUNT, CHUNK = int(os.environ.get("FL_BENCH_WORDS", "50")), 50
SECONDS = 30  # on a machine that does other things too


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in, with a run, and beside it things that are not to be touched."""
    scratch, here = tmp_path / "scratch", tmp_path / "here"
    for name in ("scratch", "home", "here/run", "here/empty", "here/damaged", "canary/state"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "canary/notes.txt",
        "canary/state/1.txt",
        "canary/multirun.yaml",
        "here/notes.txt",
        "here/damaged/run.json",
    ):
        (tmp_path / name).write_text("mine")
    for name, content in YAMLS.items():
        for place in ("strategy", "task", "network", "partition", "experiment"):
            (here / "own" / name / place).mkdir(parents=True, exist_ok=True)
            (here / "own" / name / place / f"{name}.yaml").write_bytes(content)
    assert execute(compose(*BASE, "num_rounds=1"), here / "run", scratch) == 0
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(Rounds, "__iter__", lambda rounds: iter(()))
    monkeypatch.setattr(Rounds, "after", lambda rounds, *given: iter(()))
    monkeypatch.setattr("fl_bench.runs.execute._draw", lambda made: None)
    monkeypatch.setattr(Simulation, "own_process", False)
    monkeypatch.setattr(Simulation, "workers", Inline.workers)
    monkeypatch.setattr("fl_bench.studies.launcher._parallel", lambda config, jobs: 1)  # nor do sweeps
    monkeypatch.setattr("fl_bench.studies.sweeper.sum_up", lambda folder, by: None)
    return tmp_path


def kept(world: Path) -> Iterator[tuple[str, int, bytes]]:
    """All that no command may change: everything but the folders of runs."""
    for path in sorted(world.rglob("*")):
        name = path.relative_to(world).as_posix()
        if path.is_file() and (name.startswith(("canary/", "home/", "here/own/")) or name.count("/") < 2):
            yield name, path.stat().st_mtime_ns, path.read_bytes()


def spoken(words: Words) -> int:
    """The exit code of the command that these words are."""
    sys.argv = ["fl-bench", *words]
    with pytest.raises(SystemExit) as end:
        cli.main()
    return 0 if end.value.code is None else int(end.value.code)  # type: ignore[arg-type]


def trouble(words: Words, code: int, out: str, err: str) -> str:
    """What is wrong with how a command ended; nothing where it is as it should be."""
    lines = [line for line in err.splitlines() if "preparing engine" not in line and "fl-bench: note: " not in line]
    refused = len(lines) == 1 and lines[0].startswith("fl-bench: ")
    may_fail = words[:1] == ["verify"] or "damaged" in words
    signs = (
        ("Traceback" in out + err, "has a traceback"),
        (code not in (0, 2) and not may_fail, f"ends with {code}"),
        (code == 2 and not refused and "-m" not in words, f"says {len(lines)} lines"),
        (not all(char.isprintable() or char == "\n" for char in err), "says what a terminal obeys"),
    )
    return "".join([text for found, text in signs if found][:1])


@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_no_command_line_is_a_riddle(
    world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], first: int
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    before, failed = set(kept(world)), []
    for number in range(first, min(first + CHUNK, COUNT)):
        words, began = words_of(number), time.monotonic()
        os.chdir(world / "here")
        try:
            code, raised = spoken(words), ""
        except Exception as error:
            code, raised = -1, f"raises {type(error).__name__}: {error}"
        out, err = capfd.readouterr()
        seconds, after = time.monotonic() - began, set(kept(world))
        slow = f"takes {seconds:.0f} s" if seconds > SECONDS else ""
        touched = f"touches {sorted(name for name, *_ in before ^ after)}" if before != after else ""
        if wrong := raised or trouble(words, code, out, err) or slow or touched:
            failed.append(f"{number}: {words}: {wrong}: {err[-300:]}")
        before = after
    assert not failed, "\n".join(failed)


def test_the_verbs_here_are_all_there_are() -> None:
    assert sorted(VERBS) == sorted(commands.ours())
