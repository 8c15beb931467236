"""The labels of rows, from the gradients of the loss that a party without labels is sent at the cut of a model.

Li et al. 2022, "Label Leakage and Protection in Two-party Split Learning", arXiv:2102.08504. By the norm: gradients of
the rarer class are longer, as the model errs more on it. By the direction: the gradients of two rows of one class have
a positive cosine, so that one row of which the label is known tells those of the others.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from fl_bench.audit.areas import CONFIDENCE, Floats, area


class Leakage(NamedTuple):
    """Numbers with the lower and the upper end of an interval of 95 %."""

    norm: tuple[float, float, float]  # area under the curve: that a gradient of the rarest class is the longer one
    cosine: tuple[float, float, float]  # the same by the cosine with one known of the class; the mean over the classes
    found: tuple[float, float, float]  # the share of rows that are of the class whose known gradient is the nearest
    guess: float  # the share of the most frequent class
    norms: Floats  # [N]: of all gradients
    cosines: Floats  # [M, K]: of those whose labels are not known, with the known one of each class
    classes: NDArray[np.int64]  # [K], rising
    labels: NDArray[np.int64]  # [M]: the truth


def leakage(gradients: Floats, labels: NDArray[np.int64]) -> Leakage:
    """What `gradients` [N, D] tell of `labels` [N], of which the first row of each class is known.

    Classes that have fewer than two rows are left out.

    Raises:
        ValueError: where fewer than two classes have two rows.
    """
    every, counts = np.unique(labels, return_counts=True)
    classes = every[counts > 1]
    if len(classes) < 2:
        raise ValueError("needs two rows of each of two classes")
    kept = np.isin(labels, classes)
    gradients, labels = gradients[kept], labels[kept]
    norms = np.linalg.norm(gradients, axis=1)
    rarest = classes[counts[counts > 1].argmin()]
    known = np.array([np.argmax(labels == label) for label in classes])
    directions = gradients / np.maximum(norms, np.finfo(float).tiny)[:, None]
    others = np.delete(np.arange(len(labels)), known)
    cosines, truth = directions[others] @ directions[known].T, labels[others]
    right = binomtest(int((classes[cosines.argmax(axis=1)] == truth).sum()), len(truth))
    ends = right.proportion_ci(CONFIDENCE, method="exact")
    return Leakage(
        norm=area(norms[:, None], labels == rarest, [True]),
        cosine=area(cosines, truth, classes),
        found=(right.statistic, ends.low, ends.high),
        guess=float(np.mean(truth == np.bincount(truth).argmax())),
        norms=norms,
        cosines=cosines,
        classes=classes,
        labels=truth,
    )
