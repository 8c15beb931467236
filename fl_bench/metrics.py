"""Metrics: what a task declares of each, means that add up, and how a metric is spread over clients.

A metric stays (sum, count) until it is written, so neither the order nor the grouping of its parts matters.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, SupportsFloat, TypeVar

Values = Sequence[float]


class Summand(Protocol):
    """What of a metric adds up, over `count` examples: a Mean, or a Tally (tallies.py)."""

    @property
    def count(self) -> int:
        """How many examples it is of."""

    @property
    def value(self) -> float:
        """What is written of it."""

    @property
    def known(self) -> bool:
        """Whether these examples give it a meaning."""

    @classmethod
    def sum(cls, parts: Sequence[Any]) -> Any:
        """All of them as one."""


T = TypeVar("T", bound=Summand)


@dataclass(frozen=True)
class Metric:
    """A number that a task measures: its name, which way it gets better, and the format in which people see it.

    Examples:
        >>> accuracy = Metric("accuracy", better="higher")
        >>> accuracy.beats(0.9, 0.8), accuracy.best_first([0.8, 0.9], [1, 3])
        (True, ([0.9, 0.8], [3, 1]))
    """

    name: str
    better: Literal["lower", "higher"]
    shown: str = ".4f"

    def beats(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`."""
        return value < other if self.better == "lower" else value > other

    def best_first(self, values: Values, weights: Values) -> tuple[Values, Values]:
        """Values and their weights as FUNCTIONS want them."""
        pairs = sorted(zip(values, weights, strict=True), reverse=self.better == "higher")
        return [value for value, _ in pairs], [weight for _, weight in pairs]


def metric_of(column: str, metrics: Mapping[str, Metric]) -> Metric | None:
    """The metric of a column of metrics.csv: that of test_loss and client_loss_worst_decile is loss.

    Examples:
        >>> metric_of("client_loss_worst_decile", {"loss": Metric("loss", better="lower")}).name
        'loss'
        >>> metric_of("client_attack_success_rate", {"success_rate": Metric("success_rate", better="lower")}).better
        'lower'
    """
    rest = column.partition("_")[2].removeprefix("adapted_").removeprefix("attack_")
    spread = (rest.removesuffix(f"_{name}") for name in FUNCTIONS if rest.endswith(f"_{name}"))
    return next((metrics[name] for name in (rest, *spread) if name in metrics), None)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `count` examples as their `total`, which may still be a tensor on a device.

    Examples:
        >>> Mean(3.0, 2).value
        1.5
    """

    total: SupportsFloat
    count: int

    @property
    def value(self) -> float:
        """The mean itself."""
        return float(self.total) / self.count

    @property
    def known(self) -> bool:
        """A mean that is no number is to be seen."""
        return True

    @classmethod
    def sum(cls, parts: Sequence["Mean"]) -> "Mean":
        """The mean over all parts. `fsum` is exact, so neither order nor grouping of the parts matters."""
        return cls(math.fsum(float(part.total) for part in parts), sum(part.count for part in parts))


def merge(parts: Iterable[Mapping[str, T]]) -> dict[str, T]:
    """The metrics over all parts, by name.

    Examples:
        >>> merge([{"loss": Mean(3.0, 2)}, {"loss": Mean(1.0, 2)}])
        {'loss': Mean(total=4.0, count=4)}
    """
    by_name: dict[str, list[T]] = {}
    for part in parts:
        for name, summand in part.items():
            by_name.setdefault(name, []).append(summand)
    return {name: type(summands[0]).sum(summands) for name, summands in by_name.items()}


def values(metrics: Mapping[str, Summand]) -> dict[str, float]:
    """The values of those metrics that have a meaning: there is no AUC of one class. Nothing is written of others."""
    return {name: metric.value for name, metric in metrics.items() if metric.known}


def _decile(values: Values) -> float:
    """The mean of the first tenth of sorted values, of one value at least."""
    return statistics.fmean(values[: max(1, len(values) // 10)])


def _weighted_mean(values: Values, weights: Values) -> float:
    return statistics.fmean(values, weights)


def _std(values: Values, _: Values) -> float:
    mean = statistics.fmean(values)
    return math.sqrt(statistics.fmean((value - mean) ** 2 for value in values))  # statistics.pstdev refuses NaN


FUNCTIONS: dict[str, Callable[[Values, Values], float]] = {
    "mean": _weighted_mean,
    "uniform": lambda values, _: statistics.fmean(values),
    "median": lambda values, _: statistics.median(values),
    "std": _std,
    "min": lambda values, _: min(values),
    "max": lambda values, _: max(values),
    "worst_decile": lambda values, _: _decile(values[::-1]),
    "best_decile": lambda values, _: _decile(values),
}


WRITTEN = ("uniform", "std", "worst_decile", "best_decile", "min")  # of every metric of the clients, into metrics.csv
