"""A part of the numbers instead of all: the largest (with their indices), or random ones that both ends can name."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from fl_bench.compression.base import FLOAT_BYTES, Codec, Link, Vector, check_fraction, part
from fl_bench.compression.packing import pack, packed_bytes, unpack

Indices = NDArray[np.int64]


class Part(Codec):
    """A `fraction` of the numbers. What is not sent is lost, or with `feedback` kept for the next time."""

    lossless = False

    def __init__(self, fraction: float, feedback: bool) -> None:
        check_fraction(fraction)
        self.fraction, self.feedback = fraction, feedback


class Sparse(Part, ABC):
    """Values of some indices and the indices, in the shorter of two forms: one by one, or a bit for every number."""

    @abstractmethod
    def choose(self, vector: Vector, link: Link) -> Indices:
        """The part(fraction, P) indices that are sent, rising."""

    def encode(self, vector: Vector, link: Link) -> bytes:
        chosen = self.choose(vector, link)
        if bits := _index_bits(len(chosen), link.size):
            where = pack(chosen.astype(np.uint32), bits)
        else:
            flags = np.zeros(link.size, np.bool_)
            flags[chosen] = True
            where = np.packbits(flags).tobytes()
        return vector[chosen].tobytes() + where

    def decode(self, data: bytes, link: Link) -> Vector:
        count = part(self.fraction, link.size)
        values, where = np.frombuffer(data, np.float32, count), data[FLOAT_BYTES * count :]
        if bits := _index_bits(count, link.size):
            chosen: NDArray[np.integer] = unpack(where, count, bits)
        else:
            chosen = np.flatnonzero(np.unpackbits(np.frombuffer(where, np.uint8), count=link.size))
        vector = np.zeros(link.size, np.float32)
        vector[chosen] = values
        return vector

    def num_bytes(self, link: Link) -> int:
        count = part(self.fraction, link.size)
        bits = _index_bits(count, link.size)
        return FLOAT_BYTES * count + (packed_bytes(count, bits) if bits else packed_bytes(link.size, 1))


class TopK(Sparse):
    """The largest of the whole vector.

    Aji and Heafield 2017, arXiv:1704.05021; Stich et al. 2018, "Sparsified SGD with Memory", arXiv:1809.07599.
    """

    def choose(self, vector: Vector, link: Link) -> Indices:
        return largest(np.abs(vector), part(self.fraction, link.size))


class RandomMask(Part):
    """Random indices, anew for each client and round, from the seed, so that only values travel (Konecny et al. 2016).

    The paper's clients train within the mask; here it is laid over the update of any training. Without `feedback`
    values are divided by the fraction, so that they are right on average; with it, they are as they are.
    """

    random = True

    def encode(self, vector: Vector, link: Link) -> bytes:
        return vector[self._mask(link)].tobytes()

    def decode(self, data: bytes, link: Link) -> Vector:
        mask = self._mask(link)
        vector = np.zeros(link.size, np.float32)
        vector[mask] = np.frombuffer(data, np.float32) * np.float32(1 if self.feedback else link.size / len(mask))
        return vector

    def num_bytes(self, link: Link) -> int:
        return FLOAT_BYTES * part(self.fraction, link.size)

    def _mask(self, link: Link) -> Indices:
        return random_indices(link.size, part(self.fraction, link.size), link.draw("mask"))


def largest(values: NDArray, count: int) -> Indices:
    """The indices of the `count` largest values, rising."""
    return np.sort(np.argpartition(values, len(values) - count)[len(values) - count :])


def random_indices(size: int, count: int, generator: np.random.Generator) -> Indices:
    """`count` of `size` indices, rising."""
    return np.sort(generator.choice(size, count, replace=False, shuffle=False))


def _index_bits(count: int, size: int) -> int:
    """Bits of an index where indices one by one are shorter than a bit for every number; otherwise 0."""
    bits = max(1, (size - 1).bit_length())
    return bits if count * bits < size else 0
