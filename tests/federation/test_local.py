from collections.abc import Iterable, Mapping
from itertools import chain, count, islice
from typing import Any

import numpy as np
from torch import nn
from turns import make_turn

from fl_bench.data.arrays import batches
from fl_bench.strategies.turn import Turn

ROWS = np.arange(100, 110)


def collect(count: int) -> list[list[int]]:
    return [batch.tolist() for batch in islice(batches(ROWS, 4, np.random.default_rng(0)), count)]


def test_an_epoch_sees_every_row_once_and_keeps_the_short_batch() -> None:
    parts = collect(3)
    assert [len(part) for part in parts] == [4, 4, 2]
    assert sorted(chain(*parts)) == ROWS.tolist()


def test_epochs_are_shuffled_anew() -> None:
    parts = collect(6)
    first, second = list(chain(*parts[:3])), list(chain(*parts[3:]))
    assert sorted(first) == sorted(second)
    assert first != second


def numbers(**given: Any) -> Turn:
    local = {"epochs": 2, "steps": None} | given
    stream = lambda purpose: ({"x": k} for k in count(1000 * (purpose != "batches")))  # noqa: E731
    return make_turn(nn.Linear(1, 1), local=local, stream=stream, batches_per_epoch=3)


def seen(batches: Iterable[Mapping[str, Any]]) -> list[int]:
    return [batch["x"] for batch in batches]


def test_a_turn_has_local_epochs_of_batches_or_steps_where_they_are_set() -> None:
    assert seen(numbers().batches()) == list(range(6))
    assert seen(numbers(steps=5).batches()) == list(range(5))


def test_more_batches_go_on_where_the_last_ended_and_each_purpose_has_its_own() -> None:
    turn = numbers()
    assert seen(turn.batches(1)) == [0, 1, 2]
    assert turn.draw("other") == {"x": 1000}
    assert seen(turn.batches(1)) == [3, 4, 5]
    assert seen(turn.batches(1, "other")) == [1001, 1002, 1003]
