"""Going on: with every strategy, with more rounds, after damage; and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import compose, digests, fl_bench, table

from fl_bench.config import CONF
from fl_bench.run import execute
from fl_bench.strategies.base import LocalAlgorithm, Turn

Start = Callable[..., tuple[Path, int]]
SMALL = ("num_clients=5", "local.steps=1", "data=synthetic", "data.num_samples=100", "evaluate.clients=true")
STRATEGIES = sorted(file.stem for file in (CONF / "strategy").glob("*.yaml"))


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run in tmp_path/NAME, or go on there: the folder and the exit code."""
    count = iter(range(100))

    def call(name: str, *words: str, resume: bool = False) -> tuple[Path, int]:
        folder, scratch = tmp_path / name, tmp_path / f"scratch{next(count)}"
        folder.mkdir(exist_ok=True)
        scratch.mkdir()
        return folder, execute(compose(*SMALL, *words), folder, scratch, resume)

    return call


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_goes_on_as_if_it_had_not_stopped(start: Start, strategy: str) -> None:
    words = (f"strategy={strategy}", "task=mnist", "network=heterogeneous", "clients_per_round=4")
    if strategy == "fedprox":
        words += ("strategy.mu=adaptive",)
    whole, _ = start("whole", *words, "num_rounds=5")
    start("parts", *words, "num_rounds=3")
    parts, code = start("parts", *words, "num_rounds=5", resume=True)
    assert code == 0
    assert digests(parts) == digests(whole)


