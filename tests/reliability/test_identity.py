"""Whose state is it: another client's, round's or run's is refused, and a finished run that was changed is not done."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import compose, digests
from safetensors.torch import load_file

from fl_bench import commands
from fl_bench.config.changes import identity
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.storage.sealed import seal, unseal

Go = Callable[..., tuple[Path, int]]
WORDS = ("strategy=scaffold", "num_clients=3", "local.steps=1", "data=synthetic", "data.num_samples=60")


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Run in tmp_path/NAME, or go on there."""
    count = iter(range(100))

    def call(name: str, *words: str, start: Start = Start.NEW) -> tuple[Path, int]:
        folder, scratch = tmp_path / name, tmp_path / f"scratch{next(count)}"
        folder.mkdir(exist_ok=True)
        scratch.mkdir()
        return folder, execute(compose(*WORDS, *words), folder, scratch, start)

    return call


def state(folder: Path, client: int, round: int = 2) -> Path:
    return folder / "state" / str(client) / f"{round}.safetensors"


def swapped(run: Path, other: Path) -> None:
    a, b = state(run, 0).read_bytes(), state(run, 1).read_bytes()
    state(run, 0).write_bytes(b)
    state(run, 1).write_bytes(a)


def older(run: Path, other: Path) -> None:
    shutil.copy(state(run, 0, 1), state(run, 0))


def of_another_run(run: Path, other: Path) -> None:
    shutil.copy(state(other, 0), state(run, 0))


@pytest.mark.parametrize("change", [swapped, older, of_another_run])
def test_the_state_of_somebody_else_is_refused(
    go: Go, capsys: pytest.CaptureFixture[str], change: Callable[[Path, Path], None]
) -> None:
    run, other = go("run", "num_rounds=2")[0], go("other", "num_rounds=2", "seed=1")[0]
    change(run, other)
    (run / "checkpoint" / "1.safetensors").unlink()
    capsys.readouterr()
    assert go("run", "num_rounds=3", start=Start.RESUME)[1] == 1
    said = capsys.readouterr().err
    assert f"{state(run, 0)}: is the state of another client, round or run" in said


def test_the_checkpoint_of_another_run_is_refused(go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = go("run", "num_rounds=2")[0], go("other", "num_rounds=2", "seed=1")[0]
    shutil.copy(other / "checkpoint" / "2.safetensors", run / "checkpoint")
    assert go("run", "num_rounds=3", start=Start.RESUME)[1] == 2
    assert "seed=0: the run has 1" in capsys.readouterr().err


def test_the_identity_is_that_of_what_matters_and_of_nothing_else(go: Go) -> None:
    same = [("num_rounds=9",), ("engine=simulation",), ("figures=true",), ("checkpoint.every=3",), ("resume=true",)]
    other = [("seed=1",), ("local.lr=0.2",), ("strategy=fedavg",), ("engine.threads=2",), ("num_clients=4",)]
    expected = identity(compose(*WORDS))
    assert [identity(compose(*WORDS, *words)) == expected for words in same] == [True] * len(same)
    assert [identity(compose(*WORDS, *words)) == expected for words in other] == [False] * len(other)


def as_before(run: Path) -> None:
    """The files of a run from before states said whose they are."""
    for file in run.glob("checkpoint/*"):
        tensors, facts = unseal(file)
        del facts["run"]
        seal(file, tensors, facts)
    for file in run.glob("state/*/*"):
        seal(file, load_file(file))


@pytest.mark.parametrize("facts", [{"client": 1}, {"round": 1}, {"run": "made by a version that made it otherwise"}])
def test_verify_says_whose_state_it_is(go: Go, capsys: pytest.CaptureFixture[str], facts: dict[str, object]) -> None:
    """But not where only the run's identity differs, which a newer version may make otherwise."""
    run, other = go("run", "num_rounds=2")[0], go("other", "num_rounds=2")[0]
    tensors, before = unseal(state(other, 0))
    seal(state(other, 0), tensors, before | facts)
    lines = [f"differs: state/0: {name} is {before[name]} and {facts[name]}" for name in facts if name != "run"]
    assert commands.call("verify", [str(run), str(other)]) == len(lines)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("differs: ")] == lines


def test_verify_says_where_a_state_is_of_another_round(go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = go("run", "num_rounds=2")[0], go("other", "num_rounds=2")[0]
    state(other, 0).rename(state(other, 0, round=9))
    assert commands.call("verify", [str(run), str(other)]) == 1
    assert "differs: state/0: file is 2.safetensors and 9.safetensors\n" in capsys.readouterr().out


def test_verify_of_tensors_that_numpy_does_not_know(go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = go("run", "num_rounds=2")[0], go("other", "num_rounds=2")[0]
    tensors, facts = unseal(state(other, 0))
    seal(state(other, 0), {name: tensor.bfloat16() for name, tensor in tensors.items()}, facts)
    assert commands.call("verify", [str(run), str(other)]) == 1
    assert "differs: state/0: differs, and NumPy cannot say how: " in capsys.readouterr().out


def test_an_older_run_goes_on(go: Go) -> None:
    run, whole = go("run", "num_rounds=2")[0], go("whole", "num_rounds=4")[0]
    as_before(run)
    assert go("run", "num_rounds=4", start=Start.RESUME)[1] == 0
    tables = {name: digest for name, digest in digests(whole).items() if "state" not in name}
    assert {name: digest for name, digest in digests(run).items() if "state" not in name} == tables
    assert commands.call("verify", [str(run), str(whole)]) == 0  # states are compared by their tensors
    as_before(run)
    assert go("run", "num_rounds=5", start=Start.RESUME)[1] == 0


def test_a_state_of_an_older_version_does_not_fit_a_run_that_has_an_identity(
    go: Go, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = go("run", "num_rounds=2")
    seal(state(run, 0), load_file(state(run, 0)))
    (run / "checkpoint" / "1.safetensors").unlink()
    assert go("run", "num_rounds=3", start=Start.RESUME)[1] == 1
    assert "is the state of another client, round or run" in capsys.readouterr().err


def edit_metrics(run: Path, row: int) -> None:
    rows = list(csv.reader((run / "metrics.csv").open()))
    rows[row][-1] = "0.99"
    with (run / "metrics.csv").open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


# What happens to a finished run; and whether one of its checkpoints, of rounds 1 and 2, can make it good.
CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "model.safetensors": (lambda run: (run / "model.safetensors").unlink(), True),
    "partition.csv": (lambda run: (run / "partition.csv").write_text("mine"), True),
    "metrics.csv": (lambda run: edit_metrics(run, -1), True),
    "metrics.csv of round 0": (lambda run: edit_metrics(run, 1), False),
    "clients.csv": (lambda run: (run / "clients.csv").unlink(), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_finished_run_that_was_changed_is_not_done(
    launch: Callable[..., Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (change, can_be_made_good), name = CHANGES[name], name.split(" ")[0]
    run = launch(*WORDS, "num_rounds=2")
    before = digests(run)
    assert commands.call("resume", [str(run)]) == 0
    assert "all 2 rounds were done before" in capsys.readouterr().out
    change(run)
    assert commands.call("resume", [str(run)]) == (0 if can_be_made_good else 1)
    said = capsys.readouterr().err
    assert f"{name} is not what the run wrote: going on from its last checkpoint" in said
    if can_be_made_good:
        assert digests(run) == before
        assert json.loads((run / "run.json").read_text())["status"] == "done"
    else:
        assert f"{run / name}: is " in said.splitlines()[-1]
