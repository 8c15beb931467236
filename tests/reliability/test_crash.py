"""A run that is killed at any moment and goes on ends with the bytes of one that was never interrupted."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import compose, digests

from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute

CRASHES = int(os.environ.get("FL_BENCH_CRASHES", "16"))  # docs/reliability.md says of how many it was last tried with
SMALL = ("num_rounds=8", "num_clients=6", "evaluate.clients=true", "local.steps=2")
RUNS = {
    "fedavg": ("clients_per_round=4", "targets=[0.3,0.5]"),
    "fedadam": ("strategy=fedadam", "early_stop.metric=test_loss", "early_stop.patience=3"),
    "scaffold": ("strategy=scaffold", "network=flaky", "clients_per_round=4", "compression=topk", "ledger=signed"),
    "dp": ("strategy=dp_server_adaptive", "network=flaky", "checkpoint.every=3"),
}

Whole = dict[str, tuple[Path, float]]


def start(words: tuple[str, ...], folder: Path, scratch: Path, resume: bool) -> int:
    """The run in a process group of its own, which is forked: imports would be most of its time."""
    cfg = compose(*SMALL, *words)
    child = os.fork()
    if child:
        os.setpgid(child, child)  # here too: it may be killed before it comes to its first line
        return child
    code = 99
    try:
        os.setpgid(0, 0)
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        scratch.mkdir()
        code = execute(cfg, folder, scratch, Start.RESUME if resume else Start.NEW)
    finally:
        os._exit(code)


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What each run is without a crash, and how long it takes."""
    found = {}
    for name, words in RUNS.items():
        folder = tmp_path_factory.mktemp(name)
        begin = time.monotonic()
        assert finish(start(words, folder, folder / "scratch", resume=False)) == 0
        found[name] = (folder, time.monotonic() - begin)
    return found


def model_digests(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "run.json").read_text())["digests"]
    return found


@pytest.mark.parametrize("number", range(CRASHES))
def test_killed_at_any_moment(whole: Whole, number: int, tmp_path: Path) -> None:
    name = list(RUNS)[number % len(RUNS)]
    expected, seconds = whole[name]
    moments = random.Random(number)
    folder = tmp_path / "run"
    folder.mkdir()
    for attempt in range(2):
        child = start(RUNS[name], folder, tmp_path / f"scratch{attempt}", resume=attempt > 0)
        time.sleep(moments.uniform(0, seconds if attempt == 0 else seconds / 2))
        os.killpg(child, signal.SIGKILL)
        finish(child)
    child = start(RUNS[name], folder, tmp_path / "scratch", resume=True)
    assert finish(child) == 0, (folder / "output.txt").read_text()
    assert digests(folder) == digests(expected)
    assert model_digests(folder) == model_digests(expected)
