"""Masked sums: they are the sums, to the bit, and what a party sends says nothing of what it has."""

from collections.abc import Callable, Collection, Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from fl_bench.masking.party import Circle, Keys, Party, Unsafe, add_mask, unmask
from fl_bench.masking.shamir import PRIME, join, split

Words = NDArray[np.uint64]


class Sum:
    """Parties with numbers, and what each of them sends."""

    def __init__(self, numbers: Sequence[Words], threshold: int, attempt: str = "1") -> None:
        self.parties = [Party(f"p{k}", bytes([k] * 32), attempt) for k in range(len(numbers))]
        self.circle = Circle(attempt, threshold, {party.name: party.keys for party in self.parties})
        self.sealed = {party.name: party.shares(self.circle) for party in self.parties}
        self.sent = []
        for party, own in zip(self.parties, numbers, strict=True):
            self.sent.append(own.copy())
            party.mask(self.sent[-1], self.circle)

    def to(self, name: str) -> dict[str, bytes]:
        return {other: boxes[name] for other, boxes in self.sealed.items()}

    def of(self, dropped: Collection[int], silent: Collection[int] = ()) -> Words:
        """The sum of those who have not dropped out, by what those reveal who are not silent."""
        here = [k for k in range(len(self.parties)) if k not in dropped]
        names = [f"p{k}" for k in here]
        revealed = {
            f"p{k}": self.parties[k].reveal(self.circle, self.to(f"p{k}"), names) for k in here if k not in silent
        }
        total = sum((self.sent[k] for k in here), np.zeros_like(self.sent[0]))
        unmask(total, self.circle, names, revealed)
        return total


def numbers(parties: int, size: int = 50) -> list[Words]:
    draw = np.random.default_rng(3)
    return [draw.integers(-(2**62), 2**62, size).view(np.uint64) for _ in range(parties)]


@pytest.mark.parametrize(
    ("parties", "threshold", "dropped", "silent"),
    [
        (2, 2, (), ()), (3, 2, (), ()), (3, 2, (0,), ()), (5, 3, (), (1, 2)), (5, 3, (4,), (0,)), (5, 3, (0, 3), ()),
        (7, 4, (0, 1, 6), ()),
    ],
)  # fmt: skip
def test_the_sum_of_those_who_answer_is_exact(
    parties: int, threshold: int, dropped: Collection[int], silent: Collection[int]
) -> None:
    plain = numbers(parties)
    found = Sum(plain, threshold).of(dropped, silent)
    wanted = [
        sum(int(n) for k, n in enumerate(column) if k not in dropped) % 2**64 for column in zip(*plain, strict=True)
    ]
    assert found.tolist() == wanted


def test_too_few_give_no_sum() -> None:
    with pytest.raises(Unsafe, match="2 parties are too few for a sum of 5"):
        Sum(numbers(5), 3).of((0, 1, 2))
    with pytest.raises(Unsafe, match="only 2 of 5 parties have revealed their shares"):
        Sum(numbers(5), 3).of((), (0, 1, 2))


def test_what_is_sent_looks_random_whatever_it_is() -> None:
    """Of zeros, of ones, and of the same numbers by everybody: bytes are uniform, and nothing correlates."""
    size = 20_000
    rising = np.arange(size, dtype=np.uint64) << np.uint64(40)
    for plain in (np.zeros(size, np.uint64), np.ones(size, np.uint64), rising):
        sent = Sum([plain] * 3, 2).sent
        for words in (*sent, sent[0] + sent[1], sent[0] - sent[1]):  # two of three leave a mask with the third
            counts = np.bincount(words.view(np.uint8), minlength=256)
            expected = 8 * size / 256
            assert ((counts - expected) ** 2 / expected).sum() < 377  # chi-square with 255 degrees: p = 1e-6
            top = (words >> np.uint64(40)).astype(np.float64)
            if plain.std():
                assert abs(np.corrcoef(top, plain.astype(np.float64))[0, 1]) < 5 / size**0.5
    assert len({words.tobytes() for words in sent}) == 3


def test_two_attempts_have_nothing_in_common() -> None:
    plain = numbers(3)
    first, second = Sum(plain, 2, "1"), Sum(plain, 2, "2")
    assert first.circle.members != second.circle.members
    assert not any((a == b).any() for a, b in zip(first.sent, second.sent, strict=True))


def test_a_mask_is_the_stream_of_chacha20() -> None:
    words = np.zeros(2, np.uint64)
    add_mask(words, bytes(32), 1)
    assert words.tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"  # RFC 8439, appendix A.1, test vector 1
    add_mask(words, bytes(32), -1)
    assert not words.any()


def _stranger(made: Sum) -> None:
    members = {**made.circle.members, "p0": Party("p0", bytes(32), "other").keys}
    made.parties[0].shares(Circle("1", 2, members))


def _half(made: Sum) -> None:
    made.parties[0].shares(Circle("1", 1, made.circle.members))


def _changed(made: Sum) -> None:
    sealed = made.to("p0")
    made.parties[0].reveal(made.circle, {**sealed, "p1": sealed["p1"][:-1] + b"?"}, ["p0", "p1", "p2"])


def _crossed(made: Sum) -> None:
    made.parties[0].reveal(made.circle, made.to("p1"), ["p0", "p1", "p2"])


def _lied(made: Sum) -> None:
    here = ["p0", "p1"]
    told = {name: made.parties[int(name[1])].reveal(made.circle, made.to(name), here) for name in here}
    unmask(made.sent[0] + made.sent[1], made.circle, here, {**told, "p1": {**told["p1"], "p2": 7}})


@pytest.mark.parametrize(
    ("do", "why"),
    [
        (_stranger, "the keys that are said to be its own are others"),
        (_half, "a threshold of 1 of 3 parties is not more than half"),
        (_changed, "the shares of p1 are not as it has made them"),
        (_crossed, "the shares of p0 are not as it has made them"),
        (_lied, "the shares of p2 do not make its key"),
    ],
)
def test_what_cannot_be_is_refused(do: Callable[[Sum], None], why: str) -> None:
    with pytest.raises(Unsafe, match=why):
        do(Sum(numbers(3), 2))


def test_any_shares_so_many_as_the_threshold_give_the_secret() -> None:
    shares = dict(enumerate(split([1234, 166, 94], 6), start=1))
    assert shares == {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414, 6: 5614}  # 1234 + 166 x + 94 x^2, by hand
    for places in combinations(shares, 3):
        assert join({place: shares[place] for place in places}) == 1234
    assert join({1: 1494, 2: 1942}) != 1234
    large = [PRIME - 1, PRIME - 2]
    assert join(dict(enumerate(split(large, 3)[1:], start=2))) == PRIME - 1


def test_keys_are_of_x25519() -> None:
    assert {len(key) for key in (Party("a", bytes(32), "1").keys.seal, Party("a", bytes(32), "1").keys.pairs)} == {32}
    assert isinstance(Party("a", bytes(32), "1").keys, Keys)
