"""FedAvg (McMahan et al. 2017, arXiv:1602.05629) that aggregates the clients' metrics by more than their mean."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_bench.build import nearest
from fl_bench.metrics import FUNCTIONS, Metric
from fl_bench.strategies.server import LOWER_IS_BETTER


class FedAvgCustomMetrics(FedAvg):
    """`metrics` names `<metric>_<function>`: a metric that clients report on their held-out data, one of FUNCTIONS.

    Each becomes a column `client_<metric>_<function>`. The mean is weighted by the numbers of examples; the others
    count every client once (see fl_bench/metrics.py).
    """

    def __init__(self, metrics: Sequence[str], **options: Any) -> None:
        super().__init__(evaluate_metrics_aggr_fn=self._aggregate, **options)
        self.lower_is_better: Sequence[str] = ()  # of the metrics; each round says which
        self.wanted = [self._parse(name) for name in metrics]
        self.client_metrics = [metric for metric, _ in self.wanted]  # what clients must report; checked before the run

    @staticmethod
    def _parse(name: str) -> tuple[str, str]:
        """ "accuracy_worst_decile" -> ("accuracy", "worst_decile")"""
        for function in FUNCTIONS:
            if name.endswith(f"_{function}"):
                return name.removesuffix(f"_{function}"), function
        raise ValueError(f"metrics: {name} does not end in a function; {nearest(name.partition('_')[2], FUNCTIONS)}")

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.lower_is_better = cast(list[str], config[LOWER_IS_BETTER])
        return super().configure_evaluate(server_round, arrays, config, grid)

    def _aggregate(self, contents: list[RecordDict], weighted_by_key: str) -> MetricRecord:
        records = [next(iter(content.metric_records.values())) for content in contents]
        aggregated = MetricRecord()
        for metric, function in self.wanted:
            has = [record for record in records if not math.isnan(cast(float, record[metric]))]  # no AUC of one class
            if not has:
                continue
            values, weights = ([float(r[key]) for r in has] for key in (metric, weighted_by_key))  # type: ignore[arg-type]
            ordered = Metric(metric, "lower" if metric in self.lower_is_better else "higher").best_first(
                values, weights
            )
            aggregated[f"{metric}_{function}"] = FUNCTIONS[function](*ordered)
        return aggregated
