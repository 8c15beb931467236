"""The tables of a run: clients.csv, metrics.csv and timing.csv."""

from typing import Any

from fl_bench.federation.rounds import Round, RoundFailed
from fl_bench.machine import peak_memory_mb
from fl_bench.observers.base import Observer
from fl_bench.storage.tables import Tables

PHASES = ("train", "aggregate", "test", "evaluate_clients")  # of a round, in the order of timing.csv


class Recorder(Observer):
    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def see(self, round: Round) -> None:
        self.tables.write("clients", round.clients)
        self.tables.write("metrics", [round.row])
        timing: dict[str, Any] = {f"{phase}_seconds": f"{round.seconds.get(phase, 0):.3f}" for phase in PHASES}
        memory = {"server_peak_mb": peak_memory_mb(), "worker_peak_mb": round.worker_peak_mb}
        self.tables.write("timing", [{"round": round.number} | timing | memory])

    def fail(self, failed: RoundFailed) -> None:
        self.tables.write("clients", failed.clients)
