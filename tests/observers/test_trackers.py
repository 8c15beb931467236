"""What trackers have written, read back by the reader of each package, against numbers that stand here."""

import argparse
import csv
import importlib.util
import json
import os
import random
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import compose, digests

from fl_bench import commands
from fl_bench.build import build
from fl_bench.commands import export
from fl_bench.config.changes import matters
from fl_bench.errors import ConfigError
from fl_bench.federation.rounds import Round
from fl_bench.observers import mlflow as mlflow_tracker
from fl_bench.observers.mlflow import MLflow
from fl_bench.observers.tensorboard import TensorBoard
from fl_bench.observers.tracker import Tracker, Tracking
from fl_bench.observers.wandb import Wandb
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.storage import run_json

RUN = {"status": "done", "seed": 7, "config": {"seed": 7, "local": {"lr": 0.5, "steps": None}, "task": {"n": "x"}}}
HEADER = "round,train_loss,test_loss,test_accuracy,bytes_up\n"
TABLE = HEADER + "0,,2.5,0.125,\n1,2.25,2.0,0.25,314000\n2,nan,1.5,0.5,314000\n"
ROWS = list(csv.DictReader(TABLE.splitlines()))
LAST = {"round": 3, "train_loss": 1.0, "test_loss": float("inf"), "test_accuracy": 0.75, "bytes_up": 1000}
LOSSES = [(0, 2.5), (1, 2.0), (2, 1.5), (3, float("inf"))]
has_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed")


class Loud(Tracker):
    """Raises wherever it can."""

    def begin(self, run: Mapping[str, Any], folder: Path) -> None:
        raise ImportError("no such\nmodule")

    def log(self, round: int, numbers: Mapping[str, float]) -> None:
        sys.exit("gone")

    def end(self, status: str) -> None:
        raise RuntimeError("not even now")


class Notebook(Tracker):
    """A tracker of a user's own, which writes down what it is told."""

    def __init__(self, file: str, pages: int = 1) -> None:
        self.file = file
        self.pages = pages

    def begin(self, run: Mapping[str, Any], folder: Path) -> None:
        self.told: list[Any] = [run["seed"], folder.name, self.pages]

    def log(self, round: int, numbers: Mapping[str, float]) -> None:
        self.told.append([round, dict(numbers)])

    def end(self, status: str) -> None:
        Path(self.file).write_text(json.dumps([*self.told, status]))


def begun(tracker: Tracker, folder: Path, rows: Iterable[Mapping[str, Any]], run: Mapping[str, Any] = RUN) -> Tracking:
    folder.mkdir(exist_ok=True)
    run_json.save(folder, run)
    tracking = Tracking(tracker, folder, rows)
    tracking.begin()
    return tracking


def watch(tracker: Tracker, folder: Path, status: str = "done") -> Tracking:
    """A run of rounds 0 to 3 that was interrupted and went on: the tracker is filled twice."""
    interrupted = begun(tracker, folder, ROWS[:2])
    interrupted.close("interrupted")
    tracking = begun(tracker, folder, ROWS)
    tracking.see(Round(3, np.zeros(0, np.float32), LAST))
    tracking.close(status)
    return tracking


def globals_of_the_process() -> list[Any]:
    generators = (
        random.getstate(),
        repr(np.random.get_state()),
        torch.get_rng_state().numpy().tobytes(),
    )
    handlers = [signal.getsignal(number) for number in range(1, 32)]
    return [*generators, handlers, sys.excepthook, threading.excepthook, os.getcwd()]


@pytest.fixture
def untouched() -> Iterator[None]:
    """The process is afterwards as it was: generators, handlers, threads, children."""
    before = globals_of_the_process()
    threads, children = threading.active_count(), psutil.Process().children()
    yield
    assert globals_of_the_process() == before
    assert (threading.active_count(), psutil.Process().children()) == (threads, children)


