"""Exact secure aggregation: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", figure 4. The numbers are whole, and masks are added modulo 2**64, so that the sum is the sum, to the bit.

A party adds to its numbers a mask of its own, and for each other party one that this other subtracts. What remains in
the sum are the parties' own masks, and those of pairs of which one has dropped out. They are taken away with secrets
that every party has given to all in shares: of one who has answered its own mask's, of one who has not the key of its
masks with others, and never both.

X25519, HKDF-SHA256, ChaCha20 and ChaCha20-Poly1305 are those of `cryptography`.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as formats
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fl_bench.masking.shamir import PRIME, join, split

Words = NDArray[np.uint64]  # which wrap around

BLOCK = 2**16  # words
SHARE = 32  # bytes
OWN, PAIRS = 0, 1  # the two secrets of a party: of its own mask, and of those with others


class Unsafe(Exception):
    """What is asked of a party would let somebody see its numbers, or it is not of this party's making."""


@dataclass(frozen=True)
class Keys:
    """The public keys of a party for one round, 32 bytes each."""

    seal: bytes  # with which shares for it are encrypted
    pairs: bytes  # from which it makes masks with others


@dataclass(frozen=True)
class Circle:
    """The parties who add up their numbers, in order. `attempt` is a name that no other sum has."""

    attempt: str
    threshold: int  # of them must answer
    members: Mapping[str, Keys]

    def place(self, name: str) -> int:
        """That of a party's shares; from 1."""
        return list(self.members).index(name) + 1

    @property
    def digest(self) -> str:
        parts = [
            f"{self.attempt} {self.threshold}",
            *(f"{n} {k.seal.hex()} {k.pairs.hex()}" for n, k in self.members.items()),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Party:
    """A party of this name; all that it keeps secret in this attempt follows from `secret`, 32 bytes."""

    def __init__(self, name: str, secret: bytes, attempt: str) -> None:
        self.name, self.attempt = name, attempt
        root = derive(secret, f"party {name} {attempt}")
        self._seal = X25519PrivateKey.from_private_bytes(derive(root, "seal"))
        self._secrets = tuple(_numbers(derive(root, purpose), 1)[0] for purpose in ("own", "pairs"))
        self._polynomials = derive(root, "polynomials")
        self._pairs = X25519PrivateKey.from_private_bytes(_bytes(self._secrets[PAIRS]))

    @property
    def keys(self) -> Keys:
        return Keys(public(self._seal), public(self._pairs))

    def shares(self, circle: Circle) -> dict[str, bytes]:
        """For each party, itself too, its shares of both secrets, which it alone can read. Raises Unsafe."""
        self._suit(circle)
        count, more = len(circle.members), circle.threshold - 1
        drawn = _numbers(self._polynomials, 2 * more)
        own, pairs = (
            split([secret, *drawn[which * more : (which + 1) * more]], count)
            for which, secret in enumerate(self._secrets)
        )
        mine, sealed = circle.place(self.name), {}
        for place, (name, keys) in enumerate(circle.members.items(), start=1):
            both = _bytes(own[place - 1]) + _bytes(pairs[place - 1])
            sealed[name] = self._box(circle, keys).encrypt(_nonce(mine, place), both, None)
        return sealed

    def mask(self, words: Words, circle: Circle) -> None:
        """Add to these words all masks of this party. Raises Unsafe."""
        self._suit(circle)
        add_mask(words, _bytes(self._secrets[OWN]), 1)
        mine = circle.place(self.name)
        for place, keys in enumerate(circle.members.values(), start=1):
            if place != mine:
                add_mask(words, pair_key(self._pairs, keys.pairs), 1 if mine < place else -1)

    def reveal(self, circle: Circle, sealed: Mapping[str, bytes], survivors: Collection[str]) -> dict[str, int]:
        """Of each party the share that the sum of the survivors needs, from those that all have `sealed` for this one.

        Raises Unsafe. Who calls this does so for one set of survivors only: with both shares of a party its numbers
        could be read.
        """
        self._suit(circle)
        if not (set(survivors) <= circle.members.keys() and len(survivors) >= circle.threshold):
            raise Unsafe(f"{len(survivors)} parties are too few for a sum of {len(circle.members)}")
        mine, revealed = circle.place(self.name), {}
        for name, keys in circle.members.items():
            try:
                opened = self._box(circle, keys).decrypt(_nonce(circle.place(name), mine), sealed[name], None)
            except (InvalidTag, KeyError) as error:
                raise Unsafe(f"the shares of {name} are not as it has made them") from error
            which = OWN if name in survivors else PAIRS
            revealed[name] = int.from_bytes(opened[which * SHARE : (which + 1) * SHARE], "little")
        return revealed

    def _suit(self, circle: Circle) -> None:
        if circle.attempt != self.attempt or circle.members.get(self.name) != self.keys:
            raise Unsafe("the keys that are said to be its own are others")
        if not len(circle.members) / 2 < circle.threshold <= len(circle.members) or circle.threshold < 2:
            raise Unsafe(f"a threshold of {circle.threshold} of {len(circle.members)} parties is not more than half")

    def _box(self, circle: Circle, keys: Keys) -> ChaCha20Poly1305:
        """What two parties encrypt with."""
        shared = self._seal.exchange(X25519PublicKey.from_public_bytes(keys.seal))
        return ChaCha20Poly1305(derive(shared, f"shares {circle.digest}"))


def unmask(words: Words, circle: Circle, survivors: Sequence[str], revealed: Mapping[str, Mapping[str, int]]) -> None:
    """Take all masks from `words`, the sum of what the survivors have sent, with what parties have revealed, by name.

    Raises Unsafe where they are too few, or have not told the truth.
    """
    if len(revealed) < circle.threshold:
        raise Unsafe(f"only {len(revealed)} of {len(circle.members)} parties have revealed their shares")
    places = {name: circle.place(name) for name in circle.members}
    for name, keys in circle.members.items():
        told = list(revealed.items())[: circle.threshold]
        secret = _bytes(join({places[who]: shares[name] for who, shares in told}))
        if name in survivors:
            add_mask(words, secret, -1)
            continue
        key = X25519PrivateKey.from_private_bytes(secret)
        if public(key) != keys.pairs:
            raise Unsafe(f"the shares of {name} do not make its key")
        for survivor in survivors:
            sign = 1 if places[survivor] < places[name] else -1
            add_mask(words, pair_key(key, circle.members[survivor].pairs), -sign)


def add_mask(words: Words, key: bytes, sign: int) -> None:
    """Add the ChaCha20 stream of this key to the words, or with sign -1 subtract it."""
    stream, zeros = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor(), bytes(8 * BLOCK)
    for start in range(0, len(words), BLOCK):
        piece = words[start : start + BLOCK]
        mask = np.frombuffer(stream.update(zeros[: 8 * len(piece)]), "<u8")
        if sign > 0:
            piece += mask
        else:
            piece -= mask


def pair_key(key: X25519PrivateKey, other: bytes) -> bytes:
    """What two parties make their common mask of."""
    return derive(key.exchange(X25519PublicKey.from_public_bytes(other)), "mask")


def derive(secret: bytes, purpose: str) -> bytes:
    """32 bytes for this purpose."""
    return HKDF(hashes.SHA256(), 32, None, f"fl-bench masks 1 {purpose}".encode()).derive(secret)


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(formats.Encoding.Raw, formats.PublicFormat.Raw)


def _numbers(key: bytes, count: int) -> list[int]:
    """Random numbers below PRIME; of 48 bytes each, so that none is likelier than another."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(48 * count))
    return [int.from_bytes(stream[start : start + 48], "little") % PRIME for start in range(0, len(stream), 48)]


def _bytes(number: int) -> bytes:
    return number.to_bytes(SHARE, "little")


def _nonce(sender: int, receiver: int) -> bytes:
    """What two parties encrypt to each other under one key has two nonces."""
    return sender.to_bytes(6, "little") + receiver.to_bytes(6, "little")
