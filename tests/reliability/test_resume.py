"""Going on: with every strategy, with more rounds, after damage; and what is refused."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import FEW, STRATEGIES, TRACE_COLUMNS, compose, digests, forked, long, often, table

from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.storage.checkpoint import Store
from fl_bench.storage.tables import Tables
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.turn import Turn

Run = Callable[..., tuple[Path, int]]
SMALL = ("num_clients=5", "local.steps=1", "data=synthetic", "data.num_samples=100", "evaluate.clients=true")


@pytest.fixture
def start(tmp_path: Path) -> Run:
    """Run in tmp_path/NAME, or go on there: the folder and the exit code."""
    count = iter(range(100))

    def call(name: str, *words: str, resume: bool = False) -> tuple[Path, int]:
        folder, scratch = tmp_path / name, tmp_path / f"scratch{next(count)}"
        folder.mkdir(exist_ok=True)
        scratch.mkdir()
        return folder, execute(compose(*SMALL, *words), folder, scratch, Start.RESUME if resume else Start.NEW)

    return call


@pytest.mark.parametrize("strategy", often(STRATEGIES, *FEW))
def test_every_strategy_goes_on_as_if_it_had_not_stopped(start: Run, strategy: str) -> None:
    words: tuple[str, ...] = (f"strategy={strategy}", "task=mnist", "network=heterogeneous", "clients_per_round=4")
    others = {
        "fedprox": ("strategy.mu=adaptive",),
        "fedtrimmedavg": ("strategy.beta=0.25",),
        "loadaboost": ("local.steps=2",),
    }
    words += others.get(strategy, ("strategy.horizon=5",) if strategy.startswith("dp_") else ())
    whole, _ = start("whole", *words, "num_rounds=5")
    start("parts", *words, "num_rounds=3")
    parts, code = start("parts", *words, "num_rounds=5", resume=True)
    assert code == 0
    assert digests(parts) == digests(whole)


def test_the_state_of_a_strategy_is_what_makes_the_difference(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it FedAdam ends elsewhere, so the test above can fail."""
    whole, _ = start("whole", "strategy=fedadam", "num_rounds=5")
    start("parts", "strategy=fedadam", "num_rounds=3")
    monkeypatch.setattr("fl_bench.storage.snapshot.put_back", lambda *_: None)
    parts, _ = start("parts", "strategy=fedadam", "num_rounds=5", resume=True)
    assert digests(parts)["model.safetensors"] != digests(whole)["model.safetensors"]


@long
def test_pictures_and_costs_go_on_too(start: Run, quick_judge: None) -> None:
    words = ("task=dcgan", "figures=true", "targets=[1,500]", "target_metric=test_judge_fd", "checkpoint.every=2",
             "evaluate.every=2")  # fmt: skip
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
    assert len(list((whole / "figures").glob("round_*.png"))) > 2
    assert pictures(parts) == pictures(whole)
    assert digests(parts) == digests(whole)


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "figures").glob("round*")}


