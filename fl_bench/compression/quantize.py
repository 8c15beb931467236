"""Stochastic quantisation, right on average: Alistarh et al. 2017, "QSGD", arXiv:1610.02132.

As in the paper's experiments numbers are scaled by the largest of their block; each becomes one of the two levels next
to it, with the odds that make its expectation the number itself.
"""

import numpy as np
from numpy.typing import NDArray

from fl_bench.compression.base import FLOAT_BYTES, Codec, Link, Vector
from fl_bench.compression.packing import pack, packed_bytes, unpack

Sizes = NDArray[np.int64]


class Quantize(Codec):
    """`bits` for each number, and a float32 for each tensor, or each `block` numbers: the largest magnitude there.

    Off by less than the distance of two levels, which is that magnitude over 2**(bits - 1) - 1. Of one bit it is
    twice the magnitude, and there is no level for zero.
    """

    lossless = False
    random = True

    def __init__(self, bits: int, block: int | None) -> None:
        check_bits(bits)
        if block is not None and block < 1:
            raise ValueError(f"block={block}: must be 1 or more, or null for a scale per tensor")
        self.bits, self.block = bits, block

    def encode(self, vector: Vector, link: Link) -> bytes:
        return encode(vector, self._sizes(link), self.bits, link.draw("rounding"))

    def decode(self, data: bytes, link: Link) -> Vector:
        return decode(data, self._sizes(link), self.bits)

    def num_bytes(self, link: Link) -> int:
        return num_bytes(self._sizes(link), self.bits)

    def _sizes(self, link: Link) -> Sizes:
        if self.block is None:
            return link.sizes
        return np.diff(np.append(np.arange(0, link.size, self.block), link.size))


def check_bits(bits: int) -> None:
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits}: must be from 1 to 16")


def top_level(bits: int) -> int:
    """The levels are 0 to this, for -scale to +scale; an even number of steps, so that zero is one of them."""
    return 2**bits - 2 if bits > 1 else 1


def encode(vector: Vector, sizes: Sizes, bits: int, generator: np.random.Generator) -> bytes:
    """The scales of blocks of these `sizes`, then the levels."""
    scales = np.maximum.reduceat(np.abs(vector), np.cumsum(sizes) - sizes)
    divisors = np.repeat(np.where(scales > 0, scales, 1), sizes)
    positions = (vector.astype(np.float64) / divisors + 1) * (top_level(bits) / 2)
    levels = np.minimum(np.floor(positions + generator.random(len(vector))), top_level(bits))
    return scales.tobytes() + pack(levels.astype(np.uint32), bits)


def decode(data: bytes, sizes: Sizes, bits: int) -> Vector:
    split = FLOAT_BYTES * len(sizes)
    scales = np.frombuffer(data[:split], np.float32)
    levels = unpack(data[split:], int(sizes.sum()), bits)
    return ((levels * (2 / top_level(bits)) - 1) * np.repeat(scales, sizes)).astype(np.float32)


def num_bytes(sizes: Sizes, bits: int) -> int:
    return FLOAT_BYTES * len(sizes) + packed_bytes(int(sizes.sum()), bits)
