"""Anything a strategy may keep comes back as it was, through JSON."""

import json
from collections import Counter, defaultdict
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from fl_bench.errors import RunError
from fl_bench.storage.snapshot import Tensors, put_back, take


def through(value: Any, current: Any = None) -> Any:
    tensors: Tensors = {}
    taken = json.loads(json.dumps(take(value, tensors, "it")))
    return put_back(taken, tensors, current)


PLAIN = [
    None, True, 3, -(2**70), 0.1, float("inf"), "text", [1, [2.5, None]], (1, ("a",)), {1, 2},
    frozenset("ab"), b"\x00\xff", b"", {}, {1: "a", "1": "b"},
    {(1, 2): [3]}, {None: 0},
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values(value: Any) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).random(shape) * 9).astype(dtype)
    found = through({"a": array})["a"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)


def test_a_scalar_stays_of_its_type() -> None:
    """A Python float times float32 is float32; NumPy's float64 makes it float64."""
    found = through([np.float64(0.1), 0.1, np.float32(0.1)])
    assert [type(number) for number in found] == [np.float64, float, np.float32]
    assert found == [np.float64(0.1), 0.1, np.float32(0.1)]


def test_tensors_and_flowers_arrays() -> None:
    record = ArrayRecord({"w": Array(np.arange(6.0).reshape(2, 3)), "b": Array(np.ones(1, np.float32))})
    tensor = torch.arange(4).to(torch.bfloat16)
    found, back = through([record, tensor])
    assert {name: array.numpy().tolist() for name, array in found.items()} == {"w": [[0, 1, 2], [3, 4, 5]], "b": [1]}
    assert found["b"].numpy().dtype == np.float32
    assert torch.equal(back, tensor)
    assert back.dtype == tensor.dtype


def test_an_array_is_taken_as_it_is_then() -> None:
    array = np.zeros(3)
    tensors: Tensors = {}
    taken = take([array], tensors, "it")
    array[:] = 1
    assert put_back(taken, tensors)[0].tolist() == [0, 0, 0]


class Inner:
    def __init__(self) -> None:
        self.moment = np.zeros(2)
        self.rule = max  # a function is no state


class Outer:
    def __init__(self) -> None:
        self.inner, self.count = Inner(), 0
        self.late: dict[str, Array] = {}


def test_objects_are_changed_in_place() -> None:
    before, after = Outer(), Outer()
    before.count, before.inner.moment, before.late = 3, np.ones(2), {"x": Array(np.ones(1))}
    inner = after.inner
    assert through(before, after) is after
    assert after.inner is inner
    assert (after.count, inner.moment.tolist(), inner.rule) == (3, [1, 1], max)
    assert after.late["x"].numpy().tolist() == [1]


class Mode(Enum):
    COLD = 1
    WARM = 2


class Several:
    def __init__(self) -> None:
        self.mode = Mode.COLD
        self.counts: defaultdict[str, list[int]] = defaultdict(list)
        self.head = torch.nn.Linear(2, 1)
        self.head.weight.data.zero_()


def test_what_an_object_knows_keeps_its_kind() -> None:
    before, after = Several(), Several()
    before.mode = Mode.WARM
    before.counts["x"].append(3)
    before.head.weight.data.fill_(5)
    through(before, after)
    assert after.mode is Mode.WARM
    assert after.counts == {"x": [3]}
    assert after.counts["new"] == []
    assert isinstance(after.head.weight, torch.nn.Parameter)
    assert after.head.weight.tolist() == [[5, 5]]
    assert Mode.COLD.value == 1


def test_an_object_that_comes_later_cannot_be_put_back_and_is_named() -> None:
    before, after = Outer(), Outer()
    after.inner = None  # type: ignore[assignment]
    tensors: Tensors = {}
    taken = take(before, tensors, "strategy")
    with pytest.raises(RunError, match=r"checkpoint: strategy\.inner was an object, and is none before the first"):
        put_back(taken, tensors, after, "strategy")


def test_arrays_in_any_order() -> None:
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = through([array, torch.arange(6).reshape(2, 3).T])
    assert np.array_equal(found[0], array)
    assert found[1].tolist() == [[0, 3], [1, 4], [2, 5]]


class Empty:
    pass


def test_an_object_without_attributes() -> None:
    empty = Empty()
    assert through(Empty(), empty) is empty


class Point(NamedTuple):
    x: int


def test_a_named_tuple_comes_back_plain() -> None:
    assert type(through(Point(1))) is tuple


OPAQUE = [object(), open, iter([1]), Outer(), len, Mode.COLD, Counter(), np.array(["text"]), np.array([None])]


@pytest.mark.parametrize("value", OPAQUE, ids=lambda value: type(value).__name__)
def test_what_cannot_be_taken_is_named(value: Any) -> None:
    with pytest.raises(RunError, match=r"checkpoint: it\.1 is a .*, which cannot be saved"):
        through([0, value])