@pytest.mark.usefixtures("untouched")
def test_tensorboard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch(TensorBoard(), tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "test/loss", "test/accuracy", "bytes/up"}
    assert [(event.step, event.value) for event in events.Scalars("test/loss")] == LOSSES
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert (losses[0], losses[2]) == ((1, 2.25), (3, 1.0))
    assert losses[1][1] != losses[1][1]  # NaN
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    seed: 7\n    local.lr: 0.5\n    local.steps: None\n    task.n: x"
    assert b"local.lr" in events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tables take seconds, so once for all tests; in a folder that is not there yet."""
    return tmp_path_factory.mktemp("mlflow") / "outputs" / "mlflow.db"


@pytest.mark.usefixtures("untouched")
def test_mlflow(tmp_path: Path, database: Path, capfd: pytest.CaptureFixture[str]) -> None:
    watch(MLflow(f"sqlite:///{database}", "here"), tmp_path / 'it\'s "one"')
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err == f"fl-bench: note: tracker=mlflow: makes the tables of {database}: some seconds, this once\n"
    assert [file.name for file in database.parent.iterdir()] == [database.name]
    watch(MLflow(f"sqlite:///{database}", "here"), tmp_path / "two", "interrupted")
    assert capfd.readouterr() == ("", "")

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    two, one = client.search_runs([client.get_experiment_by_name("here").experiment_id])  # the newest first
    assert (one.info.status, two.info.status) == ("FINISHED", "KILLED")
    assert one.info.run_name.endswith('/it\'s "one"')
    assert one.data.tags["folder"] == str(tmp_path / 'it\'s "one"')
    assert one.data.params == {"seed": "7", "local.lr": "0.5", "local.steps": "None", "task.n": "x"}
    history = {name: client.get_metric_history(one.info.run_id, name) for name in one.data.metrics}
    largest = struct.unpack("<d", b"\xff" * 6 + b"\xef\x7f")[0]  # MLflow writes infinity so
    assert [(m.step, m.value) for m in history["test_loss"]] == [*LOSSES[:3], (3, largest)]
    assert [(m.step, m.value) for m in history["bytes_up"]] == [(1, 314000.0), (2, 314000.0), (3, 1000.0)]
    assert [m.step for m in history["train_loss"]] == [1, 2, 3]
    assert history["train_loss"][1].value != history["train_loss"][1].value  # NaN
    assert set(history) == {"train_loss", "test_loss", "test_accuracy", "bytes_up"}


def test_mlflow_is_given_no_more_than_it_takes(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(mlflow_tracker, "SEND_SECONDS", 0.0)
    config = {f"p{i}": i for i in range(250)} | {"long": "x" * 9000, "k" * 300: 1, "a": {"b(é)*": [1, None]}}
    rows = ({"round": i, **dict.fromkeys(map(str, range(300)), i)} for i in range(4))
    tracking = begun(MLflow(f"sqlite:///{database}", "much"), tmp_path, rows, {"config": config})
    tracking.close("failed")
    assert "off" not in capfd.readouterr().err
    client = MlflowClient(f"sqlite:///{database}")
    (run,) = client.search_runs([client.get_experiment_by_name("much").experiment_id])
    assert run.info.status == "FAILED"
    assert len(run.data.params) == 253
    assert run.data.params["a.b_é__"] == "[1, None]"
    assert run.data.params["long"] == "x" * 6000
    assert [m.value for m in client.get_metric_history(run.info.run_id, "299")] == [0, 1, 2, 3]


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of a small file of wandb's, whose package has no reader: LevelDB's log format, within one block."""
    assert content.startswith(b":W&B")
    assert len(content) < 2**15
    place = 7
    while place < len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        assert kind == 1  # a whole record
        yield content[place + 7 : place + 7 + length]
        place += 7 + length


