"""The sum is exact: the same bits in any order and grouping, and close to float64."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from fl_bench.federation.update import ExactMean, Update

WEIGHTS = [360, 1, 77, 4096, 13, 500]


def updates(scale: float, size: int = 2000) -> tuple[ExactMean, list[Update]]:
    rng = np.random.default_rng(0)
    start = rng.normal(size=size).astype(np.float32)
    models = [(start + rng.normal(scale=scale, size=size)).astype(np.float32) for _ in WEIGHTS]
    return ExactMean(start, sum(WEIGHTS)), [Update(m, w) for m, w in zip(models, WEIGHTS, strict=True)]


def total(exact: ExactMean, parts: list[Update]) -> Update:
    result: Update | None = None
    for part in parts:
        result = exact.add(result, part)
    assert result is not None
    return result


def test_the_hand_computed_mean_of_three_numbers() -> None:
    # weights 1 and 3: (1 * 0 + 3 * 4) / 4 = 3, (1 * 2 + 3 * 2) / 4 = 2, (1 * 9 + 3 * 1) / 4 = 3
    exact = ExactMean(np.array([1, 2, 3], dtype=np.float32), 4)
    parts = [Update(np.array([0, 2, 9], dtype=np.float32), 1), Update(np.array([4, 2, 1], dtype=np.float32), 3)]
    merged = total(exact, parts)
    assert merged.weight == 4
    assert exact.mean(merged).tolist() == [3.0, 2.0, 3.0]


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_order_and_grouping_do_not_change_a_bit(scale: float) -> None:
    exact, parts = updates(scale)
    expected = exact.mean(total(exact, parts))
    for order in itertools.islice(itertools.permutations(parts), 0, 720, 37):
        for cut in range(1, 6):
            left, right = total(exact, list(order[:cut])), total(exact, list(order[cut:]))
            assert (exact.mean(exact.add(left, right)) == expected).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_the_error_against_float64_is_far_below_the_largest_update(
    scale: float, record_property: Callable[[str, object], None]
) -> None:
    exact, parts = updates(scale)
    merged = total(exact, parts)
    start = exact.start.astype(np.float64)
    ours = merged.values / (merged.weight * exact.scale)  # before it is rounded to float32
    truth = sum(p.weight * (p.values.astype(np.float64) - start) for p in parts) / sum(WEIGHTS)
    largest = max(np.abs(p.values - exact.start).max() for p in parts)
    error = np.abs(ours - truth).max() / largest
    record_property("relative_error", float(error))
    assert error < 1e-6
    assert np.abs(exact.mean(merged) - (start + truth)).max() <= np.spacing(np.float32(np.abs(start + truth).max()))


def test_one_client_is_its_own_mean_to_the_bit() -> None:
    tiny = np.array([1e-30, 3.14159274, -0.0], dtype=np.float32)
    exact = ExactMean(np.ones(3, dtype=np.float32), 7)
    assert exact.mean(total(exact, [Update(tiny, 7)])).tobytes() == tiny.tobytes()
