"""A site on Flower's own SuperNode obeys as `fl-bench site` does; each message finds a process without memory."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from test_site_obeys import RUN, World, refusal

from fl_bench.deployment.runtime_api import APP
from fl_bench.deployment.site import GREETING
from fl_bench.federation.exchange import Report, Status, Trouble


class Node:
    """A SuperNode: it keeps the context as long as it lives. In a `World` it stands for the site."""

    def __init__(self, folder: Path) -> None:
        words = {"certs": "keys/sites/a", "data": "rows", "root": "root"}
        config: UserConfig = {"name": "a", **{name: str(folder / path) for name, path in words.items()}}
        self.context = Context(RUN, 1, config, RecordDict(), {})

    def answer(self, message: Message) -> Message:
        module, _, name = tomllib.loads(APP.decode())["tool"]["flwr"]["app"]["components"]["clientapp"].partition(":")
        app = getattr(import_module(module), name)
        assert isinstance(app, ClientApp)
        return app(message, self.context)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(made: World) -> World:
    made.site = Node(made.folder)  # type: ignore[assignment]
    made.talk.session = None
    return made


def test_a_stock_node_trains_and_obeys_a_message_once(world: World) -> None:
    assert not world.greet().has_error()
    for round, needed in ((1, []), (2, [1])):
        message, facts = world.job(round, {1: needed})
        captured = message.content
        reply = world.site.answer(message)
        assert not reply.has_error(), reply.error
        report = Report.of(Message(world.talk.answer(reply, facts), reply_to=message))
        assert [(a.client, a.status, a.keeps) for a in report.answers] == [(1, Status.OK, True)]
        message.content = captured
        assert refusal(world.site.answer(message)) == (Trouble.REFUSED, "refuses: this message was obeyed before")
    assert world.states() == ["1.safetensors", "2.safetensors"]


def test_a_node_that_was_started_again_must_be_greeted(world: World) -> None:
    world.greet()
    world.site = Node(world.folder)  # type: ignore[assignment]
    assert refusal(world.site.answer(world.job(1, {1: []})[0]))[0] == Trouble.UNKNOWN
    world.greet()
    assert not world.site.answer(world.job(1, {1: []})[0]).has_error()


def test_a_stock_node_takes_one_run_at_a_time(world: World) -> None:
    world.greet()
    first, world.site = world.site, Node(world.folder)  # type: ignore[assignment]
    message, _ = world.job(1, {1: []})
    world.greet()  # in a context of its own, as another run has
    assert refusal(first.answer(message))[0] == Trouble.UNKNOWN
    assert len(list((world.folder / "root" / "work").iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"root": None}, "refuses: --node-config: must have name, certs, data, root; root is not there"),
        ({"certs": "nowhere"}, "refuses: --certs nowhere: nowhere/ca.crt: No such file"),
        ({"data": "nowhere"}, "nowhere"),
        ({"name": "b"}, "refuses: --name b: the keys in --certs are those of a"),
    ],
)
def test_a_node_that_is_wrongly_configured_says_so(world: World, change: dict[str, str | None], why: str) -> None:
    node = Node(world.folder)
    config = {**node.context.node_config, **change}
    node.context.node_config = {name: value for name, value in config.items() if value is not None}
    content = RecordDict({GREETING: ConfigRecord({"config": world.config()})})
    code, text = refusal(node.answer(world.talk.greeting(content, node=1)[0]))
    assert code == Trouble.REFUSED
    assert why in text


def test_a_stock_node_trusts_what_its_config_says(world: World) -> None:
    changes = {"task___target_": "mine.tasks.Task"}
    assert refusal(world.greet(**changes))[1].endswith("this site would need --trust mine.tasks")
    world.site.context.node_config["trust"] = "yours,mine"  # type: ignore[attr-defined]
    assert "No module named 'mine'" in refusal(world.greet(**changes))[1]
