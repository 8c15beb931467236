"""What a run has cost: in all, and until its metric first reached each target."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.filesize import decimal

from fl_bench.metrics import Metric


class Costs:
    """Adds up the rows of metrics.csv; `record` is for run.json. Wall seconds count from here: data and engine too."""

    def __init__(self, column: str, targets: Sequence[float]) -> None:
        self.column = column
        self.metric: Metric | None = None  # what the column is of, once the task is there
        self.total: dict[str, float] = {"steps": 0, "bytes_down": 0, "bytes_up": 0, "virtual_seconds": 0.0}
        self.reached: dict[str, dict[str, float] | None] = {str(target): None for target in targets}
        self._start = time.perf_counter()

    def add(self, row: Mapping[str, Any]) -> None:
        for name in self.total.keys() - {"virtual_seconds"}:  # of a run that began before steps were counted: bytes
            self.total[name] += row.get(name, 0)
        self.total["virtual_seconds"] = row.get("virtual_seconds", 0.0)
        if self.metric is None or self.column not in row:
            return
        value = row[self.column]
        for target, cost in self.reached.items():
            if cost is None and (value == float(target) or self.metric.beats(value, float(target))):
                wall_seconds = round(time.perf_counter() - self._start, 3)
                self.reached[target] = {"round": row["round"], "wall_seconds": wall_seconds} | self.total

    def __getstate__(self) -> dict[str, Any]:
        return {"total": self.total, "reached": self.reached, "elapsed": time.perf_counter() - self._start}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.total, self.reached = state["total"], state["reached"]
        self._start = time.perf_counter() - state["elapsed"]  # what a run that goes on took before counts too

    @property
    def record(self) -> dict[str, Any]:
        return {"total": self.total, "target_metric": self.column, "targets": self.reached}

    def __str__(self) -> str:
        down, up = (decimal(int(self.total[name])) for name in ("bytes_down", "bytes_up"))
        seconds = self.total["virtual_seconds"]
        return f"{down} down, {up} up" + (f", {seconds:.1f} virtual seconds" if seconds else "")
