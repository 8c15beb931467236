"""A driver without training rows: what the sites say of theirs stands in for them, and the files stay the same."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from conftest import compose, long, table
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from test_site_grid import NAMES, Line

from fl_bench.build import build
from fl_bench.data.arrays import FederatedData
from fl_bench.data.partition import UNSEEN, Partition
from fl_bench.deployment import keys
from fl_bench.deployment.shares import Form, Held, Holding, share
from fl_bench.deployment.told import Told
from fl_bench.deployment.welcome import Welcome
from fl_bench.errors import ConfigError, Damaged
from fl_bench.runs.begin import Start
from fl_bench.runs.evaluate import evaluate
from fl_bench.runs.execute import execute
from fl_bench.runs.prepare import prepare
from fl_bench.runs.share import share_out
from fl_bench.storage import run_json
from fl_bench.tasks.base import Task

WORDS = (
    "task=mnist",
    "num_clients=5",
    "num_rounds=3",
    "clients_per_round=3",
    "strategy=scaffold",
    "evaluate.clients=true",
    "network=heterogeneous",
    "figures=false",
    "local.lr_horizon=3",
)
PARTS = ("partition=dirichlet", "partition.alpha=0.3", "partition.unseen=0.2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process, and what its clients hold by site."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("inline", "scratch"):
        (folder / name).mkdir()
    cfg = compose(*WORDS, *PARTS)
    assert execute(cfg, folder / "inline", folder / "scratch") == 0
    keys.make(folder / "keys", NAMES)
    share_out(cfg, folder / "shares", dict.fromkeys(NAMES, ()))
    return folder


@pytest.fixture
def line(whole: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A link that is a list, where a deployment looks for one."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    found = Line(whole)

    @contextmanager
    def run_at(*about: Any) -> Iterator[Line]:
        yield found

    monkeypatch.setattr("fl_bench.deployment.roster.LOOK_SECONDS", 0)
    monkeypatch.setattr("fl_bench.deployment.runtime_api.run_at", run_at)
    return found


def deployed(line: Line, folder: Path, *words: str, begin: Start = Start.NEW, expected: int = 0) -> Path:
    """The folder of a run whose driver knows what the sites say."""
    link = ("engine.link=127.0.0.1:1", f"engine.certs={line.folder / 'keys' / 'driver'}", "engine.sites=3")
    engine = () if "engine=inline" in words else ("engine=deployment", *link, "engine.wait_s=0.5")
    cfg = compose(*WORDS, "partition=sites", *engine, *words)
    (folder / "run").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:
        assert execute(cfg, folder / "run", Path(scratch), begin) == expected
    return folder / "run"


FILES = ("metrics.csv", "clients.csv", "model.safetensors", "per_class.csv", "confusion.csv")


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}


def test_the_files_are_those_of_a_driver_with_all_rows(line: Line, whole: Path, tmp_path: Path) -> None:
    run = deployed(line, tmp_path, "num_clients=auto")
    assert contents(run) == contents(whole / "inline")
    sizes: Counter[str] = Counter()
    for row in table(whole / "inline", "partition"):
        sizes[row["client"]] += int(row["samples"])
    assert table(run, "partition") == [{"client": c, "label": "any", "samples": str(n)} for c, n in sizes.items()]
    assert not (run / "split.csv.gz").exists()
    record = run_json.read(run)
    assert record["classes"] == run_json.read(whole / "inline")["classes"]
    cfg = compose(*WORDS, "partition=sites", "evaluate.clients=false")
    assert evaluate(cfg, run, None, run / "evaluate.csv") == 0
    assert table(run, "evaluate")[0]["test_accuracy"] == str(record["final"]["test_accuracy"])
    cfg.evaluate.clients = True
    with pytest.raises(ConfigError, match="--clients: their rows are at the sites"):
        evaluate(cfg, run, None, run / "evaluate.csv")


def test_clients_of_a_site_that_is_not_there_hold_nothing(line: Line, tmp_path: Path) -> None:
    line.end("b")
    words = ("engine.sites=2", "clients_per_round=4", "network=ideal", "num_rounds=1")
    rows = table(deployed(line, tmp_path, *words), "clients")
    assert [row["status"] for row in rows if row["round"] == "1"][:4] == ["ok", "ok", "empty", "empty"]


def test_what_was_told_is_a_file_that_may_be_damaged(tmp_path: Path) -> None:
    assert Told.open(tmp_path) is None
    for text in ("{", "[1, 2]", "[[{}, [], -1, 0, {}], {}]", '[[{"x": ["O", []]}, [], 1, 0, {}], {}]'):
        (tmp_path / "told.json").write_text(text)
        with pytest.raises(Damaged, match=r"told\.json: is damaged: "):
            Told.open(tmp_path)


@long
def test_without_a_test_set_there_is_what_the_clients_measure(
    line: Line, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = deployed(line, tmp_path, "data=none", "figures=true")
    said = capsys.readouterr().err
    assert "note: data: there is no test set" in said
    assert (run / "model.safetensors").read_bytes() == (whole / "inline" / "model.safetensors").read_bytes()
    rows = [
        {name: value for name, value in row.items() if not name.startswith("test_")}
        for row in table(whole / "inline", "metrics")
    ]
    assert table(run, "metrics") == rows
    assert {file.name for file in (run / "figures").glob("*.png")} >= {"curves.png", "partition.png"}


def test_a_run_goes_on_unless_the_sites_hold_something_else(
    line: Line, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed(line, tmp_path, "num_rounds=2")
    path = line.folder / "shares" / "b" / "train.y..npy"
    kept = np.load(path)
    np.save(path, np.roll(kept, 1))
    line.begin("b")
    deployed(line, tmp_path, begin=Start.RESUME, expected=2)
    assert "data: is not what the run began with" in capsys.readouterr().err
    np.save(path, kept)
    line.begin("b")
    assert contents(deployed(line, tmp_path, begin=Start.RESUME)) == contents(whole / "inline")


def test_a_site_that_comes_back_with_other_classes_ends_the_run(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = line.folder / "shares" / "b" / "classes.json"
    kept = file.read_text()

    def change(name: str, message: Message) -> None:
        if (name, message.metadata.message_type) == ("b", "train"):
            file.write_text(json.dumps(json.loads(kept)[::-1]))
            line.end("b")
            line.begin("b")

    line.before = change
    deployed(line, tmp_path, expected=2)
    file.write_text(kept)
    assert "b: its classes are others than in this run: ['9', '8'," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["num_clients=6"], "num_clients=6: must be 5, the clients of the sites, or auto"),
        (["evaluate.validation=0.1"], "evaluate.validation=0.1: the server has no training rows"),
        (["shift=noise"], "shift: with partition=sites the samples are as the sites have them; use shift=none"),
        (["data_drift=labels"], "data_drift: needs the numbers of all rows"),
        (
            ["attack=mimic"],
            "attack: is of clients of a simulation; the sites of a deployment are real, use attack=none",
        ),
        (["strategy=centralized"], "strategy: its clients train on rows of others"),
        (
            ["task=cifar"],
            "data: x of the test rows here: uint8 [3, 32, 32]; of the sites' rows: uint8 [1, 28, 28]",
        ),
        (["engine=inline"], "partition=sites: only engine=deployment has sites"),
    ],
)
def test_what_needs_rows_is_refused(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    deployed(line, tmp_path, *words, expected=2)
    assert why in capsys.readouterr().err


def welcome(*clients: int, **changes: Any) -> Welcome:
    """That of a site with these clients of 4, of whom the last never trains."""
    form = Form({"x": ["uint8", [1, 2]]}, ["no", "yes"], 3, 1, {})._replace(**changes)
    held = {client: Holding(10 + client, 2, "") for client in clients}
    return Welcome("", "", {}, "", 1, "", "", held, form)


def test_sites_that_do_not_fit_together_are_refused() -> None:
    told = Told.by({"a": welcome(3, 1), "b": welcome(0)})
    assert list(told.clients) == [0, 1, 3]
    with pytest.raises(ConfigError, match="b: has client 1, as another site has"):
        Told.by({"a": welcome(3, 1), "b": welcome(0, 1)})
    for changes, why in (
        ({"classes": ["yes", "no"]}, r"b: its classes: \['yes', 'no'\]; those of a: \['no', 'yes'\]"),
        ({"num_clients": 5}, "b: its num_clients: 5; those of a: 3"),
        ({"columns": {"x": ["uint8", [2, 2]]}}, "b: its columns: "),
        ({"files": {"vocabulary.json": "0"}}, "b: its files: "),
    ):
        with pytest.raises(ConfigError, match=why):
            Told.by({"a": welcome(1), "b": welcome(0, **changes)})


def test_a_driver_opens_sizes_and_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Told.by({"a": welcome(3, 1), "b": welcome(0)}).save(None, tmp_path)
    assert "note: partition: no site that is there has client 2: it holds no sample" in capsys.readouterr().err
    train, unseen = (Partition.open(tmp_path, name) for name in ("partition", UNSEEN))
    assert [train.train_sizes.tolist(), train.heldout_sizes.tolist()] == [[10, 11, 0], [2, 2, 0]]
    assert [unseen.train_sizes.tolist(), unseen.heldout_sizes.tolist()] == [[13], [2]]
    assert train.elsewhere
    assert train.train_rows(0).tolist() == []
    data = FederatedData.open(tmp_path)
    assert (data.num_tests, data.classes, data.train["x"].tolist()) == (0, ("no", "yes"), [[[0, 0]], [[0, 0]]])


def test_test_rows_must_be_like_those_of_the_sites(tmp_path: Path) -> None:
    told = Told.by({"a": welcome(0, files={"facts.json": "0"})})
    told.save(None, tmp_path)  # who has no rows need not know what numbers in them mean
    rows, none = np.ones((1, 1, 2), np.uint8), np.ones((0, 1, 2), np.uint8)
    for test, classes, why in (
        (rows, ("no", "yes"), "data: the sites have a facts.json beside their rows"),
        (rows, ("yes", "no"), "data: classes of the test rows here: yes no; of the sites' rows: no yes"),
        (
            rows.astype(np.int64),
            ("no", "yes"),
            r"data: x of the test rows here: int64 \[1, 2\]; of the sites' rows: uint8",
        ),
    ):
        with pytest.raises(ConfigError, match=why):
            told.save(FederatedData({}, {"x": test}, classes), tmp_path)
    told = Told.by({"a": welcome(0)})
    for test in (rows, none):
        told.save(FederatedData({}, {"x": test}, ("no", "yes")), tmp_path)
        assert FederatedData.open(tmp_path).num_tests == len(test)
    assert FederatedData.open(tmp_path).train["x"].tolist() == [[[0, 0]], [[0, 0]]]


@pytest.mark.parametrize(
    ("task", "words", "why"),
    [
        ("text", (), ""),
        ("text", ("task.max_vocabulary=50",), r"data: the sites have a \w+\.json beside their rows"),
        ("text", ("data=none",), "data: the sites have a vocabulary.json beside their rows, which is not here"),
        ("tabular", ("data=none",), ""),
        ("tabular", (), "data: with task=tabular what a number stands for follows from training rows"),
        ("series", (), ""),
        ("characters", (), ""),
        ("characters", ("task.length=10",), r"data: text of the test rows here: uint8 \[11\]; of the sites' rows"),
    ],
)
def test_what_numbers_stand_for_is_known_here_too(tmp_path: Path, task: str, words: tuple[str, ...], why: str) -> None:
    whole, rows, driver = (tmp_path / name for name in ("whole", "rows", "driver"))
    for folder in (whole, driver):
        folder.mkdir()
    cfg = compose(f"task={task}", "num_clients=2")
    trainer = prepare(cfg, build(cfg.task, Task), whole)
    share(whole, rows, [0, 1])
    assert Form.of(rows) == Form.of(whole)
    told = Told(Form.of(rows), Held.open(rows).holdings())
    other = compose(f"task={task}", "num_clients=2", "partition=sites", *words)
    if why:
        with pytest.raises(ConfigError, match=why):
            prepare(other, build(other.task, Task), driver, lambda _: told)
        return
    ours = prepare(other, build(other.task, Task), driver, lambda _: told)
    assert ours.layout == trainer.layout
    assert ours.weighting.each.tolist() == trainer.weighting.each.tolist()
    assert np.array_equal(ours.untrained(), trainer.untrained())
