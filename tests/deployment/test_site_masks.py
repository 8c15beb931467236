"""What a site lets a driver have of its numbers: never one sum of these sites, and then another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_bench.deployment import keys
from fl_bench.deployment.masks import allowed, signed
from fl_bench.deployment.signing import Unproven
from fl_bench.federation.exchange import Report
from fl_bench.federation.masked import KEYS, REVEAL, SHARES, speak

NAMES = ("a", "b", "c")
ATTEMPT = "0123456789abcdef" * 2


class World:
    """Three sites, and a driver that asks them."""

    def __init__(self, folder: Path) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        keys.make(folder / "keys", NAMES)
        self.keys = {name: keys.of_site(folder / "keys" / "sites" / name) for name in NAMES}
        self.folders = {name: folder / name for name in NAMES}
        self.circle = {name: self.ask(name, KEYS) for name in NAMES}

    def ask(self, name: str, what: str, **more: Any) -> Any:
        circle = {} if what == KEYS else {"threshold": 2, "circle": self.circle}
        wish = {"ask": what, "attempt": ATTEMPT, "parties": {name: [0]}, **circle, **more}
        own = allowed(wish, name, self.keys[name], self.folders[name])
        message = Message(RecordDict(), 1, "query.masks")
        reply = Report([], 1, said=speak(own, 0, 1)).reply_to(message)
        return Report.of(signed(reply, own, name, self.keys[name], message)).said[name]

    def sealed(self) -> dict[str, Any]:
        boxes = {name: self.ask(name, SHARES) for name in NAMES}
        return {name: {other: boxes[other][name] for other in NAMES} for name in NAMES}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_site_reveals_shares_for_one_set_of_survivors_only(world: World) -> None:
    sealed = world.sealed()
    all_three = world.ask("a", REVEAL, own=sealed, survivors=["a", "b", "c"])
    assert world.ask("a", REVEAL, own=sealed, survivors=["c", "a", "b"]) == all_three  # a reply may get lost
    with pytest.raises(Unproven, match="it asks a second time for the sum"):
        world.ask("a", REVEAL, own=sealed, survivors=["a", "b"])
    assert world.ask("b", REVEAL, own=sealed, survivors=["a", "b"])["c"] != all_three["c"]


def test_of_an_attempt_there_is_one_circle(world: World) -> None:
    world.sealed()
    del world.circle["c"]
    with pytest.raises(Unproven, match="it asks a second time for the sum"):
        world.ask("a", SHARES)


def test_keys_that_the_driver_has_made_are_refused(world: World, tmp_path: Path) -> None:
    seal, pairs, signature = world.circle["b"]
    world.circle["b"] = [pairs, seal, signature]
    with pytest.raises(Unproven, match="the keys that are said to be those of b are not signed by it"):
        world.ask("a", SHARES)
    world.circle = {"a": world.circle["a"], "d": world.circle["c"]}
    with pytest.raises(Unproven, match=r"d is no site whose d\.pub is in the folder peers of --certs"):
        world.ask("a", SHARES)
    world.keys["c"] = replace(world.keys["c"], key=world.keys["b"].key)
    world.circle = {name: world.ask(name, KEYS) for name in NAMES}
    with pytest.raises(Unproven, match="those of c are not signed by it"):
        world.ask("a", SHARES)


@pytest.mark.parametrize("odd", [{"attempt": "../x"}, {"parties": {"b": [0]}}, {"parties": {"a": [0], "b": [1]}}])
def test_what_is_not_its_own_is_refused(world: World, odd: dict[str, Any]) -> None:
    with pytest.raises(Unproven, match="it is of another party's masks"):
        world.ask("a", KEYS, **odd)


def test_its_secret_is_its_own_and_stays(world: World) -> None:
    contents = {(world.folders[name] / "masks.secret").read_bytes() for name in NAMES}
    assert len(contents) == 3
    assert {len(content) for content in contents} == {32}
    assert {(folder / "masks.secret").stat().st_mode & 0o777 for folder in world.folders.values()} == {0o600}
    assert world.ask("a", KEYS)[:2] == world.circle["a"][:2]


def test_sites_that_come_later_are_known_to_those_before(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys", ["a", "b"])
    keys.make(tmp_path / "keys", ["c"])
    for name in NAMES:
        assert keys.of_site(tmp_path / "keys" / "sites" / name).peers.keys() == set(NAMES)
