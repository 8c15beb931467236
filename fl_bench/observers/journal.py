"""run.json, kept up to date."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fl_bench.config.changes import apart
from fl_bench.config.origin import UNKNOWN, Origin
from fl_bench.errors import ConfigError
from fl_bench.federation.rounds import Round
from fl_bench.machine import gpus
from fl_bench.metrics import Metric, metric_of
from fl_bench.observers.base import Observer
from fl_bench.observers.costs import Costs
from fl_bench.storage.files import digest
from fl_bench.storage.run_json import STATUS, Record, new, save, seals

SAVE_SECONDS = 1.0
SHOWN = ("round", "validation_", "test_", "attack_", "client_", "unseen_")  # of the round that is best by validation
RESULTS = ("final", "best", "digests", "data", "resumed_at")  # what a run that goes on takes over


class Journal(Observer):
    """Keeps run.json of the run in `folder`."""

    keeps = "journal"

    def __init__(self, folder: Path, cfg: DictConfig, origin: Origin = UNKNOWN) -> None:
        self.folder = folder
        self.record = new(cfg, origin)
        self.record["hardware"]["gpus"] = gpus()
        self.costs = Costs(cfg.target_metric, cfg.targets)
        self.loss: Metric | None = None  # by which the best round is chosen where the target is not validated
        self._saved = 0.0

    def see(self, round: Round) -> None:
        """Take up a round; it is on disk a second later, or with the end, so that many short rounds stay short."""
        self.record["final"].update(round.row)
        self.record["digests"].append(digest(round.vector))
        self.costs.add(round.row)
        self._remember_if_best(round.row)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def _remember_if_best(self, row: Mapping[str, Any]) -> None:
        by_column = {f"validation_{metric.name}": metric for metric in (self.costs.metric, self.loss) if metric}
        column = next((name for name in by_column if name in row), None)
        best = self.record["best"]
        if column and (best is None or by_column[column].beats(row[column], best[column])):
            self.record["best"] = {name: value for name, value in row.items() if name.startswith(SHOWN)}

    def use(self, data: dict[str, str], metrics: Mapping[str, Metric]) -> None:
        """Take up the digests of the data and the task's metrics, of which every task has the loss.

        Raises ConfigError where a run that goes on had other data.
        """
        self.costs.metric, self.loss = metric_of(self.costs.column, metrics), metrics["loss"]
        self.record["better"] = {name: metric.better for name, metric in metrics.items()}
        before = self.record["data"]
        if before is not None and (others := apart(before, data)):
            key = "data" if others.keys() - {"init"} else "model.init"
            raise ConfigError(f"{key}: is not what the run began with, so it cannot go on with it")
        self.record["data"] = data

    def save(self) -> None:
        save(self.folder, self.record | self.costs.record)
        self._saved = time.monotonic()

    def end(self, code: int, error: str | None = None) -> None:
        self.record |= {"status": STATUS[code], "exit_code": code} | ({"error": error} if error else {})
        if code == 0:
            self.record["files"] = seals(self.folder)
        self.save()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.record[name] for name in RESULTS} | {"costs": self.costs}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.record |= {name: state[name] for name in RESULTS if name in state}  # older ones have no best
        Record.model_validate(self.record)
        self.record["resumed_at"].append(len(state["digests"]) - 1)  # the round after which it goes on
