"""The rounds of an experiment: sample, configure, train, aggregate, evaluate, write."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from shlex import quote
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from omegaconf import DictConfig

from fl_bench import rng
from fl_bench.errors import RunError, note
from fl_bench.federation.client import Row, metrics_of
from fl_bench.federation.fleet import Fleet
from fl_bench.federation.flower_log import flower_says
from fl_bench.federation.local import Trainer
from fl_bench.machine import peak_memory_mb
from fl_bench.metrics import FUNCTIONS, WRITTEN, best_first, merge
from fl_bench.network.schedule import Plan, Schedule
from fl_bench.observers.album import Album
from fl_bench.observers.guard import Guard
from fl_bench.observers.journal import Journal
from fl_bench.storage.checkpoint import Checkpoint, Store
from fl_bench.storage.files import digest
from fl_bench.strategies.server import ALL_EXAMPLES

Vector = NDArray[np.float32]
PHASES = ("train", "aggregate", "test", "evaluate_clients")  # of a round, as timing.csv has them


class Rounds:
    """Runs an experiment on a fleet; `report` is called with each round's row as soon as it is on disk."""

    def __init__(
        self,
        cfg: DictConfig,
        strategy: Strategy,
        trainer: Trainer,
        schedule: Schedule,
        store: Store,
        journal: Journal,
        album: Album | None,
        report: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.cfg = cfg
        self.strategy = strategy
        self.trainer = trainer
        self.schedule = schedule
        self.store = store
        self.journal = journal
        self.album = album
        self.report = report
        self.guard = Guard(cfg)
        self.seconds: dict[str, float] = {}

    def run(self, fleet: Fleet, start: Checkpoint | None = None) -> Vector:
        """All rounds, from the untrained model or from a checkpoint to the final one [P]."""
        if start is None:
            round, vector = 0, self.trainer.untrained()
            rows: dict[int, Row] = {}
            self._end(round, vector, self._evaluate(round, vector, fleet, rows), rows, fleet)
        else:
            round, vector = start.round, start.vector
            start.put_back(self.parts)
        while round < self.cfg.num_rounds and not self.guard.stopped:
            round += 1
            fleet.round = round
            vector, row, rows = self.train(round, vector, fleet)
            if round % self.cfg.evaluate.every == 0 or round == self.cfg.num_rounds:
                row |= self._evaluate(round, vector, fleet, rows)
            self._end(round, vector, row, rows, fleet)
        self.journal.record["stopped_early"] = self.guard.stopped
        return vector

    @property
    def parts(self) -> dict[str, Any]:
        """What a round leaves to the next, beside the model and what is in files."""
        return {"strategy": self.strategy, "schedule": self.schedule, "guard": self.guard}

    def _end(self, round: int, vector: Vector, row: Row, rows: dict[int, Row], fleet: Fleet) -> None:
        """Write a round that is over; everything that the next one needs is then on disk."""
        row = {"round": round} | row
        self._write(round, row, rows, fleet)
        self._picture(round, vector)
        self.journal.add(row, digest(vector))
        self.guard.see(row)
        if self.store.due(round, self.cfg.num_rounds):
            self.store.save(round, vector, self.journal.record["config"], {**self.parts, "journal": self.journal})
        self.report(row)

    def _picture(self, round: int, vector: Vector) -> None:
        """Keep what the task shows of the model, about ten times in a run."""
        every = max(1, self.cfg.num_rounds // 10)
        trainer = self.trainer
        if self.album is not None and not trainer.personal and (round % every == 0 or round == self.cfg.num_rounds):
            trainer.load(vector)
            self.album.add(round, trainer.task.picture(trainer.flat.model, trainer.data))

    def configure_train(self, round: int, vector: Vector, fleet: Fleet) -> tuple[list[Message], Plan]:
        """Who is asked in a round, and what the strategy sends them."""
        plan = self.schedule.plan(round)
        fleet.cohort, fleet.dropping = plan.asked, plan.dropping
        rng.seed_globals(self.cfg.seed, "configure_train", round)
        arrays = fleet.layout.to_record(vector)
        config = ConfigRecord({ALL_EXAMPLES: int(fleet.weights.sum())} | plan.told)
        # A strategy of Flower's would wait for somebody to ask.
        return list(self.strategy.configure_train(round, arrays, config, fleet)) if plan.asked else [], plan

    def train(self, round: int, vector: Vector, fleet: Fleet) -> tuple[Vector, Row, dict[int, Row]]:
        """One round of training: the new model, its row of metrics.csv, and those of clients.csv by client."""
        with self._timed("train"):
            messages, plan = self.configure_train(round, vector, fleet)
            replies = fleet.send_and_receive(messages)
        rows = {row["client"]: self.client_row(round, row, plan) for row in fleet.rows}
        answered, withheld = _with_status("ok", fleet.rows), _with_status("withheld", fleet.rows)
        self._tolerate(round, fleet.rows, rows)
        record = extra = None
        if answered and len(answered + withheld) >= self.cfg.min_clients:
            with self._timed("aggregate"):
                rng.seed_globals(self.cfg.seed, "aggregate_train", round)
                record, extra = self.strategy.aggregate_train(round, replies)
            if record is None and len(answered) == len(plan.asked):
                name = type(self.strategy).__name__
                raise RunError(f"round {round}: {name} made no model of {len(answered)} answers: {flower_says.last}")
        # An answer that came to nothing leaves its client as it was.
        moved_on = withheld + (answered if record is not None else [])
        self.store.states.commit(round, [row["client"] for row in moved_on], plan.asked)
        self.schedule.learn(round, {row["client"]: metrics_of(row)["loss"].value for row in answered})
        row = {f"train_{name}": mean.value for name, mean in merge(map(metrics_of, answered)).items()}
        row |= {name: value for name, value in _prefixed("train_", extra).items() if name not in row}
        row |= _counts(fleet.rows, rows) | {"aggregated": int(record is not None), "virtual_seconds": plan.ends}
        return vector if record is None else fleet.layout.from_record(record), row, rows

    def _evaluate(self, round: int, vector: Vector, fleet: Fleet, rows: dict[int, Row]) -> Row:
        """The test metrics of the model, and those on clients' held-out data, which are added to `rows`."""
        with self._timed("test"):
            tested = fleet.test(vector, self.trainer.num_test_batches)
            measured = {name: mean.value for name, mean in tested.items()} | self.trainer.measure(vector)
            row = {f"test_{name}": value for name, value in measured.items()}
        if not self.cfg.evaluate.clients:
            return row
        with self._timed("evaluate_clients"):
            replies = fleet.send_and_receive(self.configure_evaluate(round, vector, fleet))
            extra = self.strategy.aggregate_evaluate(round, replies)
        for answer in fleet.rows:
            mine = rows.setdefault(answer["client"], evaluated_row(round, answer))
            add_evaluation(mine, answer)
        self._tolerate(round, fleet.rows, rows, " --evaluation")
        by_client = [metrics_of(answer) for answer in _with_status("evaluated", fleet.rows)]
        for name, mean in merge(by_client).items():
            each = [metrics[name] for metrics in by_client]
            ordered = best_first(name, [one.value for one in each], [one.count for one in each])
            row[f"client_{name}"] = mean.value
            row |= {f"client_{name}_{spread}": FUNCTIONS[spread](*ordered) for spread in WRITTEN}
        return row | {name: value for name, value in _prefixed("client_", extra).items() if name not in row}

    def configure_evaluate(self, round: int, vector: Vector, fleet: Fleet) -> list[Message]:
        """What the strategy sends to everybody who holds out data."""
        fleet.cohort, fleet.dropping = np.flatnonzero(self.trainer.partition.heldout_sizes).tolist(), ()
        rng.seed_globals(self.cfg.seed, "configure_evaluate", round)
        arrays = fleet.layout.to_record(vector)
        return list(self.strategy.configure_evaluate(round, arrays, ConfigRecord(), fleet))

    def _tolerate(self, round: int, answers: list[Row], rows: dict[int, Row], flag: str = "") -> None:
        """Say which clients failed; raise RunError, with their rows written, where all did or none may."""
        failed = _with_status("failed", answers)
        if not failed:
            return
        first, others = failed[0], {answer["status"] for answer in answers} - {"failed", "dropped", "empty"}
        client, when = first["client"], " in their evaluation" if flag else ""
        text = (
            f"round {round}: {len(failed)} of {len(answers)} clients failed{when}; client {client}: {first['why']}; "
            f"to see it: fl-bench replay {quote(str(self.store.folder))} --round {round} --client {client}{flag}"
        )
        if others and self.cfg.on_client_failure != "abort":
            note(text)
            return
        self.store.recorder.write("clients", (rows[client] for client in sorted(rows)))
        raise RunError(text)

    def client_row(self, round: int, answer: Row, plan: Plan) -> Row:
        """A client's row of clients.csv."""
        row: Row = {"round": round, "client": answer["client"], "status": answer["status"]}
        if "metrics" in answer:
            row["num_examples"] = answer["num_examples"]
            row |= {f"train_{name}": mean.value for name, mean in metrics_of(answer).items()}
            row |= {f"train_{name}": value for name, value in answer["reply"].items()}
        row |= {"bytes_down": self.trainer.channel.bytes_down, "bytes_up": answer.get("bytes_up", 0)}
        seconds = plan.seconds[answer["client"]]
        row["virtual_seconds"] = seconds if math.isfinite(seconds) else None  # None: never
        return row | ({"why": answer["why"]} if "why" in answer else {})

    def _write(self, round: int, row: Row, rows: dict[int, Row], fleet: Fleet) -> None:
        self.store.recorder.write("clients", (rows[client] for client in sorted(rows)))
        self.store.recorder.write("metrics", [row])
        timing: Row = {f"{phase}_seconds": f"{self.seconds.get(phase, 0):.3f}" for phase in PHASES}
        timing |= {"server_peak_mb": peak_memory_mb(), "worker_peak_mb": fleet.worker_peak_mb}
        self.store.recorder.write("timing", [{"round": round} | timing])
        self.seconds.clear()

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start


def evaluated_row(round: int, answer: Row) -> Row:
    """The row of a client that has only been evaluated, whose bytes are not counted."""
    return {"round": round, "client": answer["client"], "status": answer["status"], "bytes_down": 0, "bytes_up": 0}


def add_evaluation(row: Row, answer: Row) -> None:
    """Add to a client's row what its evaluation says, or why there was none."""
    if answer["status"] == "evaluated":
        row |= {f"client_{name}": mean.value for name, mean in metrics_of(answer).items()}
    else:
        row["why"] = "; ".join(filter(None, (row.get("why"), f"evaluation: {answer['why']}")))


def _with_status(status: str, answers: list[Row]) -> list[Row]:
    return [answer for answer in answers if answer["status"] == status]


def _counts(answers: list[Row], rows: Mapping[int, Row]) -> Row:
    statuses = [answer["status"] for answer in answers]
    return {
        "clients_sampled": len(statuses),
        "clients_ok": statuses.count("ok"),
        "clients_failed": statuses.count("failed"),
        "clients_dropped": statuses.count("dropped"),
        "clients_withheld": statuses.count("withheld"),
        "bytes_down": sum(row["bytes_down"] for row in rows.values()),
        "bytes_up": sum(row["bytes_up"] for row in rows.values()),
    }


def _prefixed(prefix: str, record: MetricRecord | None) -> Row:
    """The single numbers of what a strategy made of the metrics, as columns."""
    numbers = {name: value for name, value in (record or {}).items() if isinstance(value, int | float)}
    return {name if name.startswith(prefix) else prefix + name: value for name, value in numbers.items()}
