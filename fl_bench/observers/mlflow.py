"""MLflow: a database beside the runs, or a server."""

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fl_bench.config.changes import flat
from fl_bench.errors import note
from fl_bench.observers.tracker import Tracker, identity, need, title

SQLITE = "sqlite:///"
MAX_PARAMS, MAX_METRICS, MAX_KEY, MAX_VALUE = 100, 1000, 250, 6000  # per batch, and characters: MLflow refuses more
SEND_SECONDS = 1.0  # between batches: a transaction each would slow down runs with short rounds
STATUS = {"done": "FINISHED", "interrupted": "KILLED", "running": "KILLED"}
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # a server that is gone would hold up the run for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class MLflow(Tracker):
    """A run of `experiment`: metrics by the columns of metrics.csv with the round as step, and the config as params."""

    def __init__(self, uri: str, experiment: str) -> None:
        need("mlflow")
        self.uri = uri
        self.experiment = experiment

    def begin(self, run: Mapping[str, Any], folder: Path) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient, MlflowException
        from mlflow.entities import Param

        if self.uri.startswith(SQLITE):
            _create(Path(self.uri.removeprefix(SQLITE)))
        self.client = MlflowClient(self.uri)
        if self.client.get_experiment_by_name(self.experiment) is None:
            with suppress(MlflowException):  # another run was quicker
                self.client.create_experiment(self.experiment)
        experiment = self.client.get_experiment_by_name(self.experiment).experiment_id
        for old in self.client.search_runs([experiment], f"tags.fl_bench_run = '{identity(folder)}'"):
            self.client.delete_run(old.info.run_id)
        tags = {"fl_bench_run": identity(folder), "folder": str(folder.absolute())}
        self.run_id = self.client.create_run(experiment, tags=tags, run_name=title(folder)).info.run_id
        config = {re.sub(r"[^\w\-. :/]", "_", key)[:MAX_KEY]: value for key, value in flat(run["config"]).items()}
        params = [Param(key, str(value)[:MAX_VALUE]) for key, value in config.items()]
        for first in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(self.run_id, params=params[first : first + MAX_PARAMS])
        self.waiting: list[Any] = []
        self.sent = time.monotonic()

    def log(self, round: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.waiting += [Metric(name, number, now, round) for name, number in numbers.items()]
        if time.monotonic() - self.sent > SEND_SECONDS:
            self._send()

    def end(self, status: str) -> None:
        self._send()
        self.client.set_terminated(self.run_id, STATUS.get(status, "FAILED"))

    def _send(self) -> None:
        for first in range(0, len(self.waiting), MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=self.waiting[first : first + MAX_METRICS])
        self.waiting = []
        self.sent = time.monotonic()


def _create(database: Path) -> None:
    """Make an empty database, whole or not at all: after a kill halfway, MLflow could not open it any more."""
    if database.exists():
        return
    from mlflow import MlflowClient

    note(f"tracker=mlflow: makes the tables of {database}: some seconds, this once")
    database.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{database.name}-", dir=database.parent) as folder:
        new = Path(folder, database.name).absolute()
        MlflowClient(f"{SQLITE}{new}").search_experiments()
        with suppress(FileExistsError):  # another run was quicker
            os.link(new, database)
