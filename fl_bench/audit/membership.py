"""Whether a row was trained on, from the loss that a model has on it: Yeom et al. 2018, arXiv:1709.01604, section 3.2.

Rows are taken to be members from the lowest loss on; with shadow models, from the largest ratio of likelihoods on:
Carlini et al. 2022, "Membership Inference Attacks From First Principles", arXiv:2112.03570. How well that tells them
from others is reported as they ask for: also where few others may be taken for members.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from fl_bench.audit.areas import CONFIDENCE, Floats, area

NARROW = 1e-6  # the least deviation of a row's confidence
LOSSES = (1e-12, 700.0)  # that exp(loss) - 1 can be taken of
FEW = 0.01  # the share of others that may be taken for members


@dataclass(frozen=True)
class Membership:
    """Numbers with a lower and an upper end have an interval of 95 %."""

    auc: tuple[float, float, float]  # that a member has a lower loss than another row; 0.5 tells nothing
    tpr: tuple[float, float, float]  # the share of members found where at most FEW of the others are taken for some
    advantage: float  # Yeom's, experiment 1: that share less that of the others, below the members' mean loss


def membership(members: Floats, others: Floats) -> Membership:
    """From the losses of rows that were trained on [M] and of rows that were not [N], two of each or more.

    The interval of the share is exact (Clopper and Pearson 1934) for the threshold that these others give.
    """
    threshold = np.sort(others)[int(FEW * len(others))]
    found = binomtest(int((members < threshold).sum()), len(members))
    ends = found.proportion_ci(CONFIDENCE, method="exact")
    below = members.mean()
    advantage = float((members <= below).mean() - (others <= below).mean())
    are_members = np.repeat([1, 0], [len(members), len(others)])
    auc = area(-np.concatenate([members, others])[:, None], are_members, [1])
    return Membership(auc, (found.statistic, ends.low, ends.high), advantage)


def ratios(losses: Floats, shadows: Floats, inside: NDArray[np.bool_]) -> Floats:
    """The logarithm of how much likelier a row's loss is if it was trained on than if it was not [R].

    `losses` [R] are the audited model's and `shadows` [S, R] those of models of which each was trained on the rows that
    are `inside` [S, R]. What no such model tells of, as a row is inside of none or of all, is 0.

    Source: algorithm 1, by log(p / (1 - p)) of the probability p that a model gives a row's label; variances are those
    of all rows together, as section VI-C has it for few shadow models.
    """
    seen, theirs = (-np.log(np.expm1(part.clip(*LOSSES))) for part in (losses, shadows))
    told, likelihoods = np.ones(len(losses), bool), []
    for part in (inside, ~inside):
        count = part.sum(axis=0)
        told &= count > 0
        mean = np.where(part, theirs, 0).sum(axis=0) / count.clip(min=1)
        deviation = np.sqrt(np.square(theirs - mean)[part].sum() / max(1, part.sum()))
        likelihoods.append(norm.logpdf(seen, mean, max(deviation, NARROW)))
    found: Floats = np.where(told, likelihoods[0] - likelihoods[1], 0.0)
    return found
