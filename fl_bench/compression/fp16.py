"""Half precision: two bytes a number."""

import numpy as np

from fl_bench.compression.base import Codec, Link, Vector

LARGEST = np.finfo(np.float16).max


class Half(Codec):
    """Off by at most 2**-11 of each number, or 2**-25 where it is tiny; numbers above 65504 become that."""

    lossless = False

    def encode(self, vector: Vector, link: Link) -> bytes:
        return vector.clip(-LARGEST, LARGEST).astype(np.float16).tobytes()

    def decode(self, data: bytes, link: Link) -> Vector:
        return np.frombuffer(data, np.float16).astype(np.float32)

    def num_bytes(self, link: Link) -> int:
        return 2 * link.size
