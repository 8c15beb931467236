"""Low rank: Vogels et al. 2019, "PowerSGD", arXiv:1905.13727, algorithm 1, with the start from the seed.

One step of power iteration: P = M Q, made orthonormal, and Q = M^T P; M is then about P Q^T.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from fl_bench.build import positive
from fl_bench.compression.base import FLOAT_BYTES, Codec, Link, Vector


class LowRank(Codec):
    """rank x (rows + columns) numbers for each tensor of two dimensions or more, where that is fewer than it has.

    What is not sent is lost, or with `feedback` kept. The paper starts from the last Q, which every worker must have
    seen; clients that take part now and then have not, so the start is drawn. Exact where the tensor's rank is `rank`.
    """

    lossless = False

    def __init__(self, rank: int, feedback: bool) -> None:
        positive(rank=rank)
        self.rank, self.feedback = rank, feedback

    def encode(self, vector: Vector, link: Link) -> bytes:
        sent, generator, start = [], link.draw("start"), 0
        for rows, columns, factored in self._matrices(link):
            matrix = vector[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            if factored:
                left, _ = np.linalg.qr(matrix @ generator.standard_normal((columns, self.rank), np.float32))
                sent += [left, matrix.T @ left]
            else:
                sent.append(matrix)
        return b"".join(np.ascontiguousarray(array, np.float32).tobytes() for array in sent)

    def decode(self, data: bytes, link: Link) -> Vector:
        numbers, start, tensors = np.frombuffer(data, np.float32), 0, []

        def take(rows: int, columns: int) -> Vector:
            nonlocal start
            start += rows * columns
            return numbers[start - rows * columns : start].reshape(rows, columns)

        for rows, columns, factored in self._matrices(link):
            tensors.append(take(rows, self.rank) @ take(columns, self.rank).T if factored else take(rows, columns))
        return np.concatenate([tensor.ravel() for tensor in tensors])

    def num_bytes(self, link: Link) -> int:
        return FLOAT_BYTES * sum(
            self.rank * (rows + columns) if factored else rows * columns
            for rows, columns, factored in self._matrices(link)
        )

    def _matrices(self, link: Link) -> Iterator[tuple[int, int, bool]]:
        """Rows and columns of each tensor as a matrix, and whether it is sent as two factors."""
        for shape in link.shapes.values():
            rows, columns = (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))
            yield rows, columns, self.rank * (rows + columns) < rows * columns
