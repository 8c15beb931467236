"""FedAvg (McMahan et al. 2017, arXiv:1602.05629) that aggregates the clients' metrics by more than their mean."""

from collections.abc import Sequence
from typing import Any

from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_bench.build import nearest
from fl_bench.metrics import FUNCTIONS, best_first


class FedAvgCustomMetrics(FedAvg):
    """`metrics` names `<metric>_<function>`: a metric that clients report on their held-out data, one of FUNCTIONS.

    Each becomes a column `client_<metric>_<function>`. The mean is weighted by the numbers of examples; the others
    count every client once (see fl_bench/spread.py).
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
            values, weights = ([float(r[key]) for r in records] for key in (metric, weighted_by_key))  # type: ignore[arg-type]
            aggregated[f"{metric}_{function}"] = FUNCTIONS[function](*best_first(metric, values, weights))
        return aggregated
