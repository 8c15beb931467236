"""What a site lets a driver have of its numbers: never one sum of these sites, and then another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_bench.deployment import keys
from fl_bench.deployment.masks import allowed, signed
from fl_bench.deployment.signing import Unproven
from fl_bench.federation.exchange import Job, Report
from fl_bench.federation.masked import KEYS, REVEAL, SHARES, TRAIN, WEIGH, circle_of, speak
from fl_bench.masking.party import unmask

NAMES = ("a", "b", "c")
ATTEMPT = "0123456789abcdef" * 2
WEIGHTS = {"a": 137, "b": 45, "c": 2**40}


class World:
    """Three sites, and a driver that asks them."""

    def __init__(self, folder: Path) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        keys.make(folder / "keys", NAMES)
        self.keys = {name: keys.of_site(folder / "keys" / "sites" / name) for name in NAMES}
        self.folders = {name: folder / name for name in NAMES}
        self.attempt = ATTEMPT
        self.circle = {name: self.ask(name, KEYS) for name in NAMES}

    def allow(self, name: str, what: str, asked: str = "", **more: Any) -> dict[str, Any]:
        circle = {} if what == KEYS else {"threshold": 2, "circle": self.circle}
        wish = {"ask": what, "attempt": self.attempt, "parties": {name: [0]}, **circle, **more}
        job = Job("", "", "", False, 1, 1, (0,), masks=wish)
        return allowed(job, asked, name, self.keys[name], self.folders[name])

    def ask(self, name: str, what: str, **more: Any) -> Any:
        own = self.allow(name, what, **more)
        message = Message(RecordDict(), 1, "query.masks")
        reply = Report([], 1, said=speak(own, 0, 1, np.array([WEIGHTS[name]]))).reply_to(message)
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


def test_with_the_same_masks_there_is_one_sum(world: World) -> None:
    """Two would differ by what a driver wants to know: the masks would cancel out."""
    for _ in range(2):  # a reply may get lost
        world.allow("a", TRAIN, asked="of this model")
    for what in (TRAIN, WEIGH):
        with pytest.raises(Unproven, match="it asks a second time for the sum"):
            world.allow("a", what, asked="of another model")


def test_what_all_clients_weigh_is_a_masked_sum_of_one_circle(world: World) -> None:
    boxes = world.sealed()
    words = {name: int(world.ask(name, WEIGH), 16) for name in NAMES}
    assert not set(words.values()) & set(WEIGHTS.values())
    revealed = {n: world.ask(n, REVEAL, own={n: boxes[n]}, survivors=list(NAMES)) for n in NAMES}
    total = np.array([sum(words.values()) % 2**64], np.uint64)
    circle = circle_of({"attempt": ATTEMPT, "threshold": 2, "circle": world.circle})
    unmask(total, circle, NAMES, {who: {n: int(s, 16) for n, s in told.items()} for who, told in revealed.items()})
    assert total.tolist() == [137 + 45 + 2**40]
    world.attempt = ATTEMPT[::-1]
    world.circle = {name: world.ask(name, KEYS) for name in ("a", "b")}
    with pytest.raises(Unproven, match="it asks a second time for the sum weights"):
        world.ask("a", WEIGH)


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
