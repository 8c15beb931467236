"""Rounds on sites that are objects here, over a link that is a list: who is asked, who is waited for, what counts."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import compose, long
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl_bench.build import build
from fl_bench.deployment import keys
from fl_bench.deployment.roster import Roster
from fl_bench.deployment.shares import share
from fl_bench.deployment.site import Site
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.engines.site_grid import Patience, SiteGrid, _wrong
from fl_bench.errors import ConfigError, RunError
from fl_bench.federation.exchange import TOTAL, Answer, Job, Report, Status
from fl_bench.federation.local import trainer_in
from fl_bench.federation.rounds import Round, Rounds
from fl_bench.runs.experiment import make, make_fleet, make_strategy
from fl_bench.runs.prepare import prepare
from fl_bench.storage.checkpoint import Store
from fl_bench.storage.states import StatesElsewhere
from fl_bench.tasks.base import Task

NAMES = ("a", "b", "c")
SMALL = ("task=mnist", "num_clients=4", "num_rounds=3", "strategy=scaffold")
WORDS, MASKED = (*SMALL, "evaluate.clients=true"), (*SMALL, "secure_aggregation=masks")


class Line:
    """A link and the sites at it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, Run.create_empty(1)
        self.keys = keys.of_driver(folder / "keys" / "driver")
        self.there: dict[int, tuple[str, Site, str]] = {}
        self.asked: dict[str, Message] = {}
        self.sent: list[tuple[str, str]] = []  # the sites of messages, and their types
        self.forgets: Iterator[bool] = iter(())  # of each message whether it is not stored: the link begins anew
        self.before: Callable[[str, Message], None] = lambda name, message: None
        for name in NAMES:
            self.begin(name)

    def begin(self, name: str, data: str = "") -> None:
        """Start the process of a site, anew where it was there."""
        known = keys.of_site(self.folder / "keys" / "sites" / name)
        site = Site(name, known, self.folder / "shares" / (data or name), self.folder / "root" / name)
        self.there[NAMES.index(name) + 100] = (name, site, str(uuid.uuid4()))

    def end(self, name: str) -> None:
        del self.there[NAMES.index(name) + 100]

    def present(self) -> list[Any]:
        by_name = {name: key for key, name in self.keys.nodes.items()}
        return [
            SimpleNamespace(node_id=node, public_key=by_name[name], last_activated_at=since)
            for node, (name, _, since) in self.there.items()
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            if next(self.forgets, False):
                continue
            names.append(str(uuid.uuid4()))
            message.metadata.__dict__["_message_id"] = names[-1]
            self.asked[names[-1]] = message
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        replies = []
        for name in names:
            if (message := self.asked.pop(name, None)) is None:
                continue
            site = NAMES[message.metadata.dst_node_id - 100]
            self.sent.append((site, message.metadata.message_type))
            self.before(site, message)
            if message.metadata.dst_node_id in self.there:
                replies.append(self.there[message.metadata.dst_node_id][1].answer(message))
            else:
                replies.append(Message(Error(ErrorCode.NODE_UNAVAILABLE, "it is away"), reply_to=message))
        return replies


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    keys.make(folder / "keys", NAMES)
    (folder / "data").mkdir()
    cfg = compose(*WORDS)
    prepare(cfg, build(cfg.task, Task), folder / "data")
    for name, clients in zip(NAMES, ([0, 3], [1], [2]), strict=True):
        share(folder / "data", folder / "shares" / name, clients)
    return folder


@pytest.fixture
def line(made: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr("fl_bench.deployment.roster.LOOK_SECONDS", 0)
    trainer_in.cache_clear()  # its model is that of the test before
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    return Line(made)


def rounds_on(line: Line | None, folder: Path, away: float = 0.2, words: Sequence[str] = WORDS) -> list[Round]:
    """The rounds of the run on the sites of a line, or of none in this process."""
    cfg = compose(*words)
    data = (line.folder if line else folder) / "data"
    data.mkdir(exist_ok=True)
    trainer, strategy = prepare(cfg, build(cfg.task, Task), data), make_strategy(cfg.strategy.server)
    store = Store(folder, 1)
    if line is None:
        grid: Any = InlineGrid()
    else:
        store.states = StatesElsewhere(folder / "state")
        link: Any = line
        grid = SiteGrid(link, Roster(link, line.keys, data), 3, store.states, Patience(away, None))
    return list(Rounds(made := make(cfg, strategy, trainer, data, store), make_fleet(made, grid)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Round]:
    return rounds_on(None, tmp_path_factory.mktemp("alone"))


def same(a: list[Round], b: list[Round]) -> bool:
    return [(r.vector.tobytes(), r.row, r.clients) for r in a] == [(r.vector.tobytes(), r.row, r.clients) for r in b]


def test_each_site_is_asked_for_its_clients_once_a_round(line: Line, alone: list[Round], tmp_path: Path) -> None:
    assert same(rounds_on(line, tmp_path), alone)
    assert [line.sent.count((name, "train")) for name in NAMES] == [3, 3, 3]
    assert [line.sent.count((name, "evaluate")) for name in NAMES] == [4, 4, 4]
    assert [line.sent.count((name, "query")) for name in NAMES] == [1, 1, 1]  # the test set is here


@pytest.mark.parametrize("trained", [pytest.param(False, marks=long), True])
def test_a_site_that_is_killed_and_comes_back_changes_nothing(
    line: Line, alone: list[Round], tmp_path: Path, trained: bool
) -> None:
    killed: list[str] = []

    def kill(name: str, message: Message) -> None:
        if name == "a" and message.metadata.message_type == "train" and line.sent.count(("a", "train")) == 2:
            killed.append(name)
            if trained:  # all of its turns, but nobody has heard of it
                line.there[100][1].answer(Message(message.content, 100, "train"))
            line.end("a")
            line.begin("a")

    line.before = kill
    assert same(rounds_on(line, tmp_path, away=5), alone)
    assert killed == ["a"]


def test_what_a_link_forgets_is_sent_again(line: Line, alone: list[Round], tmp_path: Path) -> None:
    """A greeting, as each third, and what comes after it."""
    line.forgets = (number % 3 == 1 for number in count())
    assert same(rounds_on(line, tmp_path, away=30), alone)
    assert [line.sent.count((name, "train")) for name in NAMES] == [3, 3, 3]


def test_a_site_is_not_given_up_while_the_link_still_names_it(
    line: Line, alone: list[Round], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of who is there is older than the link's word that a message is lost."""
    monkeypatch.setattr("fl_bench.deployment.roster.LOOK_SECONDS", 1)

    def away(name: str, message: Message) -> None:
        if name == "a" and message.metadata.message_type == "train" and line.sent.count(("a", "train")) == 2:
            line.end("a")
            Timer(1.5, line.begin, ["a"]).start()

    line.before = away
    assert same(rounds_on(line, tmp_path, away=30), alone)


def test_the_clients_of_a_site_that_stays_away_have_dropped_out(
    line: Line, alone: list[Round], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill(name: str, message: Message) -> None:
        if name == "b" and message.metadata.message_type == "train" and line.sent.count(("b", "train")) == 2:
            line.end("b")

    line.before = kill
    rounds = rounds_on(line, tmp_path)
    assert [[row["status"] for row in round.clients] for round in rounds[1:]] == [
        ["ok", "ok", "ok", "ok"], ["ok", "dropped", "ok", "ok"], ["ok", "dropped", "ok", "ok"]
    ]  # fmt: skip
    assert same(rounds[:2], alone[:2])
    assert "note: b is left out: it has been away for 0.2 s" in capsys.readouterr().err


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> list[Round]:
    return rounds_on(None, tmp_path_factory.mktemp("unmasked"), words=SMALL)


def same_models(a: list[Round], b: list[Round]) -> bool:
    return [(r.vector.tobytes(), r.row.get("train_loss")) for r in a] == [
        (r.vector.tobytes(), r.row.get("train_loss")) for r in b
    ]


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        ("query.masks", 3),
        *(pytest.param(*pair, marks=long) for pair in (("train", 2), ("query.masks", 4), ("query.masks", 5))),
    ],
)
def test_masked_sums_of_sites_are_those_without_though_a_site_is_killed(
    line: Line, unmasked: list[Round], tmp_path: Path, kind: str, when: int
) -> None:
    """It is killed while it answers one of its three messages on masks in a round, or trains."""
    killed: list[str] = []

    def kill(name: str, message: Message) -> None:
        due = name == "a" and message.metadata.message_type == kind and line.sent.count(("a", kind)) == when
        if due and not killed:
            killed.append(name)
            line.there[100][1].answer(Message(message.content, 100, kind))  # but nobody has heard of it
            line.end("a")
            line.begin("a")

    line.before = kill
    assert same_models(rounds_on(line, tmp_path, away=5, words=MASKED), unmasked)
    assert killed == ["a"]
    assert [line.sent.count(("b", kind)) for kind in ("query.masks", "train")] == [9, 3]


@pytest.mark.parametrize(("kind", "first"), [("query.masks", 2), pytest.param("train", 1, marks=long)])
def test_masks_of_a_site_that_stays_away_are_taken_from_the_sum(
    line: Line, tmp_path: Path, kind: str, first: int
) -> None:
    """It goes after its numbers of round 1, but before it has revealed shares, or before its numbers."""

    def end(name: str, message: Message) -> None:
        if name == "b" and message.metadata.message_type == kind and line.sent.count(("b", "train")) >= 1:
            line.end("b")

    line.before = end
    rounds = rounds_on(line, tmp_path, words=MASKED)
    assert [round.clients[1]["status"] for round in rounds[1:]] == ["ok"] * (first - 1) + ["dropped"] * (4 - first)
    line.begin("b")
    line.sent.clear()
    line.before = lambda name, _: line.end("b") if line.sent.count(("b", "train")) == first and name == "b" else None
    (plain := tmp_path / "plain").mkdir()
    trainer_in.cache_clear()
    assert same_models(rounds, rounds_on(line, plain, words=SMALL))


def test_a_site_with_other_rows_is_refused(line: Line, tmp_path: Path) -> None:
    line.begin("b", data="a")
    with pytest.raises(ConfigError, match="b: has client 0, as a has"):
        rounds_on(line, tmp_path)
    line.begin("b")
    line.end("c")
    with pytest.raises(RunError, match=r"engine\.sites=3: after 0\.2 s only these are there: a, b"):
        rounds_on(line, tmp_path)


def test_who_does_not_answer_as_the_site_is_refused(line: Line, tmp_path: Path) -> None:
    if not (line.folder / "other").exists():
        keys.make(line.folder / "other", ["a"])
    line.there[100][1]._keys = replace(line.there[100][1]._keys, key=keys.of_site(line.folder / "other/sites/a").key)
    with pytest.raises(RunError, match="a: is not who it says: its signature is not by the key"):
        rounds_on(line, tmp_path)


JOB = Job("", "", "", False, 1, 1, (4, 5), weight_bound=100)
ANSWERS = [Answer(4, Status.OK, weight=40), Answer(5, Status.OK, weight=60)]


@pytest.mark.parametrize(
    ("answers", "models", "weight", "why"),
    [
        (ANSWERS, {TOTAL: np.zeros(3, np.int64)}, 100, ""),
        (ANSWERS, {TOTAL: np.zeros(3, np.float32)}, 40, ""),
        (ANSWERS, {"4": np.zeros(3, np.float32)}, 0, ""),
        (ANSWERS[:1], {}, 0, "it is on clients that were not asked"),
        (ANSWERS, {"6": np.zeros(3, np.float32)}, 0, "it has a model of a client that was not asked"),
        (ANSWERS, {TOTAL: np.zeros(1, np.int64)}, 0, "a model has another shape"),
        (ANSWERS, {TOTAL: np.zeros(3)}, 0, "a model is of other numbers"),
        (ANSWERS, {"5": np.array([0, np.nan, 0], np.float32)}, 0, "a model is not of finite numbers"),
        (ANSWERS, {}, 101, "a weight is more than all"),
        ([*ANSWERS[:1], Answer(5, Status.OK, weight=-1)], {}, 0, "a weight is more than all"),
    ],
)
def test_a_report_that_cannot_be_is_refused(answers: Any, models: Any, weight: int, why: str) -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    reply = Report(answers, 1, models, weight).reply_to(Message(RecordDict(), 1, "train"))
    assert _wrong(reply, JOB, 3) == why


LOSS = {"survivors": ["a"], "names": [["loss"], []]}


def masked_job(ask: str) -> Job:
    return replace(JOB, masks={"ask": ask, "attempt": "1", "threshold": 2, "parties": {"a": [4, 5]}})


@pytest.mark.parametrize(
    ("ask", "said", "models", "why"),
    [
        ("train", LOSS, {TOTAL: np.zeros(3 + 2 + 70, np.int64)}, ""),
        ("train", {"survivors": [], "names": []}, {}, ""),
        ("train", LOSS, {TOTAL: np.zeros(3 + 2 + 69, np.int64)}, "a model has another shape"),
        ("train", LOSS, {TOTAL: np.zeros(75)}, "a model is of other numbers"),
        ("train", {"survivors": ["b"], "names": [[], []]}, {}, "it is of another party's masks"),
        ("train", {"survivors": ["a"], "names": [[], []]}, {"4": np.zeros(5, np.int64)}, "it has more than one sum"),
        ("train", {}, {}, "it cannot be read: KeyError('survivors')"),
        ("reveal", {"a": {"b": "0x1"}}, {}, ""),
        ("reveal", {"b": {"b": "0x1"}}, {}, "it is of another party's masks"),
    ],
)  # fmt: skip
def test_a_masked_report_that_cannot_be_is_refused(ask: str, said: Any, models: Any, why: str) -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    answers = ANSWERS if ask == "train" else []
    reply = Report(answers, 1, models, said=said).reply_to(Message(RecordDict(), 1, "train"))
    assert _wrong(reply, masked_job(ask), 3) == why


def test_a_site_that_has_room_for_nobody_is_not_believed() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    reply = Report(ANSWERS, 1, together=0).reply_to(Message(RecordDict(), 1, "train"))
    assert _wrong(reply, JOB, 3) == "it has room for no client"
