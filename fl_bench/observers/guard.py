"""When a run ends before its last round: it diverges, no longer gets better, or would soon send too much."""

import math
from typing import Any

from omegaconf import DictConfig

from fl_bench.errors import RunError, note
from fl_bench.federation.rounds import Round
from fl_bench.federation.rows import Row
from fl_bench.metrics import Metric
from fl_bench.observers.base import Observer

DIVERGED = 1000.0  # times its first value, or times 1 if that is less: a loss that no training comes back from


class Guard(Observer):
    """`metric` is what `early_stop.metric`, a column, is of; None where that is not set."""

    keeps = "guard"

    def __init__(self, cfg: DictConfig, metric: Metric | None) -> None:
        self.stop_on_divergence: bool = cfg.stop_on_divergence
        self.num_rounds: int = cfg.num_rounds
        self.metric = metric
        self.column: str | None = cfg.early_stop.metric
        self.patience: int = cfg.early_stop.patience
        self.awaited = {"early_stop.metric": self.column, "target_metric": cfg.target_metric if cfg.targets else None}
        self.first: dict[str, float] = {}  # of each loss
        self.best: float | None = None  # of the metric
        self.waited = 0  # evaluations since then
        self.max_megabytes: float | None = cfg.early_stop.max_megabytes
        self.megabytes = self.last = 0.0  # sent in all, in both directions, and in the last round

    def see(self, round: Round) -> None:
        """Raise RunError where a loss is not finite or far above where it began; remember how good the metric is."""
        row = round.row
        for key, column in self.awaited.items() if round.number == 0 else ():
            if column is not None and column not in row:
                why = "as nothing there gives it one (no AUC of one class); nothing comes of it while that is so"
                note(f"{key}={column}: has no value in round 0, {why}")
        for name in (name for name in row if name.endswith("_loss")):
            limit = DIVERGED * max(1.0, abs(self.first.setdefault(name, row[name])))
            if self.stop_on_divergence and not (math.isfinite(row[name]) and row[name] <= limit):
                raise RunError(
                    f"round {round.number}: training diverges: {name} is {row[name]:.6g}; a smaller local.lr may help "
                    "(stop_on_divergence=false would go on)"
                )
        self.last = _megabytes(row)
        self.megabytes += self.last
        if self._spent(self.megabytes, self.last) and round.number < self.num_rounds:
            passed = self.max_megabytes is not None and self.megabytes > self.max_megabytes
            what = f"{self.megabytes:.6g} MB are above" if passed else "another such would pass"
            note(f"round {round.number}: {what} early_stop.max_megabytes={self.max_megabytes}")
        if self.metric is not None and self.column in row:
            value = row[self.column]
            better = self.best is None or self.metric.beats(value, self.best)
            self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)

    @property
    def stops(self) -> bool:
        """Whether the metric has not got better in the last `early_stop.patience` rounds that measured it, or another
        round like the last would send more than `early_stop.max_megabytes` in all.
        """
        spent = self._spent(self.megabytes, self.last)
        return spent or (self.metric is not None and self.waited >= self.patience)

    def ends_with(self, round: Round) -> bool:
        last = _megabytes(round.row)
        return self._spent(self.megabytes + last, last)

    def _spent(self, megabytes: float, last: float) -> bool:
        return self.max_megabytes is not None and megabytes + last > self.max_megabytes

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("first", "best", "waited", "megabytes", "last")}


def _megabytes(row: Row) -> float:
    """What a round has sent, in both directions."""
    return float(row.get("bytes_down", 0) + row.get("bytes_up", 0)) / 1e6
