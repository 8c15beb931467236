"""Metrics that are no means: whole numbers by cell that add up, and what is read from their sum.

Integers are added, so the value is the same whatever the order, the batches or the workers.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_bench.metrics import Metric

Cells = Mapping[tuple[int, ...], int]
UNIT = 2.0**-30  # of confidences and losses, which are rounded to it, example by example
BINS = 15  # of confidence, as in Guo et al. 2017
STEPS, MOST = 128, 32  # the grid of scores: log-odds in steps of 1/128, and none beyond 32
LARGEST_LOSS = 1e6  # what an infinite loss, or one that is no number, counts as: the perplexity is then infinite


@dataclass(frozen=True)
class Kind:
    """How a metric is counted in logits [B, classes] float64 and labels [B], and read from cells and examples."""

    metric: Metric
    count: Callable[[NDArray, NDArray], Cells]
    read: Callable[[Cells, int], float]


@dataclass(frozen=True, slots=True)
class Tally:
    """What adds up to one of KINDS over `count` examples.

    Examples:
        >>> Tally("balanced_accuracy", {(0, 0): 3, (0, 1): 1, (1, 1): 1}, 5).value
        0.875
    """

    kind: str
    total: Cells
    count: int

    @classmethod
    def of(cls, kind: str, logits: NDArray, labels: NDArray) -> "Tally":
        """That of a batch: logits [B, classes], labels [B] int64."""
        return cls(kind, KINDS[kind].count(logits.astype(np.float64), labels), len(labels))

    @classmethod
    def of_losses(cls, losses: NDArray) -> "Tally":
        """The perplexity of what has these losses [N], such as the tokens of texts."""
        return cls("perplexity", _summed(losses), len(losses))

    @classmethod
    def sum(cls, parts: Sequence["Tally"]) -> "Tally":
        """All of them as one."""
        total: Counter[tuple[int, ...]] = Counter()
        for part in parts:
            total.update(part.total)
        return cls(parts[0].kind, dict(total), sum(part.count for part in parts))

    @property
    def value(self) -> float:
        """The metric; NaN where these examples give it no meaning."""
        return KINDS[self.kind].read(self.total, self.count)

    @property
    def known(self) -> bool:
        """Whether it has a meaning."""
        return not math.isnan(self.value)


def confusion(labels: NDArray, predicted: NDArray) -> Cells:
    """How many examples there are by (label, prediction).

    Examples:
        >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 0]))
        {(0, 0): 1, (1, 0): 2}
    """
    return dict(Counter(zip(labels.tolist(), predicted.tolist(), strict=True)))


def sides(cells: Cells, side: int) -> Counter[int]:
    """How many examples there are of each label (side 0), or each prediction (side 1), of a confusion."""
    found: Counter[int] = Counter()
    for cell, count in cells.items():
        found[cell[side]] += count
    return found


def _predicted(logits: NDArray, labels: NDArray) -> Cells:
    return confusion(labels, logits.argmax(axis=1))


def _balanced_accuracy(cells: Cells, _: int) -> float:
    """The mean share that is right over the classes that there are (Brodersen et al. 2010)."""
    return _mean([cells.get((label, label), 0) / held for label, held in sorted(sides(cells, 0).items())])


def _macro_f1(cells: Cells, _: int) -> float:
    """The mean F1 over the classes that there are, or that are predicted."""
    held, guessed = sides(cells, 0), sides(cells, 1)
    return _mean([2 * cells.get((k, k), 0) / (held[k] + guessed[k]) for k in sorted(held | guessed)])


def _log_softmax(logits: NDArray) -> NDArray:
    with np.errstate(invalid="ignore"):  # a model that has diverged
        shifted = logits - logits.max(axis=1, keepdims=True)
    logs: NDArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _gaps(logits: NDArray, labels: NDArray) -> Cells:
    """By bin of confidence: how many are right, minus the sum of their confidences."""
    confidence = np.nan_to_num(np.exp(_log_softmax(logits).max(axis=1)))
    right = logits.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    gaps = np.rint((right - confidence) / UNIT).astype(np.int64)
    return {(int(bin),): int(gaps[bins == bin].sum()) for bin in np.unique(bins)}


def _calibration_error(cells: Cells, count: int) -> float:
    """The expected calibration error: Guo et al. 2017, arXiv:1706.04599, equation 3."""
    return sum(map(abs, cells.values())) * UNIT / count if count else math.nan


def _losses(logits: NDArray, labels: NDArray) -> Cells:
    return _summed(-_log_softmax(logits)[np.arange(len(labels)), labels])


def _summed(losses: NDArray) -> Cells:
    bounded = np.minimum(np.nan_to_num(losses, nan=LARGEST_LOSS), LARGEST_LOSS)
    return {(): sum(np.rint(bounded / UNIT).astype(np.int64).tolist())}


def _perplexity(cells: Cells, count: int) -> float:
    loss = cells[()] * UNIT / count if count else math.nan
    return math.exp(loss) if not loss > 700 else math.inf


def _scores(logits: NDArray, labels: NDArray) -> Cells:
    """By class, whether an example is of it, and the log-odds of the class on the grid; NaN counts as even odds."""
    logs = _log_softmax(logits)
    with np.errstate(divide="ignore"):
        odds = np.nan_to_num(logs - np.log(-np.expm1(logs)))
    grid = np.rint(np.clip(odds, -MOST, MOST) * STEPS).astype(int)
    classes = np.arange(logits.shape[1])
    columns = np.broadcast_arrays(classes, labels[:, None] == classes, grid)
    return dict(Counter(zip(*(column.ravel().astype(int).tolist() for column in columns), strict=True)))


def _auc(cells: Cells, _: int) -> float:
    """The mean over classes, each against the rest, of the chance that one of it scores higher than one of the rest.

    Equal scores count half. Of the classes that there are, where there are others: Fawcett 2006, section 8.
    """
    table = np.array([[*cell, count] for cell, count in cells.items()], np.int64).reshape(-1, 4)
    found = []
    for label in np.unique(table[:, 0]):
        _, belongs, score, counts = table[table[:, 0] == label].T
        places, place = np.unique(score, return_inverse=True)
        others, own = np.zeros((2, len(places)), np.int64)
        np.add.at(others, place[belongs == 0], counts[belongs == 0])
        np.add.at(own, place[belongs == 1], counts[belongs == 1])
        if pairs := int(own.sum()) * int(others.sum()):
            found.append(int((own * (2 * others.cumsum() - others)).sum()) / (2 * pairs))
    return _mean(found)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


KINDS = {
    kind.metric.name: kind
    for kind in (
        Kind(Metric("auc", better="higher"), _scores, _auc),
        Kind(Metric("balanced_accuracy", better="higher"), _predicted, _balanced_accuracy),
        Kind(Metric("macro_f1", better="higher"), _predicted, _macro_f1),
        Kind(Metric("calibration_error", better="lower"), _gaps, _calibration_error),
        Kind(Metric("perplexity", better="lower"), _losses, _perplexity),
    )
}
