from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from omegaconf import DictConfig, OmegaConf

from fl_bench.build import build, find_target, nearest
from fl_bench.errors import ConfigError


class Thing:
    def __init__(
        self,
        size: float,
        mode: float | Literal["auto"] = 1.0,
        table: Mapping[str, Sequence[str]] | None = None,
        inner: object = None,
    ) -> None:
        if size < 0:
            raise ValueError("size must\nnot be negative")
        self.size, self.mode, self.table, self.inner = size, mode, table, inner


class Derived(Thing):
    pass


def made(size: float) -> Derived:
    return Derived(size)


def silent(size: float):  # type: ignore[no-untyped-def]
    return Derived(size)


TARGET = f"{__name__}.Thing"


def node(**entries: Any) -> DictConfig:
    server = {"_target_": TARGET} | entries
    made: DictConfig = OmegaConf.create({"strategy": {"mu": "x", "server": server}}).strategy.server
    return made


def test_builds_nested_nodes_and_passes_plain_containers() -> None:
    thing = build(node(size=2, mode="auto", table={"a": ["b"]}, inner={"_target_": TARGET, "size": 1}), Thing)
    assert (thing.size, thing.mode, thing.table, getattr(thing.inner, "size", None)) == (2, "auto", {"a": ["b"]}, 1)


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"size": "big"}, "strategy.server.size=big: should be a valid number"),
        ({"size": True}, "strategy.server.size=True: should be a valid number"),
        ({"size": 1, "mode": "off"}, "strategy.server.mode=off: should be a valid number or 'auto'"),
        ({"size": "${..mu}"}, "strategy.mu=x: should be a valid number"),
        ({"size": 1, "table": {"a": "b"}}, "strategy.server.table={'a': 'b'}: should be "),
        ({"size": 1, "sise": 2}, "strategy.server.sise: unknown key; did you mean size?"),
        ({}, "strategy.server: needs size"),
        ({"size": -1}, "strategy.server: size must not be negative"),
    ],
)
def test_errors_name_the_users_key(entries: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(node(**entries), object)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Derived", "made"])
def test_a_target_may_be_a_class_or_declare_what_it_returns(name: str) -> None:
    assert type(build(node(_target_=f"{__name__}.{name}", size=1), Thing)) is Derived


@pytest.mark.parametrize("target", [f"{__name__}.silent", f"{__name__}.Mapping", "os.path.join", "os.system"])
def test_a_target_must_be_of_the_base_that_the_key_wants(target: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(node(_target_=target, size=1), Thing)
    wish = "must name a class derived from Thing, or a function that returns one (-> Thing)"
    assert str(error.value) == f"strategy.server._target_={target}: {wish}"


@pytest.mark.parametrize("target", ["nope", "os.nope", "os.sep", 3, None])
def test_a_target_must_exist_and_be_callable(target: object) -> None:
    with pytest.raises(ConfigError, match="_target_="):
        find_target(OmegaConf.create({"task": {"_target_": target}}).task)


def test_nearest() -> None:
    assert nearest("fedavgg", ["fedavg", "krum"]) == "did you mean fedavg?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
