"""HetLoRA: Cho et al. 2024, "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models",
arXiv:2401.06432.

A's and B's are averaged as they are, with zeros where a client's rank is lower. A client counts by the norm of its
product B_k A_k, and by `weighting`, which the paper does not have. A client whose last components shrink in a turn
gives them up for good.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_bench.build import not_negative
from fl_bench.strategies.adapters import Arrays, Truncated, Truncating, components, pairs
from fl_bench.strategies.turn import Turn

RANK = "rank"


class HetLoRA(Truncating):
    def __init__(self, ranks: list[int] | None) -> None:
        super().__init__(ranks)
        self.pruned: dict[int, int] = {}  # the ranks of clients that have answered

    def known(self, client: int) -> int:
        return self.pruned.get(client) or super().known(client)

    def combine(self, round: int, adapters: Mapping[int, Arrays], weights: NDArray[np.float64]) -> Arrays:
        self.pruned |= {k: min(len(own[name]) for name in pairs(own)) for k, own in adapters.items()}
        made = {}
        for a, b in pairs(self.model).items():
            factors = [(own[a], own[b]) for own in adapters.values()]
            made[a], made[b] = mean(factors, weights, len(self.model[a]))
        return made


def mean(
    factors: Sequence[tuple[NDArray, NDArray]], weights: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean A [rank, in] and B [out, rank] of clients' A_k and B_k, by `weights` times the norms of B_k A_k.

    It is by `weights` alone where all norms are 0.
    """
    norms = weights * [np.linalg.norm(b.astype(np.float64) @ a) for a, b in factors]
    shares = norms / norms.sum() if norms.any() else weights / weights.sum()
    mean_a, mean_b = np.zeros((rank, factors[0][0].shape[1])), np.zeros((factors[0][1].shape[0], rank))
    for share, (a, b) in zip(shares, factors, strict=True):
        mean_a[: len(a)] += share * a
        mean_b[:, : len(a)] += share * b
    return mean_a, mean_b


class SelfPruning(Truncated):
    """Of r components the last r - floor(`decay` * r) are drawn to 0, and cut off where a turn has made them smaller.

    Their size is the sum of |A| |B| over the targets, by Frobenius norms; `regularization` times it is in the loss.
    """

    def __init__(self, ranks: list[int] | None, decay: float, regularization: float) -> None:
        super().__init__(ranks)
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay}: must be above 0 and at most 1")
        not_negative(regularization=regularization)
        self.decay, self.regularization = decay, regularization

    def rank_of(self, turn: Turn) -> int:
        return int(turn.state[RANK]) if RANK in turn.state else super().rank_of(turn)

    def begin(self, turn: Turn) -> None:
        super().begin(turn)
        turn.work.kept = max(1, int(self.decay * self.rank_of(turn)))
        turn.work.size = size(self._last(turn, turn.parameters))

    def correct(self, turn: Turn) -> None:
        gradient = turn.grad
        added = self._last(turn, gradient)
        for (a, b), (to_a, to_b) in zip(self._last(turn, turn.parameters.detach()), added, strict=True):
            if a.any() and b.any():
                to_a += self.regularization * a * (b.norm() / a.norm())
                to_b += self.regularization * b * (a.norm() / b.norm())
        turn.grad = gradient

    def finish(self, turn: Turn) -> None:
        if size(self._last(turn, turn.parameters)) < turn.work.size:
            turn.state[RANK] = torch.tensor(turn.work.kept)
        super().finish(turn)

    @staticmethod
    def _last(turn: Turn, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each target the last components of A and of B, as views of a vector [P]."""
        parts, kept = turn.split(vector), turn.work.kept
        return [(components(a, parts[a], kept), components(b, parts[b], kept)) for a, b in pairs(parts).items()]


def size(adapters: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The sum of |A| |B|."""
    return sum(float(a.norm() * b.norm()) for a, b in adapters)
