"""Numbers as whole words: their sums are those that fsum gives, whatever the numbers are."""

import math
import random

import numpy as np
import pytest

from fl_bench.masking.words import FLOAT, Numbers, from_words, to_words
from fl_bench.metrics import Mean


def summed(values: list[float]) -> float:
    return from_words([sum(column) for column in zip(*map(to_words, values), strict=True)])


def test_sums_are_exact() -> None:
    draw = random.Random(1)
    for _ in range(300):
        values = [draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300) for _ in range(draw.randint(1, 9))]
        assert summed(values) == math.fsum(values)
    assert summed([1e308, 1.0, -1e308]) == 1.0
    assert summed([5e-324, 5e-324]) == 1e-323
    assert summed([0.1] * 10) == 1.0
    assert all(abs(word) < 2**32 for word in to_words(-1.7976931348623157e308))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([math.inf, 1.0], math.inf), ([-math.inf, 1.0], -math.inf), ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan), ([1.7e308, 1.7e308], math.inf), ([-1.7e308, -1.7e308], -math.inf),
    ],
)  # fmt: skip
def test_what_is_no_number_stays_none(values: list[float], wanted: float) -> None:
    assert repr(summed(values)) == repr(wanted)


def test_numbers_of_a_turn_come_back_as_a_sum() -> None:
    parts = [
        Numbers(3, 4, {"loss": Mean(0.1, 3), "accuracy": Mean(2.0, 3)}, {"bit": Mean(3.0, 3)}),
        Numbers(5, 6, {"loss": Mean(0.2, 5), "accuracy": Mean(4.0, 5)}, {"bit": Mean(0.0, 5)}),
    ]
    words = np.sum([part.to_words() for part in parts], axis=0)
    assert len(words) == 2 + 3 * (1 + FLOAT)
    metrics = {"loss": Mean(0.30000000000000004, 8), "accuracy": Mean(6.0, 8)}
    assert Numbers.from_words(words, parts[0].names) == Numbers(8, 10, metrics, {"bit": Mean(3.0, 8)})
    assert Numbers.count(parts[0].names) == len(words)
