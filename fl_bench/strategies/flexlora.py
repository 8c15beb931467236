"""FlexLoRA: Bai et al. 2024, "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client
Resources", arXiv:2402.11505.

The server makes the mean of the products B_k A_k, and takes it apart by its singular values: a client is sent those
that are the largest, as many as its rank. But for what is cut off, the mean is exact.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fl_bench.strategies.adapters import Arrays, Truncating, pairs, stacked


class FlexLoRA(Truncating):
    def combine(self, round: int, adapters: Mapping[int, Arrays], weights: NDArray[np.float64]) -> Arrays:
        stack = stacked(list(adapters.values()), weights)
        made = {}
        for a, b in pairs(stack).items():
            made[a], made[b] = factored(stack[a], stack[b], len(self.model[a]))
        return made


def factored(a: NDArray, b: NDArray, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A [rank, in] and B [out, rank] of which B A is closest to `b @ a`: the first rows of V^T, and columns of U S.

    Where the product has fewer components, B is 0 and A the rest of an orthonormal basis, so that clients can learn
    there.
    """
    u, s, v = np.linalg.svd(b.astype(np.float64) @ a, full_matrices=False)
    return v[:rank], u[:, :rank] * s[:rank]