def test_the_state_of_a_strategy_is_what_makes_the_difference(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it FedAdam ends elsewhere, so the test above can fail."""
    whole, _ = start("whole", "strategy=fedadam", "num_rounds=5")
    start("parts", "strategy=fedadam", "num_rounds=3")
    monkeypatch.setattr("fl_bench.federation.snapshot.put_back", lambda taken, tensors, current: None)
    monkeypatch.setattr("fl_bench.federation.checkpoint.check_changes", lambda *_: None)
    monkeypatch.setattr("fl_bench.federation.state.ClientStates.restore", lambda *_: None)
    parts, _ = start("parts", "strategy=fedadam", "num_rounds=5", resume=True)
    assert digests(parts)["model.safetensors"] != digests(whole)["model.safetensors"]


def test_pictures_and_costs_go_on_too(start: Start) -> None:
    words = ("task=cifar", "figures=true", "targets=[0.1,0.5]", "checkpoint.every=2", "evaluate.every=2")
    whole, _ = start("whole", *words, "num_rounds=6")
    start("parts", *words, "num_rounds=4")
    parts, _ = start("parts", *words, "num_rounds=6", resume=True)
    records = [json.loads((folder / "run.json").read_text()) for folder in (whole, parts)]
    for record in records:
        for cost in filter(None, record["targets"].values()):
            assert cost.pop("wall_seconds") >= 0
    for name in ("final", "digests", "total", "targets", "data"):
        assert records[0][name] == records[1][name], name
    assert [record["resumed_at"] for record in records] == [[], [4]]
    assert digests(parts) == digests(whole)


def test_the_last_two_checkpoints_are_kept_and_the_states_they_need(start: Start) -> None:
    folder, _ = start("run", "strategy=scaffold", "num_rounds=7", "checkpoint.every=3", "clients_per_round=5")
    assert sorted(file.name for file in (folder / "checkpoint").iterdir()) == ["6.safetensors", "7.safetensors"]
    assert {file.name for file in folder.glob("state/*/*")} == {"6.safetensors", "7.safetensors"}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("strategy=scaffold", "clients_per_round=3")
    whole, _ = start("whole", *words, "num_rounds=6")
    parts, _ = start("parts", *words, "num_rounds=4")
    newest = parts / "checkpoint" / "4.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    start("parts", *words, "num_rounds=6", resume=True)
    assert f"note: {parts}: going on after round 3" in capsys.readouterr().err
    assert digests(parts) == digests(whole)


def test_half_a_row_is_repaired(start: Start) -> None:
    whole, _ = start("whole", "num_rounds=4")
    parts, _ = start("parts", "num_rounds=3")
    for name in ("metrics", "clients", "timing"):
        with (parts / f"{name}.csv").open("a") as stream:
            stream.write("4,0.12")
    start("parts", "num_rounds=4", resume=True)
    assert digests(parts) == digests(whole)
    assert [row["round"] for row in table(parts, "timing")] == list("01234")


def test_a_column_that_came_after_the_checkpoint_goes_and_comes_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        if turn.round == 3 and turn.client == 1:
            raise KeyError("the column `why` comes in round 3")

    monkeypatch.setattr(LocalAlgorithm, "finish", finish)
    whole, _ = start("whole", "num_rounds=4")
    parts, _ = start("parts", "num_rounds=3")
    (parts / "checkpoint" / "3.safetensors").unlink()  # as if killed between the rows of round 3 and its checkpoint
    start("parts", "num_rounds=4", resume=True)
    assert "why" in table(parts, "clients")[0]
    assert digests(parts) == digests(whole)


REFUSED = [
    ("local.lr=0.3", "local.lr=0.3: the run has 0.1, and its rounds would be others"),
    ("num_rounds=2", "num_rounds=2: the run has 3 rounds already"),
    ("engine.vectorize=auto", "engine.vectorize=auto: the run has off, and its rounds would be others"),
    ("strategy=fedprox", "strategy.client._target_=fl_bench.strategies.fedprox.Proximal: the run has fl_bench"),
    ("evaluate.batch_size=64", "evaluate.batch_size=64: the run has 512, and its rounds would be others"),
]


@pytest.mark.parametrize(("word", "line"), REFUSED, ids=lambda value: value.split(":")[0])
def test_what_would_change_earlier_rounds_is_refused_and_nothing_is_touched(
    start: Start, capsys: pytest.CaptureFixture[str], word: str, line: str
) -> None:
    folder, _ = start("run", "num_rounds=3")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    capsys.readouterr()
    _, code = start("run", "num_rounds=3", word, resume=True)
    assert code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"fl-bench: {line}")
    assert errors.count("\n") == 1
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_makes_no_difference_may_change(start: Start) -> None:
    whole, _ = start("whole", "num_rounds=4")
    start("parts", "num_rounds=2")
    free = ("engine.packing=false", "figures=true", "checkpoint.every=5", "on_client_failure=retry")
    parts, code = start("parts", "num_rounds=4", *free, resume=True)
    assert code == 0
    assert digests(parts) == digests(whole)


def test_other_data_is_refused(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    start("run", "num_rounds=2")
    monkeypatch.setattr("fl_bench.experiment.data_digests", lambda folder: {"data": "other", "partition": "other"})
    _, code = start("run", "num_rounds=3", resume=True)
    assert code == 2
    assert "fl-bench: data: is not what the run began with" in capsys.readouterr().err


def test_without_a_checkpoint_a_run_begins_anew(start: Start) -> None:
    whole, _ = start("whole", "num_rounds=3")
    parts, _ = start("parts", "num_rounds=2", "checkpoint.every=0")
    assert not (parts / "checkpoint").exists()
    start("parts", "num_rounds=3", resume=True)
    assert digests(parts) == digests(whole)


def test_a_new_run_in_an_old_folder_takes_nothing_over(start: Start) -> None:
    words = ("strategy=scaffold", "num_rounds=2", "figures=true", "task=cifar")
    whole, _ = start("whole", *words)
    start("used", "num_rounds=5", "seed=3", "strategy=scaffold", "task=cifar", "figures=true")
    used, _ = start("used", *words)
    assert digests(used) == digests(whole)
    assert not (used / "checkpoint" / "5.safetensors").exists()
    assert {file.name for file in used.glob("figures/*")} == {file.name for file in whole.glob("figures/*")}


class Opaque:
    """Something that no JSON can hold."""

    def __getstate__(self) -> tuple[int, ...]:
        return (1,)


def test_what_cannot_be_saved_is_named(start: Start, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from flwr.serverapp.strategy import FedAvg

    monkeypatch.setattr(FedAvg, "extra", None, raising=False)
    init = FedAvg.__init__

    def with_extra(self: FedAvg, *args: object, **kwargs: object) -> None:
        init(self, *args, **kwargs)  # type: ignore[arg-type]
        self.extra = Opaque()  # type: ignore[attr-defined]

    monkeypatch.setattr(FedAvg, "__init__", with_extra)
    _, code = start("run", "num_rounds=2")
    assert code == 1
    assert "checkpoint: strategy.extra is a Opaque, which cannot be saved" in capsys.readouterr().err


def test_the_command_goes_on_skips_and_says_how(tmp_path: Path) -> None:
    words = ("engine=inline", "figures=false", "seed=0,1", "strategy=fedavg,scaffold", "num_rounds=3")
    sweep = ("-m", *words, "data=synthetic", "data.num_samples=100")
    assert fl_bench(*sweep, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "outputs" / "multirun").iterdir()
    cells = sorted(cell for cell in folder.iterdir() if cell.is_dir())
    expected = [digests(cell) for cell in cells]
    # as if killed in the second cell after round 1, before the last two
    record = json.loads((cells[1] / "run.json").read_text()) | {"status": "running"}
    (cells[1] / "run.json").write_text(json.dumps(record))
    os.remove(cells[1] / "checkpoint" / "3.safetensors")
    for cell in cells[2:]:
        for file in sorted(cell.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    result = fl_bench(*sweep, "resume=true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("all 3 rounds were done before") == 1
    assert result.stderr.count("going on after round 2") == 1
    assert [digests(cell) for cell in cells] == expected

    result = fl_bench("resume", str(cells[0]), cwd=tmp_path)
    assert (result.returncode, "all 3 rounds were done before" in result.stdout) == (0, True)
    result = fl_bench("resume", str(cells[0]), "num_rounds=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["round"] for row in table(cells[0], "metrics")] == list("012345")
    result = fl_bench("resume", str(tmp_path), cwd=tmp_path)
    assert (result.returncode, result.stderr) == (
        2, f"fl-bench: {tmp_path}: is not the folder of a run: it has no run.json with a config\n",
    )  # fmt: skip
    result = fl_bench("resume", str(cells[0]), "num_round=5", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "fl-bench: num_round: unknown key; did you mean num_rounds?\n")