def test_the_last_two_checkpoints_are_kept_and_the_states_they_need(start: Run) -> None:
    folder, _ = start("run", "strategy=scaffold", "num_rounds=7", "checkpoint.every=3", "clients_per_round=5")
    assert sorted(file.name for file in (folder / "checkpoint").iterdir()) == ["6.safetensors", "7.safetensors"]
    assert {file.name for file in folder.glob("state/*/*")} == {"6.safetensors", "7.safetensors"}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(start: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("strategy=scaffold", "clients_per_round=3")
    whole, _ = start("whole", *words, "num_rounds=6")
    parts, _ = start("parts", *words, "num_rounds=4")
    newest = parts / "checkpoint" / "4.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    start("parts", *words, "num_rounds=6", resume=True)
    assert f"note: {parts}: going on after round 3" in capsys.readouterr().err
    assert digests(parts) == digests(whole)


def test_half_a_row_is_repaired(start: Run) -> None:
    whole, _ = start("whole", "num_rounds=4")
    parts, _ = start("parts", "num_rounds=3")
    for name in ("metrics", "clients", "timing"):
        with (parts / f"{name}.csv").open("a") as stream:
            stream.write("4,0.12")
    start("parts", "num_rounds=4", resume=True)
    assert digests(parts) == digests(whole)
    assert [row["round"] for row in table(parts, "timing")] == list("01234")


def test_a_column_that_came_after_the_checkpoint_goes_and_comes_again(
    start: Run, monkeypatch: pytest.MonkeyPatch
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


def test_a_run_that_began_without_a_column_goes_on_with_it(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of an older version, which counted no steps."""
    whole, _ = start("whole", "num_rounds=4")
    write = Tables.write

    def without(self: Tables, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        write(self, name, [{key: value for key, value in row.items() if key != "steps"} for row in rows])

    with monkeypatch.context() as older:
        older.setattr(Tables, "write", without)
        start("parts", "num_rounds=2")
    parts, code = start("parts", "num_rounds=4", resume=True)
    assert code == 0
    assert [row.pop("steps") for row in table(parts, "metrics")] == ["", "", "", "5", "5"]
    for name in ("metrics", "clients"):
        assert [row | {"steps": ""} for row in table(parts, name)] == [
            row | {"steps": ""} for row in table(whole, name)
        ]


REFUSED = [
    ("local.lr=0.3", "local.lr=0.3: the run has 0.1, and its rounds would be others"),
    ("num_rounds=2", "num_rounds=2: the run has 3 rounds already"),
    ("engine.vectorize=auto", "engine.vectorize=auto: the run has off, and its rounds would be others"),
    ("strategy=fedprox", "strategy.client._target_=fl_bench.strategies.fedprox.Proximal: the run has fl_bench"),
    ("engine.client_resources.num_gpus=0.5", "engine.client_resources.num_gpus=0.5: the run has 0, and its rounds"),
    ("evaluate.batch_size=64", "evaluate.batch_size=64: the run has 512, and its rounds would be others"),
]


@pytest.mark.parametrize(("word", "line"), REFUSED, ids=lambda value: value.split(":")[0])
def test_what_would_change_earlier_rounds_is_refused_and_nothing_is_touched(
    start: Run, capsys: pytest.CaptureFixture[str], word: str, line: str
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


def test_what_makes_no_difference_may_change(start: Run) -> None:
    whole, _ = start("whole", "num_rounds=4")
    start("parts", "num_rounds=2")
    free = ("engine.packing=false", "figures=true", "checkpoint.every=5", "on_client_failure=retry")
    parts, code = start("parts", "num_rounds=4", *free, resume=True)
    assert code == 0
    assert digests(parts) == digests(whole)


def test_other_data_is_refused(
    start: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start("run", "num_rounds=2")
    monkeypatch.setattr("fl_bench.runs.execute.data_digests", lambda *_: {"data": "other", "partition": "other"})
    _, code = start("run", "num_rounds=3", resume=True)
    assert code == 2
    assert "fl-bench: data: is not what the run began with" in capsys.readouterr().err


def test_without_a_checkpoint_a_run_begins_anew(start: Run, capsys: pytest.CaptureFixture[str]) -> None:
    whole, _ = start("whole", "num_rounds=3")
    parts, _ = start("parts", "num_rounds=2", "checkpoint.every=0")
    assert not (parts / "checkpoint").exists()
    model = (parts / "model.safetensors").read_bytes()
    assert start("parts", "num_rounds=3", "seed=5", resume=True)[1] == 2
    assert (parts / "model.safetensors").read_bytes() == model
    start("parts", "num_rounds=3", resume=True)
    assert f"fl-bench: note: {parts}: there is no checkpoint: beginning anew" in capsys.readouterr().err
    assert digests(parts) == digests(whole)


def test_killed_between_the_last_checkpoint_and_its_tidying(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("strategy=scaffold", "clients_per_round=3", "num_rounds=4")
    whole, _ = start("whole", *words)
    keep = Store.keep

    def killed(self: Store, wanted: Sequence[int]) -> None:
        if 4 in wanted:
            raise KeyboardInterrupt
        keep(self, wanted)

    monkeypatch.setattr(Store, "keep", killed)
    parts, code = start("parts", *words)
    assert code == 130
    monkeypatch.undo()
    start("parts", *words, resume=True)
    assert digests(parts) == digests(whole)
    names = [sorted(file.name for file in (run / "checkpoint").iterdir()) for run in (parts, whole)]
    assert names[0] == names[1] == ["3.safetensors", "4.safetensors"]


@long
def test_an_empty_picture_does_not_stop_a_run(start: Run, quick_judge: None) -> None:
    """As after a power failure on a file system that had the name before the content."""
    words = ("task=dcgan", "figures=true", "evaluate.clients=false")
    whole, _ = start("whole", *words, "num_rounds=2")
    parts, _ = start("parts", *words, "num_rounds=1")
    (parts / "figures" / "round_0001.png").write_bytes(b"")
    (parts / "checkpoint" / "1.safetensors").unlink()
    assert start("parts", *words, "num_rounds=2", resume=True)[1] == 0
    assert pictures(parts) == pictures(whole)


def test_a_strange_file_among_the_checkpoints_is_let_be(start: Run) -> None:
    parts, _ = start("parts", "num_rounds=2")
    (parts / "checkpoint" / "2 (copy).safetensors").write_bytes(b"")
    assert start("parts", "num_rounds=3", resume=True)[1] == 0


def test_other_traces_are_other_data(start: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traces = tmp_path / "traces.csv"
    rows = [f"{client},1,1e6,1e6,," for client in range(5)]
    traces.write_text(TRACE_COLUMNS + "\n".join(rows))
    words = ("network=heterogeneous", f"network.traces={traces}")
    start("run", *words, "num_rounds=2")
    traces.write_text(TRACE_COLUMNS + "\n".join(rows).replace("1e6", "2e6"))
    assert start("run", *words, "num_rounds=3", resume=True)[1] == 2
    assert "fl-bench: data: is not what the run began with" in capsys.readouterr().err


def test_a_new_run_in_an_old_folder_takes_nothing_over(start: Run) -> None:
    words = ("strategy=scaffold", "num_rounds=2", "figures=true")
    whole, _ = start("whole", *words)
    start("used", "num_rounds=5", "seed=3", "strategy=scaffold", "figures=true")
    used, _ = start("used", *words)
    assert digests(used) == digests(whole)
    assert not (used / "checkpoint" / "5.safetensors").exists()
    assert {file.name for file in used.glob("figures/*")} == {file.name for file in whole.glob("figures/*")}


class Opaque:
    """Something that no JSON can hold."""

    def __getstate__(self) -> tuple[int, ...]:
        return (1,)


def test_what_cannot_be_saved_is_named(
    start: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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


@long
def test_the_command_goes_on_skips_and_says_how(tmp_path: Path) -> None:
    words = ("engine=inline", "figures=false", "seed=0,1", "strategy=fedavg,scaffold", "num_rounds=3")
    sweep = ("-m", *words, "data=synthetic", "data.num_samples=100", "sweep.parallel=1")
    assert forked(*sweep, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "outputs" / "multirun").iterdir()
    cells = sorted(file.parent for file in folder.glob("*/run.json"))
    expected = [digests(cell) for cell in cells]
    # as if killed in the second cell after round 1, before the last two
    record = json.loads((cells[1] / "run.json").read_text()) | {"status": "running"}
    (cells[1] / "run.json").write_text(json.dumps(record))
    os.remove(cells[1] / "checkpoint" / "3.safetensors")
    for cell in cells[2:]:
        for file in sorted(cell.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    result = forked(*sweep, "resume=true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("all 3 rounds were done before") == 1
    assert result.stderr.count("going on after round 2") == 1
    assert [digests(cell) for cell in cells] == expected

    result = forked("resume", str(cells[0]), cwd=tmp_path)
    assert (result.returncode, "all 3 rounds were done before" in result.stdout) == (0, True)
    result = forked("resume", str(cells[0]), "num_rounds=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["round"] for row in table(cells[0], "metrics")] == list("012345")
    result = forked("resume", str(tmp_path), cwd=tmp_path)
    assert (result.returncode, result.stderr) == (
        2, f"fl-bench: {tmp_path}: is not the folder of a run: it has no run.json with a config\n",
    )  # fmt: skip
    for word, line in (
        ("num_rounds=five", "num_rounds: Value 'five' of type 'str' could not be converted to Integer"),
        ("engine=inlin", "engine=inlin: did you mean inline?"),
        (
            "strategy=fedprox",
            "strategy=fedprox: cannot be chosen again for a run that exists; only engine and tracker can",
        ),
        ("engine.vectorize=off", None),
    ):
        result = forked("resume", str(cells[0]), word, cwd=tmp_path)
        assert (result.returncode, result.stderr) == ((2, f"fl-bench: {line}\n") if line else (0, ""))
    result = forked(*sweep, "seed=7", "resume=True", "num_rounds=1", cwd=tmp_path)
    assert "note: resume=true: there is no such sweep in outputs/multirun: beginning one" in result.stderr
    result = forked("resume", str(cells[0]), "num_round=5", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "fl-bench: num_round: unknown key; did you mean num_rounds?\n")
