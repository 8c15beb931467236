"""FedAvg (McMahan et al. 2017, arXiv:1602.05629) that aggregates the clients' metrics by more than their mean."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_bench.build import nearest

Values = Sequence[float]


def _decile(values: Values) -> float:
    """The mean of the first tenth of sorted values, of one value at least."""
    return statistics.fmean(values[: max(1, len(values) // 10)])


def _weighted_mean(values: Values, weights: Values) -> float:
    return statistics.fmean(values, weights)


# From the clients' values, best first, and their numbers of examples.
FUNCTIONS: dict[str, Callable[[Values, Values], float]] = {
    "mean": _weighted_mean,
    "median": lambda values, _: statistics.median(values),
    "std": lambda values, _: statistics.pstdev(values),
    "min": lambda values, _: min(values),
    "max": lambda values, _: max(values),
    "worst_decile": lambda values, _: _decile(values[::-1]),
    "best_decile": lambda values, _: _decile(values),
}


class FedAvgCustomMetrics(FedAvg):
    """`metrics` names `<metric>_<function>`: a metric that clients report on their held-out data, one of FUNCTIONS.

    Each becomes a column `client_<metric>_<function>`. The mean is weighted by the numbers of examples; the others
    count every client once. Of a metric whose name holds "loss" the lowest values are the best.
    """

    def __init__(self, metrics: Sequence[str], **options: Any) -> None:
        super().__init__(evaluate_metrics_aggr_fn=self._aggregate, **options)
        self.wanted = [self._parse(name) for name in metrics]
        self.client_metrics = [metric for metric, _ in self.wanted]  # what clients must report; checked before the run

    @staticmethod
    def _parse(name: str) -> tuple[str, str]:
        """ "accuracy_worst_decile" -> ("accuracy", "worst_decile")"""
        for function in FUNCTIONS:
            if name.endswith(f"_{function}"):
                return name.removesuffix(f"_{function}"), function
        raise ValueError(f"metrics: {name} does not end in a function; {nearest(name.partition('_')[2], FUNCTIONS)}")

    def _aggregate(self, contents: list[RecordDict], weighted_by_key: str) -> MetricRecord:
        records = [next(iter(content.metric_records.values())) for content in contents]
        aggregated = MetricRecord()
        for metric, function in self.wanted:
            pairs = [(float(r[metric]), float(r[weighted_by_key])) for r in records]  # type: ignore[arg-type]
            values, weights = zip(*sorted(pairs, reverse="loss" not in metric), strict=True)
            aggregated[f"{metric}_{function}"] = FUNCTIONS[function](values, weights)
        return aggregated
