"""Nothing of the user's is lost: in folders that are not empty, and in those of runs."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import begin, digests, forked, long

from fl_bench import cli, commands
from fl_bench.errors import ConfigError

Words = Callable[..., int]
SMALL = ("engine=inline", "num_rounds=2", "num_clients=2", "local.steps=1", "figures=false", "data=synthetic",
         "data.num_samples=40")  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Words:
    """Words of the command line to the exit code, in this process and in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.dispatch([*SMALL, *words])


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files with their bytes and their time."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_a_folder_of_the_users_is_refused_and_nothing_in_it_touched(
    run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("state/notes.txt", "checkpoint/vgg.pt", "metrics.csv"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("mine")
    before = contents(tmp_path / "mine")
    for words in ((), ("resume=true",), ("overwrite=true",)):
        assert run("hydra.run.dir=mine", *words) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "mine: is not empty and not the folder of a run; choose another" in line
    assert contents(tmp_path / "mine") == before


# Of a run that is there: words, and the exit code and what is said.
REFUSED = {
    "another config": (("strategy=fedadam",), "holds a run; resume=true goes on with it, overwrite=true replaces it"),
    "the same again": ((), "holds a run; resume=true goes on with it, overwrite=true replaces it"),
    "refused at once": (("overwrite=true", "local.lr=-1"), "local.lr=-1.0: must be a positive number"),
    "refused late": (("overwrite=true", "targets=[1]", "target_metric=foo"), "target_metric=foo: must be one of"),
    "no such traces": (
        ("overwrite=true", "network=heterogeneous", "network.traces=nowhere"),
        "network.traces=nowhere: cannot be read",
    ),
    "no such tracker": (("overwrite=true", "tracker._target_=nowhere.Tracker"), "tracker._target_=nowhere.Tracker"),
    "both": (("overwrite=true", "resume=true"), "overwrite=true: cannot go on with a run and replace it"),
    "resumed with another": (("resume=true", "local.lr=1"), "local.lr=1.0: the run has 0.1"),
    "resumed, refused late": (("resume=true", "num_rounds=3", "evaluate.clients=true"), "evaluate.clients=True: the"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_a_run_as_it_is(
    run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    assert run("hydra.run.dir=run") == 0
    before, (words, said) = contents(tmp_path / "run"), REFUSED[case]
    capsys.readouterr()
    assert run("hydra.run.dir=run", *words) == 2
    assert said in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    "words",
    [
        ("num_clients=41",),
        ("early_stop.metric=test_auc",),
        pytest.param(("engine=simulation", "partition=natural"), marks=long),
    ],
    ids=["no such data", "no such metric, found late", "in a process of its own"],
)
def test_a_new_run_that_is_refused_leaves_its_folder_empty(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert forked(*SMALL, "hydra.run.dir=run", *words, cwd=tmp_path).returncode == 2  # Ray is not imported there yet
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_that_is_refused_after_its_first_round_stays(
    run: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(observer: object, round: Any) -> None:
        if round.number == 1:
            raise ConfigError("local.lr: too late")

    monkeypatch.setattr("fl_bench.runs.execute.Heartbeat.see", refuse)
    assert run("hydra.run.dir=run") == 2
    assert (tmp_path / "run" / "checkpoint" / "1.safetensors").exists()


def test_other_data_is_refused_before_anything_is_cut_back(
    run: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that can go on after round 2 of 3, and has rows of round 3."""
    traces = tmp_path / "traces.csv"
    header = "client,seconds_per_step,bytes_per_second_up,bytes_per_second_down,available_from,available_to\n"
    traces.write_text(f"{header}0,1,1e6,1e6,,\n1,1,1e6,1e6,,\n")
    words = ("hydra.run.dir=run", "network=heterogeneous", "network.traces=traces.csv", "checkpoint.every=2")
    assert run(*words, "num_rounds=3") == 0
    (tmp_path / "run" / "checkpoint" / "3.safetensors").unlink()
    traces.write_text(f"{header}0,2,1e6,1e6,,\n1,1,1e6,1e6,,\n")
    before = contents(tmp_path / "run")
    assert run(*words, "num_rounds=5", "resume=true") == 2
    assert "data: is not what the run began with" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


def test_a_run_is_replaced_where_the_user_says_so_but_not_what_is_beside_it(run: Words, tmp_path: Path) -> None:
    assert run("hydra.run.dir=run", "strategy=scaffold", "num_rounds=3") == 0
    mine = [tmp_path / "run" / name for name in ("notes.txt", "state/notes.txt", "checkpoint/vgg.pt", "state/0/a.txt")]
    for file in mine:
        file.write_text("mine")
    assert run("hydra.run.dir=run", "strategy=fedadam", "overwrite=true") == 0
    assert run("hydra.run.dir=other", "strategy=fedadam") == 0
    assert [file.read_text() for file in mine] == ["mine"] * 4
    for file in mine:
        file.unlink()
    assert digests(tmp_path / "run") == digests(tmp_path / "other")
    names = {file.name for file in (tmp_path / "run" / "checkpoint").iterdir()}
    assert names == {"1.safetensors", "2.safetensors"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["choices"]["strategy"] == "fedadam"
    assert "overwrite" not in json.loads((tmp_path / "run" / "run.json").read_text())["overrides"]


@long
def test_cells_of_a_sweep_do_not_share_a_folder(run: Words, tmp_path: Path) -> None:
    assert run("-m", "sweep.parallel=1", "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same") == 0
    assert json.loads((tmp_path / "sweep" / "same" / "run.json").read_text())["seed"] == 0
    assert json.loads((tmp_path / "sweep" / "same_2" / "run.json").read_text())["seed"] == 1


@long
def test_a_sweep_does_not_write_over_another(run: Words, tmp_path: Path) -> None:
    assert run("-m", "sweep.parallel=1", "seed=0,1", "hydra.sweep.dir=sweep") == 0
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="sweep: holds a sweep; resume=true goes on with it, overwrite=true replaces"):
        run("-m", "sweep.parallel=1", "seed=2,3", "hydra.sweep.dir=sweep")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="mine: is not empty and not the folder of a sweep"):
        run("-m", "sweep.parallel=1", "seed=2,3", "hydra.sweep.dir=mine", "overwrite=true")
    (tmp_path / "mine" / "notes.txt").unlink()
    assert contents(tmp_path) == before
    assert run("-m", "sweep.parallel=1", "seed=2,3", "hydra.sweep.dir=sweep", "overwrite=true") == 0
    assert {json.loads(file.read_text())["seed"] for file in tmp_path.glob("sweep/*/run.json")} == {2, 3}


@pytest.mark.parametrize("engine", ["inline", pytest.param("simulation", marks=long)])
def test_a_run_killed_before_anything_heavy_is_imported_can_go_on(engine: str, tmp_path: Path) -> None:
    process = begin(*SMALL, f"engine={engine}", "hydra.run.dir=run", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run" / "metrics.csv").exists()
    done = forked("resume", "run", "engine=inline", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "run" / "model.safetensors").exists()) == (0, True), done.stderr


def test_a_relative_path_is_found_from_any_folder_later(
    run: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "client,seconds_per_step,bytes_per_second_up,bytes_per_second_down,available_from,available_to\n"
    (tmp_path / "traces.csv").write_text(f"{header}0,1,1e6,1e6,,\n1,1,1e6,1e6,,\n")
    assert run("network=heterogeneous", "network.traces=traces.csv", "hydra.run.dir=run") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert commands.call("resume", ["../run", "num_rounds=3"]) == 0


def test_a_run_that_crashes_before_its_first_round_does_not_take_over_what_it_was_to_replace(
    run: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine starts it again; each time it must be as new, not as a run that goes on."""
    assert run("hydra.run.dir=run") == 0
    before = contents(tmp_path / "run")
    monkeypatch.setattr("fl_bench.runs.execute.limit_gpus", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    words = ("hydra.run.dir=run", "engine=simulation", "strategy=fedadam", "overwrite=true", "engine.max_restarts=1")
    assert run(*words) == 1
    assert "the run there is as it was" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before
