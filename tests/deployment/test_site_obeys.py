"""What a site obeys and what it refuses; nothing here goes over a network."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compose
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from omegaconf import OmegaConf

from fl_bench.build import build
from fl_bench.deployment import keys
from fl_bench.deployment.conversation import Conversation
from fl_bench.deployment.shares import share
from fl_bench.deployment.signing import seal
from fl_bench.deployment.site import GREETING, Site
from fl_bench.errors import ConfigError
from fl_bench.federation.exchange import TOTAL, Job, Report, Status, Trouble
from fl_bench.federation.local import Trainer
from fl_bench.federation.parts import CONFIG
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task

RUN, PLACE = 7, "0123456789abcdef" * 2
WORDS = ("task=mnist", "num_clients=3", "strategy=scaffold", "num_rounds=2")
Config = Callable[..., str]


class World:
    """A site with client 1, and what the driver needs to talk to it."""

    def __init__(self, folder: Path) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, 1
        self.folder = folder
        keys.make(folder / "keys", ["a", "b"])
        (folder / "data").mkdir()
        cfg = compose(*WORDS)
        self.trainer: Trainer = prepare(cfg, build(cfg.task, Task), folder / "data")
        share(folder / "data", folder / "rows", [1])
        self.site = self.begun()
        driver = keys.of_driver(folder / "keys" / "driver")
        self.talk = Conversation("a", RUN, driver.key, driver.sites["a"])

    def begun(self, *trusted: str, only: list[int] | None = None, only_masked: bool = False) -> Site:
        known = keys.of_site(self.folder / "keys" / "sites" / "a")
        return Site("a", known, self.folder / "rows", self.folder / "root", trusted, only_masked, only)

    def config(self, **changes: Any) -> str:
        cfg = OmegaConf.load(self.folder / "data" / CONFIG)
        for key, value in changes.items():
            OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
        return OmegaConf.to_yaml(cfg)

    def greet(self, **changes: Any) -> Message:
        content = RecordDict({GREETING: ConfigRecord({"config": self.config(**changes)})})
        message, facts = self.talk.greeting(content, node=1)
        reply = self.site.answer(message)
        if not reply.has_error():
            self.talk.welcome(reply, facts)
        return reply

    def job(
        self, round: int, rounds: Mapping[int, list[int]], place: str = PLACE, client: int = 1, aside: bool = False
    ) -> tuple[Message, Mapping[str, Any]]:
        arrays = self.trainer.layout.to_record(self.trainer.untrained())
        job = Job("/etc", "/etc", "run", False, 1, round, (client,), weight_bound=10**6)
        content = job.beside(RecordDict({"arrays": arrays, "config": ConfigRecord({})}))
        kept = {"folder": place, "rounds": rounds, "aside": aside}
        return self.talk.work(content, 1, MessageType.TRAIN, kept)

    def states(self) -> list[str]:
        return sorted(file.name for file in (self.folder / "root" / "runs" / PLACE / "state" / "1").glob("*"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(made: World) -> World:
    made.site = made.begun()
    made.talk.session = None
    return made


def refusal(reply: Message) -> tuple[int, str]:
    assert reply.has_error()
    return reply.error.code, str(reply.error.reason)


def test_a_site_trains_its_client_and_keeps_what_is_needed(world: World) -> None:
    world.greet()
    for round, needed, left in (
        (1, [], ["1.safetensors"]),
        (2, [1], ["1.safetensors", "2.safetensors"]),
        (2, [1], ["1.safetensors", "2.safetensors"]),  # once more: from round 1, as before
        (4, [2], ["2.safetensors", "4.safetensors"]),  # round 3 made no model
    ):
        message, facts = world.job(round, {1: needed})
        reply = world.site.answer(message)
        assert not reply.has_error(), reply.error
        report = Report.of(Message(world.talk.answer(reply, facts), reply_to=message))
        assert [(a.client, a.status, a.keeps) for a in report.answers] == [(1, Status.OK, True)]
        assert world.states() == left
    code, why = refusal(world.site.answer(world.job(9, {1: [8]})[0]))
    assert code == Trouble.REFUSED
    assert "state/1/8.safetensors: is not there, and its client goes on from it" in why


def test_a_turn_that_is_only_looked_at_changes_nothing(world: World) -> None:
    world.greet()
    place = "f" * 32
    folder = world.folder / "root" / "runs" / place
    reports = []
    for round, needed, aside in ((1, [], False), (2, [1], False), (2, [1], True), (1, [], True)):
        message, facts = world.job(round, {1: needed}, place, aside=aside)
        before = {file.name: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
        reply = world.site.answer(message)
        assert not reply.has_error(), reply.error
        reports.append(Report.of(Message(world.talk.answer(reply, facts), reply_to=message)))
        if aside:
            assert {file.name: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == before
            assert sorted(before) == ["1.safetensors", "2.safetensors"]
    first, second, again, first_again = reports
    assert first.answers == first_again.answers != second.answers == again.answers
    assert (second.models[TOTAL] == again.models[TOTAL]).all()
    code, why = refusal(world.site.answer(world.job(8, {1: [7]}, place, aside=True)[0]))
    assert code == Trouble.REFUSED
    assert why.endswith("state/1/7.safetensors: is not there any more: nothing has needed it since")


def test_a_site_says_which_run_it_takes_part_in(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.greet()
    assert capsys.readouterr().err == f"fl-bench: note: a: run {RUN}: 2 rounds, secure_aggregation=none, privacy=none\n"
    message, _ = world.talk.settle(1, {"folder": PLACE, "rounds": {}, "aside": False})
    assert not world.site.answer(message).has_error()
    assert capsys.readouterr().err == f"fl-bench: note: a: run {RUN}: has ended\n"
    assert list((world.folder / "root" / "work").iterdir()) == []


@pytest.mark.parametrize("level", ["example", "local"])
def test_a_site_adds_no_noise_of_its_own_to_masked_sums(world: World, level: str) -> None:
    """A turn that is repeated would have other noise under the same masks."""
    noise = {"delta": 1e-5, "clip_norm": 1.0, "noise_multiplier": 1.0}
    kinds = {"example": "fl_bench.privacy.example.DPSGD", "local": "fl_bench.privacy.local.LocalNoise"}
    privacy = {"_target_": kinds[level], **noise}
    assert not world.greet(privacy=privacy).has_error()
    code, why = refusal(world.greet(privacy=privacy, secure_aggregation="masks"))
    assert (code, why[: len(level) + 18]) == (Trouble.REFUSED, f"refuses: privacy={level}:")


def test_a_site_has_the_name_of_its_keys(world: World) -> None:
    known = keys.of_site(world.folder / "keys" / "sites" / "a")
    with pytest.raises(ConfigError, match="--name b: the keys in --certs are those of a"):
        Site("b", known, world.folder / "rows", world.folder / "root")


def test_a_site_takes_part_with_its_clients_only(world: World) -> None:
    world.site = world.begun(only=[1])
    world.greet()
    why = "refuses: client 2 is not of this site"
    assert refusal(world.site.answer(world.job(1, {2: []}, client=2)[0])) == (Trouble.REFUSED, why)
    with pytest.raises(ConfigError, match=r"--clients 2: holds no rows in .*rows; those who do: 1"):
        world.begun(only=[1, 2])


def test_a_site_that_is_only_masked_says_nothing_else(world: World) -> None:
    world.site = world.begun(only_masked=True)
    why = "refuses: secure_aggregation=none: this site says nothing but in masked sums (--only-masked)"
    assert refusal(world.greet()) == (Trouble.REFUSED, why)
    reply = world.greet(secure_aggregation="masks")
    assert not reply.has_error()
    assert refusal(world.site.answer(world.job(1, {1: []})[0])) == (Trouble.REFUSED, why)


def test_a_site_says_what_it_holds_when_a_run_begins(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "rows", tmp_path / "rows")
    site = Site("a", keys.of_site(world.folder / "keys" / "sites" / "a"), tmp_path / "rows", tmp_path / "root")
    world.site = site
    world.greet()
    before = site.clients
    labels = np.load(tmp_path / "rows" / "train.y..npy")
    np.save(tmp_path / "rows" / "train.y..npy", labels[::-1])
    message, facts = world.talk.greeting(RecordDict({GREETING: ConfigRecord({"config": world.config()})}), node=1)
    (client, held), (_, was) = *world.talk.welcome(site.answer(message), facts).clients.items(), *before.items()
    assert (client, held.train, held.heldout) == (1, was.train, was.heldout)
    assert held.digest != was.digest


def test_a_site_whose_rows_have_gone_says_so(world: World, tmp_path: Path) -> None:
    rows = shutil.copytree(world.folder / "rows", tmp_path / "rows")
    world.site = Site("a", keys.of_site(world.folder / "keys" / "sites" / "a"), rows, tmp_path / "root")
    shutil.rmtree(rows)
    assert refusal(world.greet()) == (Trouble.DISK, f"cannot use {rows}: No such file or directory")


def test_a_message_is_obeyed_once_and_in_its_conversation_only(world: World) -> None:
    world.greet()
    message, _ = world.job(1, {1: []})
    captured = message.content
    assert not world.site.answer(message).has_error()
    message.content = captured
    assert refusal(world.site.answer(message)) == (Trouble.REFUSED, "refuses: this message was obeyed before")
    world.site = world.begun()
    message.content = captured
    assert refusal(world.site.answer(message))[0] == Trouble.UNKNOWN  # its process is another
    world.greet()
    message.content = captured
    assert refusal(world.site.answer(message))[0] == Trouble.UNKNOWN  # and so is the conversation


@pytest.mark.parametrize(
    ("name", "run", "why"), [("b", RUN, "it is of another site"), ("a", 8, "it is of another run"), ("a", RUN, "type")]
)
def test_a_message_for_somebody_else_is_refused(world: World, name: str, run: int, why: str) -> None:
    world.greet()
    other = Conversation(name, run, world.talk.key, world.talk.theirs, world.talk.session)
    kind = MessageType.EVALUATE if why == "type" else MessageType.TRAIN
    message, _ = other.work(RecordDict(), 1, MessageType.TRAIN, {})
    changed = Message(message.content, 1, kind)
    code, text = refusal(world.site.answer(changed))
    assert code == Trouble.REFUSED
    assert why in text


def test_who_has_not_the_drivers_key_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = Conversation("a", RUN, Ed25519PrivateKey.generate(), world.talk.theirs)
    content = RecordDict({GREETING: ConfigRecord({"config": world.config()})})
    code, why = refusal(world.site.answer(stranger.greeting(content, 1)[0]))
    assert (code, why) == (Trouble.REFUSED, "refuses: its signature is not by the key that is known here")
    assert capsys.readouterr().err == f"fl-bench: note: a: run {RUN}: {why}\n"
    plain = Message(content, 1, MessageType.QUERY)
    assert "it is no signed envelope" in refusal(world.site.answer(plain))[1]
    signed = seal(content, world.talk.key, {"kind": "greeting"})
    assert "it is of another site" in refusal(world.site.answer(Message(signed, 1, MessageType.QUERY)))[1]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("task___target_", "os.system", "refuses: task._target_=os.system: this site would need --trust os"),
        ("strategy__client___target_", "mine.Client", "this site would need --trust mine"),
        ("local__lr_schedule", {"_target_": "mine.rate"}, "local.lr_schedule._target_=mine.rate"),
        ("model__path", "/etc/passwd", "model.path=/etc/passwd: a site makes no model from a path"),
        ("task__model", {"path": "somebody/model"}, "task.model.path=somebody/model: a site makes no model"),
        ("seed", "${oc.env:HOME}", "interpolation"),
        ("num_rounds", -1, "num_rounds=-1: must be"),
    ],
)
def test_a_config_builds_nothing_that_the_site_does_not_trust(world: World, key: str, value: Any, why: str) -> None:
    code, text = refusal(world.greet(**{key: value}))
    assert code == Trouble.REFUSED
    assert why in text


def test_what_only_the_server_builds_or_opens_is_not_looked_at(world: World) -> None:
    reply = world.greet(strategy__server={"_target_": "mine.Server"}, data__root="/etc", network__traces="/etc/passwd")
    assert not reply.has_error(), reply.error
    (folder,) = (world.folder / "root" / "work").iterdir()
    kept = OmegaConf.load(folder / CONFIG)
    assert [kept.data, kept.network, kept.strategy.server] == [None, None, None]


@pytest.mark.parametrize("place", ["../../x", "/etc", "", PLACE + "/.."])
def test_a_message_names_no_folder(world: World, place: str) -> None:
    world.greet()
    assert refusal(world.site.answer(world.job(1, {1: []}, place)[0])) == (Trouble.REFUSED, "refuses: it names no run")


def test_a_run_of_a_site_leaves_one_folder_of_links(world: World) -> None:
    for _ in range(3):
        world.greet()
    (folder,) = (world.folder / "root" / "work").iterdir()
    assert json.loads((folder / "classes.json").read_text())