@has_wandb
@pytest.mark.usefixtures("untouched")
def test_wandb_offline(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    watch(Wandb("p", "offline"), tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    (file,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    records = [Record.FromString(record) for record in leveldb_log(file.read_bytes())]
    histories = [record.history.item for record in records if record.history.item]
    rows = [{item.key or item.nested_key[0]: item.value_json for item in history} for history in histories]
    assert [(int(row["_step"]), float(row["test_loss"].strip('"'))) for row in rows] == LOSSES
    assert "train_loss" not in rows[0]
    config = {item.key: item.value_json for r in records if r.run.run_id for item in r.run.config.update}
    assert json.loads(config["local"]) == {"lr": 0.5, "steps": None}


def test_what_a_tracker_raises_is_one_note(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert watch(Loud(), tmp_path).tracker is None
    killed, again = capfd.readouterr().err.splitlines()
    assert killed == again
    assert killed.startswith(
        "fl-bench: note: tracker: Loud is off from now on, the run is not touched: ImportError: no"
    )

    class Late(Loud):
        def begin(self, run: Mapping[str, Any], folder: Path) -> None:
            pass

    tracking = begun(Late(), tmp_path, ROWS)
    tracking.close("done")
    (line,) = capfd.readouterr().err.splitlines()
    assert "SystemExit: gone" in line


def test_ctrl_c_is_nobodys_trouble(tmp_path: Path) -> None:
    class Stopped(Tracker):
        def log(self, round: int, numbers: Mapping[str, float]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun(Stopped(), tmp_path, ROWS)


@pytest.mark.parametrize("make", [TensorBoard, lambda: MLflow("sqlite:///x.db", "e"), lambda: Wandb("p", "offline")])
def test_a_package_that_is_missing_is_refused(make: Callable[[], Tracker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_bench.observers.tracker.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^tracker=(\w+): needs the package \1: pip install 'fl-bench\[\1\]'$"):
        make()


def test_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(build(compose().tracker, Tracker)) is Tracker
    assert type(build(compose("tracker=tensorboard").tracker, Tracker)) is TensorBoard
    assert build(compose("tracker=mlflow").tracker, MLflow).uri == "sqlite:///outputs/mlflow.db"
    monkeypatch.setattr("fl_bench.observers.tracker.find_spec", lambda name: True)
    assert build(compose("tracker=wandb").tracker, Wandb).mode == "offline"
    with pytest.raises(ConfigError, match=r"tracker.mode=on: should be 'offline' or 'online'"):
        build(compose("tracker=wandb", "tracker.mode=on").tracker, Tracker)
    assert not matters("tracker.uri")


def run_export(*words: str) -> int:
    parser = argparse.ArgumentParser()
    export.arguments(parser)
    return export.command(parser.parse_args(words))


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two folders of runs."""
    folders = [tmp_path / name for name in ("a", "b=c")]
    for folder in folders:
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(RUN))
        (folder / "metrics.csv").write_text(TABLE)
    return [str(folder) for folder in folders]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A --config-dir with a tracker of one's own."""
    file = tmp_path / "conf" / "tracker" / "notebook.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# mine\n_target_: {__name__}.Notebook\nfile: {tmp_path / 'notes.json'}\n")
    return tmp_path / "conf"


@pytest.mark.parametrize(
    "words",
    [
        "{0} {1} --config-dir {conf} --to notebook tracker.pages=2",
        "--to notebook tracker.pages=2 {0} {1} --config-dir {conf}",
        "{0} tracker.pages=2 --to notebook {1} -cd {conf}",
    ],
)
def test_export(words: str, runs: list[str], mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_export(*words.format(*runs, conf=mine).split()) == 0
    assert capfd.readouterr() == (f"{runs[0]}: 3 rows to notebook\n{runs[1]}: 3 rows to notebook\n", "")
    told = json.loads((mine.parent / "notes.json").read_text())
    assert told[:3] == [7, "b=c", 2]
    assert told[3] == [0, {"test_loss": 2.5, "test_accuracy": 0.125}]
    assert told[4] == [1, {"train_loss": 2.25, "test_loss": 2.0, "test_accuracy": 0.25, "bytes_up": 314000.0}]
    assert [told[5][0], told[6]] == [2, "done"]


def test_export_again_replaces(runs: list[str]) -> None:
    assert run_export(runs[0], "--to", "tensorboard") == run_export(runs[0], "--to", "tensorboard") == 0
    assert len(list(Path(runs[0], "tensorboard").iterdir())) == 1


def test_what_cannot_be_exported(runs: list[str], mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"conf: is no folder of a run: it needs run\.json and metrics\.csv with a row"
    ):
        run_export(runs[0], str(mine), "--to", "tensorboard")
    assert not Path(runs[0], "tensorboard").exists()
    with pytest.raises(ConfigError, match="export: needs a run"):
        run_export("--to", "tensorboard")
    with pytest.raises(ConfigError, match=r"tracker=notebok: did you mean notebook\?"):
        run_export(runs[0], "--to", "notebok", "--config-dir", str(mine))
    for odd in ("null", "none,mlflow", "{a: 1}"):
        with pytest.raises(ConfigError, match=f"tracker={odd}: "):
            run_export(runs[0], "--to", odd)
    with pytest.raises(ConfigError, match=r"tracker.page: unknown key; did you mean pages\?"):
        run_export(runs[0], "--to", "notebook", "tracker.page=2", "--config-dir", str(mine))
    assert run_export(runs[0], "--to", "notebook", "tracker.file=/nowhere/x", "--config-dir", str(mine)) == 1
    output = capfd.readouterr()
    assert output.out == f"{runs[0]}: not exported\n"
    assert "Notebook is off from now on" in output.err


def test_a_run_that_was_interrupted_gives_its_tracker_all_rows(launch: Callable[..., Path], tmp_path: Path) -> None:
    words = (f"tracker._target_={__name__}.Notebook", f"+tracker.file={tmp_path / 'told.json'}")
    plain = launch("num_rounds=4")
    folder = launch("num_rounds=2", *words)
    scratch = tmp_path / "again"
    scratch.mkdir()
    assert execute(compose("num_rounds=4", *words), folder, scratch, begin=Start.RESUME) == 0
    _, name, _, *rows, status = json.loads((tmp_path / "told.json").read_text())
    assert (name, status) == (folder.name, "done")
    expected = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [number for number, _ in rows] == [0, 1, 2, 3, 4]
    assert [numbers["test_loss"] for _, numbers in rows] == [float(row["test_loss"]) for row in expected]
    assert digests(folder) == digests(plain)


def test_a_tracker_that_fails_does_not_change_the_run(
    launch: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plain, loud = launch("num_rounds=2"), launch("num_rounds=2", f"tracker._target_={__name__}.Loud")
    assert digests(loud) == digests(plain)
    assert capsys.readouterr().err.count("Loud is off from now on") == 1


def test_a_tracker_may_be_chosen_when_a_run_goes_on(launch: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = launch("num_rounds=2")
    assert commands.call("resume", [str(folder), "num_rounds=3", "tracker=tensorboard"]) == 0
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("test/loss")] == [0, 1, 2, 3]
