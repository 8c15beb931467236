"""Strategies from a user's own folder, well behaved and not, in the workers of a real simulation."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import forked, leftovers, long

STRATEGY = """
# a strategy of the user's own
step: {step}
server: {{_target_: flwr.serverapp.strategy.FedAvg}}
client: {{_target_: my_strategy.Mine, step: "${{..step}}"}}
"""
CLIENT = """
import os

from fl_bench.strategies.base import LocalAlgorithm, Turn


class Mine(LocalAlgorithm):
    def __init__(self, step: float) -> None:
        self.step = step

    def finish(self, turn: Turn) -> None:
        if self.step < 0 and turn.round == 2 and turn.client == 3:
            os._exit(9)  # as when memory runs out
        turn.parameters.copy_(turn.start + self.step * (turn.parameters - turn.start).sign())
"""


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "my_strategy.py").write_text(CLIENT)
    return tmp_path


def run(folder: Path, step: float) -> subprocess.CompletedProcess[str]:
    (folder / "conf" / "strategy" / "mine.yaml").write_text(STRATEGY.format(step=step))
    words = ("--config-dir", "conf", "strategy=mine", "num_rounds=3", "figures=false", "hydra.run.dir=run")
    return forked(*words, "engine.max_restarts=1", cwd=folder)


@long
def test_a_strategy_may_live_outside(own_folder: Path) -> None:
    result = run(own_folder, step=0.001)
    assert result.returncode == 0, result.stderr
    rows = (own_folder / "run" / "metrics.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[3]) < float(rows[1].split(",")[3])  # test_loss


@long
def test_a_worker_that_dies_each_time_ends_the_run_and_leaves_nothing(own_folder: Path) -> None:
    result = run(own_folder, step=-0.001)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("fl-bench: ")]
    deaths = [line for line in lines if "fl-bench: note: round 2: the worker of clients " in line]
    assert [line.rpartition("; ")[2] for line in deaths] == ["starting again from the last checkpoint (1 more times)"]
    assert lines[-1].startswith("fl-bench: round 2: the worker of clients ")
    assert " 3, " in lines[-1]
    assert lines[-1].endswith(f"to go on: fl-bench resume {own_folder / 'run'} --trust my_strategy")
    record = json.loads((own_folder / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"], record["final"]["round"]) == ("failed", 1, 1)
    assert not leftovers(own_folder)
