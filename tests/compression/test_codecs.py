"""Each codec by what it promises: its bytes, its largest error, its mean, and small cases by hand."""

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import pytest

from fl_bench.compression.base import Codec, Link, part
from fl_bench.compression.fp16 import Half
from fl_bench.compression.importance import Agreeing, Long, Rewarded, importance
from fl_bench.compression.lowrank import LowRank
from fl_bench.compression.quantize import Quantize
from fl_bench.compression.sketch import Sketch, hadamard, powers_of_two
from fl_bench.compression.sparse import RandomMask, TopK

Shapes = Mapping[str, tuple[int, ...]]
SHAPES: Shapes = {"conv": (6, 3, 5, 5), "bias": (6,), "none": (0,), "dense": (40, 30), "one": (1,)}
P = sum(map(prod, SHAPES.values()))  # 1657


def link(seed: int = 0, shapes: Shapes | None = None) -> Link:
    def draw(purpose: str) -> np.random.Generator:
        return np.random.default_rng([seed, *purpose.encode()])

    return Link(SHAPES if shapes is None else shapes, draw)


def update(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(P).astype(np.float32) * np.float32(0.01)


def there_and_back(codec: Codec, vector: np.ndarray, seed: int = 0, shapes: Shapes | None = None) -> np.ndarray:
    """Through bytes, with a link of its own at each end."""
    data = codec.encode(vector, link(seed, shapes))
    assert isinstance(data, bytes)
    assert len(data) == codec.num_bytes(link(seed, shapes))
    decoded = codec.decode(data, link(seed, shapes))
    assert (decoded.dtype, decoded.shape) == (np.dtype(np.float32), vector.shape)
    return decoded


BYTES = [  # by hand, for 1657 numbers in four tensors that are not empty
    (Codec(), 1657 * 4),
    (Half(), 1657 * 2),
    (Quantize(8, None), 1657 + 4 * 4),
    (Quantize(16, None), 1657 * 2 + 4 * 4),
    (Quantize(1, None), 208 + 4 * 4),  # 1657 / 8 = 207.1
    (Quantize(3, 100), 622 + 17 * 4),  # 1657 * 3 / 8 = 621.4; 17 blocks
    (TopK(0.01, True), 17 * 4 + 24),  # 17 indices of 11 bits are 187 bits, 23.4 bytes
    (TopK(0.5, True), 829 * 4 + 208),  # a bit for every number is shorter
    (RandomMask(0.1, False), 166 * 4),
    (Sketch(1, 4), 829 + 7 * 4),  # 1657 = 1024 + 512 + 64 + 32 + 16 + 8 + 1: seven powers
    (LowRank(2, True), 4 * (2 * (6 + 75) + 6 + 2 * (40 + 30) + 1)),
    (Rewarded(0.01), 17 * 4 + 24),
]


@pytest.mark.parametrize(("codec", "expected"), BYTES, ids=lambda value: type(value).__name__)
def test_bytes_by_hand(codec: Codec, expected: int) -> None:
    assert codec.num_bytes(link()) == expected
    there_and_back(codec, update())


@pytest.mark.parametrize("codec", [codec for codec, _ in BYTES], ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize("vector", [np.zeros(P, np.float32), np.full(P, 1e-30, np.float32)], ids=["zeros", "tiny"])
def test_degenerate_updates(codec: Codec, vector: np.ndarray) -> None:
    decoded = there_and_back(codec, vector)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= 1e-28
    if not vector.any():
        assert not decoded.any()


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("block", [None, 64])
def test_quantize_is_within_one_level(bits: int, block: int | None) -> None:
    vector, start = update(), 0
    decoded = there_and_back(Quantize(bits, block), vector)
    sizes = [450, 6, 1200, 1] if block is None else [64] * 25 + [57]
    for size in sizes:
        mine = vector[start : start + size]
        step = 2 * np.abs(mine).max() / (2**bits - 2 if bits > 1 else 1)
        assert np.abs(decoded[start : start + size] - mine).max() <= step * (1 + 1e-6)
        start += size


def test_quantize_by_hand() -> None:
    # two bits: levels -4, 0, 4; what lies on one stays there, and 1 becomes 0 or 4
    vector, shapes = np.array([4, -4, 0, 1], np.float32), {"x": (4,)}
    seen = [there_and_back(Quantize(2, None), vector, seed, shapes).tolist() for seed in range(400)]
    assert all(found[:3] == [4, -4, 0] and found[3] in (0, 4) for found in seen)
    assert np.mean([found[3] for found in seen]) == pytest.approx(1, abs=0.35)  # 4 deviations of the mean


UNBIASED = [
    Quantize(1, None), Quantize(2, 64), Quantize(4, None), RandomMask(0.1, False), RandomMask(0.5, False),
    Sketch(0.3, 3), Sketch(1, 1),
]  # fmt: skip


@pytest.mark.parametrize("codec", UNBIASED, ids=lambda codec: f"{type(codec).__name__}-{list(vars(codec).values())}")
def test_the_mean_of_many_encodings_is_the_update(codec: Codec) -> None:
    vector, times = update(), 1000
    many = np.stack([there_and_back(codec, vector, seed) for seed in range(times)]).astype(np.float64)
    off, deviation = many.mean(axis=0) - vector, many.std(axis=0).max() / np.sqrt(times)
    assert np.abs(off).max() < 6 * deviation
    assert abs(off.mean()) < 5 * deviation / np.sqrt(P)
    assert abs(off @ vector) < 5 * deviation * np.linalg.norm(vector)  # neither too short nor too long


@pytest.mark.parametrize("codec", [TopK(1, True), RandomMask(1, False), RandomMask(1, True), Rewarded(1)])
def test_all_of_it_is_the_update(codec: Codec) -> None:
    assert np.array_equal(there_and_back(codec, update()), update())


def test_half_precision() -> None:
    vector = np.array([1 + 2**-11, -3.0, 1e6, -1e6, 2**-25, 0], np.float32)
    decoded = there_and_back(Half(), vector, shapes={"x": (6,)})
    assert decoded.tolist() == [1.0, -3.0, 65504.0, -65504.0, 0.0, 0.0]


def test_topk_by_hand() -> None:
    vector = np.array([1, -5, 0, 3, -2], np.float32)
    assert there_and_back(TopK(0.4, True), vector, shapes={"x": (5,)}).tolist() == [0, -5, 0, 3, 0]


def test_a_mask_without_feedback_is_scaled_up() -> None:
    vector = np.arange(1, 101, dtype=np.float32)
    for feedback, factor in ((False, 4), (True, 1)):
        decoded = there_and_back(RandomMask(0.25, feedback), vector, shapes={"x": (100,)})
        assert np.count_nonzero(decoded) == 25
        assert np.array_equal(decoded[decoded > 0], factor * vector[decoded > 0])


def test_hadamard_is_the_matrix() -> None:
    assert hadamard(np.array([1.0, 2, 3, 4])).tolist() == [5, -1, -2, 0]  # the rows ++++, +-+-, ++--, +--+, halved
    vector = np.random.default_rng(0).standard_normal(256)
    assert np.allclose(hadamard(hadamard(vector)), vector)
    assert np.linalg.norm(hadamard(vector)) == pytest.approx(np.linalg.norm(vector))
    assert powers_of_two(13).tolist() == [8, 4, 1]


def test_a_sketch_spreads_what_is_large() -> None:
    """One large number among small ones: with few levels a rotation loses less."""
    vector = np.full(1024, 0.01, np.float32)
    vector[7] = 1
    shapes = {"x": (1024,)}
    errors = [
        np.linalg.norm(there_and_back(codec, vector, 1, shapes) - vector) for codec in (Sketch(1, 4), Quantize(4, None))
    ]
    assert errors[0] < errors[1] / 2


def test_low_rank_matrices_arrive() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.standard_normal((40, 2)), generator.standard_normal((2, 30))
    vector, shapes = (left @ right).ravel().astype(np.float32), {"x": (40, 30)}
    assert np.allclose(there_and_back(LowRank(2, True), vector, shapes=shapes), vector, atol=1e-5)
    assert not np.allclose(there_and_back(LowRank(1, True), vector, shapes=shapes), vector, atol=0.1)


def test_cmfl_by_hand() -> None:
    codec, ends = Agreeing(0.75), link()
    ends.received = np.array([1, 1, 1, 1], np.float32)
    assert codec.matters(np.array([1, 1, 1, 1], np.float32), ends)  # nothing to compare with
    ends.received = np.array([2, 0, 2, 1], np.float32)  # the model has moved by +1, -1, +1, 0
    assert codec.matters(np.array([5, -2, -1, 0], np.float32), ends)  # three of four
    ends.received = np.array([3, -1, 3, 1], np.float32)
    assert not codec.matters(np.array([5, 2, -1, 0], np.float32), ends)  # two of four
    assert codec.matters(np.array([5, 2, -1, 0], np.float32), ends)  # the model has not moved: nobody has sent


def test_gradient_norm_by_hand() -> None:
    codec, ends = Long(0.9), link()
    assert codec.matters(np.array([3, 4], np.float32), ends)  # 5; the mean is 5
    assert not codec.matters(np.array([0, 4], np.float32), ends)  # 4 < 4.5; the mean is 4.5
    assert codec.matters(np.array([0, 4.1], np.float32), ends)  # 4.1 >= 4.05


def test_esgd_rewards_what_was_sent_when_the_loss_has_fallen() -> None:
    codec, ends = Rewarded(0.5), link(0, {"x": (4,)})
    ends.loss = 2.0
    first = codec.choose(np.ones(4, np.float32), ends)
    ends.loss = 1.0
    codec.choose(np.ones(4, np.float32), ends)
    assert ends.memory["weights"].tolist() == [1 + (k in first) for k in range(4)]
    weights = ends.memory["weights"]
    ends.loss = 1.5
    codec.choose(np.ones(4, np.float32), ends)
    assert ends.memory["weights"].tolist() == weights.tolist()


@pytest.mark.parametrize(("weights", "vector"), [((3, 1), (1, -1)), ((1, 1), (-3, 1)), ((6, 1), (1, 2))])
def test_esgd_draws_by_weight_and_magnitude(weights: tuple[int, int], vector: tuple[int, int]) -> None:
    """One of two with odds of 3 to 1: the first in three of four draws."""
    codec, count = Rewarded(0.5), 0
    for seed in range(1000):
        ends = link(seed, {"x": (2,)})
        ends.memory = {"weights": np.array(weights, np.float32)}
        count += int(codec.choose(np.array(vector, np.float32), ends)[0] == 0)
    assert count / 1000 == pytest.approx(0.75, abs=0.055)  # 4 deviations


def test_a_part_is_rounded_up_but_not_by_the_error_of_floats() -> None:
    assert [part(0.1, 30), part(0.01, 1657), part(1e-6, 5), part(1, 7)] == [3, 17, 1, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantize(0, None), "bits=0: must be from 1 to 16"),
        (lambda: Quantize(17, None), "bits=17"),
        (lambda: Quantize(8, 0), "block=0"),
        (lambda: TopK(0, True), "fraction=0: must be more than 0"),
        (lambda: RandomMask(1.1, True), "fraction=1.1"),
        (lambda: Sketch(0.5, 20), "bits=20"),
        (lambda: LowRank(0, True), "rank=0"),
        (lambda: importance("cmf", 0.5, 0.5, 0.5), "rule=cmf: must be one of cmfl, gradient_norm, esgd"),
        (lambda: importance("cmfl", 2, 0.5, 0.5), "threshold=2"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Codec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
