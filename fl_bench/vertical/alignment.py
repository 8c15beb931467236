"""Which rows two parties have both, without telling each other the others: private set intersection.

Each raises the ids to a secret power that the other does not know; powers commute, so that equal ids stay equal when
both have done so (Huberman, Franklin and Hogg 1999, "Enhancing privacy and trust in electronic communities",
section 4; after Meadows 1986). The group is Curve25519, its X25519 function the power (RFC 7748), and an id's point is
its SHA-256. This is for parties who are curious but follow the protocol: each learns how many ids the other has, and
which of its own are common.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

POINT_BYTES = 32
PLACE_BYTES = 4  # of a row's number among those that a party has sent


class Side:
    """One of the two: its ids, and its secret of 32 bytes, which makes the numbers that it sends."""

    def __init__(self, ids: Sequence[bytes], secret: bytes) -> None:
        self._ids = ids
        self._secret = X25519PrivateKey.from_private_bytes(secret)

    def blinded(self) -> list[bytes]:
        """Its own ids, to the power of its secret."""
        return self.raised(hashlib.sha256(name).digest() for name in self._ids)

    def raised(self, points: Iterable[bytes]) -> list[bytes]:
        """The points of the other, to the power of its secret too."""
        return [self._secret.exchange(X25519PublicKey.from_public_bytes(point)) for point in points]


class Match(NamedTuple):
    """What two sides find: places of the common ids in each one's list, int64 [N], and the bytes that it took."""

    ours: NDArray[np.int64]  # rising
    theirs: NDArray[np.int64]  # of the same ids
    bytes_up: int  # from the other side to ours
    bytes_down: int


def intersect(ours: Side, theirs: Side) -> Match:
    """The ids that both have; the ids of a side are different from each other.

    Examples:
        >>> Match = intersect(Side([b"a", b"b", b"c"], bytes(31) + b"1"), Side([b"c", b"x", b"a"], bytes(31) + b"2"))
        >>> Match.ours.tolist(), Match.theirs.tolist(), Match.bytes_up, Match.bytes_down
        ([0, 2], [2, 0], 104, 192)
    """
    up, down = theirs.blinded(), ours.blinded()
    back = ours.raised(up)  # in the order in which they came: the other side compares
    place = {point: number for number, point in enumerate(theirs.raised(down))}
    found = sorted((place[point], number) for number, point in enumerate(back) if point in place)
    pairs = np.array(found, np.int64).reshape(-1, 2)
    told = PLACE_BYTES * len(found)  # which of ours are common
    return Match(pairs[:, 0], pairs[:, 1], POINT_BYTES * len(up) + told, POINT_BYTES * (len(down) + len(back)))
