"""Cells that run side by side, through the real command."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import COMMAND, Launch, digests, fl_bench, long

from fl_bench import cli

SMALL = ("figures=false", "num_rounds=2", "data=synthetic", "data.num_samples=100", "local.steps=1", "sweep.parallel=2")


def statuses(sweep: Path) -> dict[str, str]:
    return {file.parent.name: json.loads(file.read_text())["status"] for file in sweep.glob("*/run.json")}


@long
def test_cells_side_by_side_are_the_runs_that_they_would_be_alone(tmp_path: Path, launch: Launch) -> None:
    sweep = tmp_path / "sweep"
    words = ("-m", *SMALL, "strategy=fedavg,scaffold", f"hydra.sweep.dir={sweep}")
    result = fl_bench(*words, "num_clients=5,500", cwd=tmp_path)
    assert result.returncode == 2
    names = {f"num_clients=5,strategy={strategy}" for strategy in ("fedavg", "scaffold")}
    assert statuses(sweep) == dict.fromkeys(names, "done")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    failed = [line for line in lines if "failed" in line]
    assert len(failed) == 2
    assert all("num_clients=500: there are only" in line for line in failed)
    for strategy in ("fedavg", "scaffold"):
        alone = launch(*SMALL[1:], f"strategy={strategy}", "num_clients=5", "local.lr_horizon=2")
        assert digests(alone) == digests(sweep / f"num_clients=5,strategy={strategy}")

    before = {name: (sweep / name / "run.json").stat().st_mtime_ns for name in names}
    result = fl_bench(*words, "num_clients=5,6", "resume=true", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {name: (sweep / name / "run.json").stat().st_mtime_ns for name in names} == before
    assert statuses(sweep) == dict.fromkeys(names | {name.replace("5", "6") for name in names}, "done")
    assert result.stdout.count("all 2 rounds were done before") == 2
    assert not list(sweep.glob(".*"))


@long
def test_a_sweep_whose_cells_are_refused_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("-m", *SMALL[:-1], "sweep.parallel=1", "engine=inline", "hydra.sweep.dir=sweep")
    assert cli.dispatch([*words, "seed=0,1", "num_clients=2"]) == 0
    before = {"seed=0": "done", "seed=1": "done"}
    assert statuses(tmp_path / "sweep") == before
    assert cli.dispatch([*words, "seed=2", "num_clients=3,500", "overwrite=true"]) == 2
    assert statuses(tmp_path / "sweep") == before | {"num_clients=3": "done"}
    assert "overwrite=true: the 2 other runs in sweep stay, as not all" in capsys.readouterr().err
    assert cli.dispatch([*words, "seed=2", "num_clients=4,5", "overwrite=true"]) == 0
    assert statuses(tmp_path / "sweep") == {"num_clients=4": "done", "num_clients=5": "done"}


@long
def test_a_cell_whose_worker_is_killed_goes_on_with_the_same_bytes(tmp_path: Path, launch: Launch) -> None:
    words = ("figures=false", "num_rounds=60", "strategy=scaffold")
    process = subprocess.Popen(
        [COMMAND, "-m", *words, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "sweep" / "seed=0"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (folder / "checkpoint" / "3.safetensors").exists():
        time.sleep(0.05)
    (holder,) = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _has_open(int(pid), folder)]
    os.kill(holder, signal.SIGKILL)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    assert "seed=0: its worker has died" in errors
    assert statuses(tmp_path / "sweep") == {"seed=0": "done", "seed=1": "done"}
    assert digests(folder) == digests(launch(*words[1:], "seed=0", "local.lr_horizon=60"))


def _has_open(pid: int, folder: Path) -> bool:
    try:
        return any(os.readlink(link.path) == str(folder) for link in os.scandir(f"/proc/{pid}/fd"))
    except OSError:  # it has gone, or is somebody else's
        return False


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
@long
def test_hydras_launchers_exit_alike(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    words = ("-m", "engine=inline", *SMALL[:-1], f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    result = fl_bench(*words, "num_clients=5,500", cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert list(statuses(tmp_path / "sweep").values()) == ["done"]
