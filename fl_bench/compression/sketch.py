"""Sketched updates: Konecny et al. 2016, "Federated Learning: Strategies for Improving Communication Efficiency",
arXiv:1610.05492, section 3: random rotation, subsampling, quantisation.

A rotation spreads what is large over all numbers, so that few levels and few samples tell more of them. It is a
Hadamard transform after random signs; as that needs a power of two, the vector is cut into the powers of two that its
length is the sum of, and nothing is padded.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fl_bench.compression import quantize
from fl_bench.compression.base import Codec, Link, Vector, check_fraction, part
from fl_bench.compression.sparse import Indices, random_indices

Floats = NDArray[np.floating]


class Sketch(Codec):
    """`bits` for each of a `fraction` of the rotated numbers, and a float32 for each power of two. Right on average.

    The rotation and the samples come from the seed and do not travel. With fraction 1 the rotated vector is off as
    Quantize's, and so the vector by no more in its norm.
    """

    lossless = False
    random = True

    def __init__(self, fraction: float, bits: int) -> None:
        check_fraction(fraction)
        quantize.check_bits(bits)
        self.fraction, self.bits = fraction, bits

    def encode(self, vector: Vector, link: Link) -> bytes:
        rotated = _by_powers(hadamard, vector * _signs(link)).astype(np.float32)
        sizes, sampled = self._samples(link)
        return quantize.encode(rotated[sampled], sizes, self.bits, link.draw("rounding"))

    def decode(self, data: bytes, link: Link) -> Vector:
        sizes, sampled = self._samples(link)
        rotated = np.zeros(link.size)
        rotated[sampled] = quantize.decode(data, sizes, self.bits) * np.repeat(powers_of_two(link.size) / sizes, sizes)
        return (_by_powers(hadamard, rotated) * _signs(link)).astype(np.float32)

    def num_bytes(self, link: Link) -> int:
        return quantize.num_bytes(self._sizes(link), self.bits)

    def _sizes(self, link: Link) -> quantize.Sizes:
        """How many numbers are sampled of each power of two."""
        return np.array([part(self.fraction, size) for size in powers_of_two(link.size)])

    def _samples(self, link: Link) -> tuple[quantize.Sizes, Indices]:
        sizes, powers, generator = self._sizes(link), powers_of_two(link.size), link.draw("samples")
        parts = [
            start + random_indices(power, size, generator)
            for start, power, size in zip(np.cumsum(powers) - powers, powers, sizes, strict=True)
        ]
        return sizes, np.concatenate(parts)


def powers_of_two(size: int) -> NDArray[np.int64]:
    """13 -> 8, 4, 1."""
    return np.array([1 << bit for bit in reversed(range(size.bit_length())) if size >> bit & 1])


def hadamard(vector: Floats) -> Floats:
    """The orthonormal Walsh-Hadamard transform of a vector whose length is a power of two; its own inverse."""
    half, result = 1, vector.astype(np.float64)
    while half < len(vector):
        pairs = result.reshape(-1, 2, half)
        result = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
        half *= 2
    orthonormal: Floats = result / np.sqrt(len(vector))
    return orthonormal


def _by_powers(transform: Callable[[Floats], Floats], vector: Floats) -> Floats:
    powers = powers_of_two(len(vector))
    return np.concatenate([transform(piece) for piece in np.split(vector, np.cumsum(powers)[:-1])])


def _signs(link: Link) -> Vector:
    return link.draw("signs").choice(np.array([-1, 1], np.float32), link.size)
