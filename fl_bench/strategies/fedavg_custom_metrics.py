"""FedAvg (McMahan et al. 2017, arXiv:1602.05629) that aggregates the clients' metrics by more than their mean."""

import statistics
from collections.abc import Callable, Mapping, Sequence
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
    """`functions` names, per metric that clients report on their own held-out data, functions of FUNCTIONS.

    Each gives a column `client_<metric>_<function>`. The mean is weighted by the numbers of examples; the others
    count every client once. Of a metric whose name holds "loss" the lowest values are the best.
    """

    def __init__(self, functions: Mapping[str, Sequence[str]], **options: Any) -> None:
        for metric, names in functions.items():
            for name in names:
                if name not in FUNCTIONS:
                    raise ValueError(f"functions.{metric}: no function {name}; {nearest(name, FUNCTIONS)}")
        super().__init__(evaluate_metrics_aggr_fn=self._aggregate, **options)
        self.functions = functions
        self.client_metrics = tuple(functions)  # what clients must report; checked before the run starts

    def _aggregate(self, contents: list[RecordDict], weighted_by_key: str) -> MetricRecord:
        records = [next(iter(content.metric_records.values())) for content in contents]
        aggregated = MetricRecord()
        for metric, names in self.functions.items():
            pairs = [(float(r[metric]), float(r[weighted_by_key])) for r in records]  # type: ignore[arg-type]
            pairs.sort(reverse="loss" not in metric)
            values, weights = zip(*pairs, strict=True)
            for name in names:
                aggregated[f"{metric}_{name}"] = FUNCTIONS[name](values, weights)
        return aggregated
