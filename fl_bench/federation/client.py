"""The ClientApp that every worker runs: it trains or evaluates the virtual clients that a message names.

A message carries the strategy's own records, and a ConfigRecord JOB of ours. The reply carries one row per client,
as JSON, and the models: summed up, or each on its own where the strategy needs that.
"""

import json
import os
import signal
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fl_bench.errors import disk_trouble, in_one_line
from fl_bench.federation.channel import WITHHELD_BYTES, memory_of, without_memory
from fl_bench.federation.local import Trained, Trainer
from fl_bench.federation.update import Diverged, ExactMean, Update, check_size
from fl_bench.federation.vectorized import train_together
from fl_bench.machine import peak_memory_mb
from fl_bench.metrics import Mean
from fl_bench.storage.buffers import to_record
from fl_bench.storage.states import ClientStates

JOB = "fl-bench"
# The codes of the Error in place of a worker's reply, none of them a client's fault.
WORKER_FAILED, WORKER_DIED, WORKER_OUT_OF_MEMORY, DISK_TROUBLE = 1, 2, 3, 4
NO_MEMORY = "out of memory"  # the status of a client whose turn the GPU had no room for
Row = dict[str, Any]
Handler = Callable[[Message, Context], Message]


class OutOfTime(Exception):
    """A client's turn has taken too long."""


app = ClientApp()
trainer_in = lru_cache(maxsize=1)(Trainer)  # one experiment at a time in a process; its folder is its identity


def _with_room(handler: Handler) -> Handler:
    """Answers for a worker whose disk fails, or whose GPU has not even room to begin: none of its clients had any."""

    def handle(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Exception as error:
            if trouble := disk_trouble(error):
                return Message(Error(DISK_TROUBLE, trouble), reply_to=message)
            if not _is_no_room(error):
                raise
            why = in_one_line(error)
        torch.cuda.empty_cache()
        clients: Any = message.content.config_records[JOB].get("clients", [-1])
        return _reply(message, [{"client": client, "status": NO_MEMORY, "why": why} for client in clients])

    return handle


def _is_no_room(error: Exception) -> bool:
    """Whether a GPU had no memory left; its libraries say so in ways of their own."""
    texts = ("CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


@app.train()
@_with_room
def train(message: Message, context: Context) -> Message:
    trainer, start, config, job = _unpack(message)
    round, states, folder = job["round"], ClientStates(Path(job["states"])), Path(job["folder"])
    if trainer.timeout is not None:  # what it imports is no client's time
        trainer.task.optimizer(trainer.flat.model, trainer.local)
    exact = ExactMean(start, job["weight_bound"])
    models: dict[str, NDArray] = {}
    total: Update | None = None
    channel = trainer.channel
    received = channel.arrives_down(start, round)

    def take_turn(client: int) -> Row:
        nonlocal total
        trainer = trainer_in(folder)
        if not len(trainer.rows(client)):
            return {"status": "empty"}
        before = states.read(client, before=round)
        with _time_limit(trainer.timeout):  # not of the sum, of which a half could not be taken back
            if client in together:
                trained = together.pop(client).checked()
            else:
                trained = trainer.train(client, round, received, config, without_memory(before))
        row = {"num_examples": trained.num_examples, "metrics": to_pairs(trained.metrics), "reply": trained.reply}
        loss = trained.metrics["loss"].value
        state = trained.state | memory_of(before)
        arrived = channel.arrives_up(client, round, start, received, trained.payload, state, loss)
        if arrived is None:  # nothing has happened, but for what the codec remembers
            states.write(client, round, without_memory(before) | memory_of(state))
            return {"status": "withheld", "bytes_up": WITHHELD_BYTES} | row
        states.write(client, round, state)
        if job["each"]:
            check_size(arrived, start)
            models[str(client)] = arrived.copy()
        else:
            total = exact.add(total, Update(arrived, trained.num_examples))
        return {"status": "ok", "bytes_up": channel.bytes_up} | row

    clients, size, rows = job["clients"], job["together"], []
    while clients:
        group = [client for client in clients[:size] if len(trainer.rows(client))]
        together: dict[int, Trained] = {}
        if len(group) > 1:
            no_room = False
            try:
                before = [without_memory(states.read(client, before=round)) for client in group]
                with _time_limit(trainer.timeout and trainer.timeout * len(group)):
                    together = train_together(trainer, group, round, received, config, before)
            except Exception as error:  # but for want of memory, whoever is to blame will fail by itself
                no_room = _is_no_room(error)
                _recover(error)
            if no_room:  # only now is nothing of the failed turn in use
                torch.cuda.empty_cache()
                size = -(-len(group) // 2)
                continue
        rows += [_attempt(take_turn, client, trainer) for client in clients[:size]]
        clients = clients[size:]
    if total is not None:
        models["total"] = total.values
    return _reply(message, rows, models, weight=total.weight if total else 0, together=size)


@app.evaluate()
@_with_room
def evaluate(message: Message, context: Context) -> Message:
    trainer, start, config, job = _unpack(message)
    round, states = job["round"], ClientStates(Path(job["states"]))

    def turn(client: int) -> Row:
        trainer = trainer_in(Path(job["folder"]))
        before = states.read(client, before=round + 1)
        with _time_limit(trainer.timeout):
            metrics = trainer.evaluate_client(client, round, start, config, before)
        return {"status": "evaluated", "metrics": to_pairs(metrics)}

    return _reply(message, [_attempt(turn, client, trainer) for client in job["clients"]])


@app.query()
@_with_room
def test(message: Message, context: Context) -> Message:
    """Batches of the central test set; a message without a job has everything imported and unused memory freed."""
    if JOB not in message.content:
        torch.cuda.empty_cache()
        return Message(RecordDict(), reply_to=message)
    trainer, payload, _, job = _unpack(message)
    rows = [{"status": "tested", "metrics": to_pairs(metrics)} for metrics in trainer.test(payload, job["batches"])]
    return _reply(message, rows)


def to_pairs(metrics: Mapping[str, Mean]) -> dict[str, list[float]]:
    """Means as a row carries them, [total, count]; `metrics_of` is the way back."""
    return {name: [float(mean.total), mean.count] for name, mean in metrics.items()}


def metrics_of(row: Row) -> dict[str, Mean]:
    return {name: Mean(total, count) for name, (total, count) in row["metrics"].items()}


def _unpack(message: Message) -> tuple[Trainer, NDArray[np.float32], dict[str, Any], dict[str, Any]]:
    """This process's trainer, what the server sends as a flat vector, what the strategy sent along, and our job."""
    records = {name: dict(record) for name, record in message.content.config_records.items()}
    job: dict[str, Any] = records.pop(JOB)
    trainer = trainer_in(Path(job["folder"]))
    arrays = next(iter(message.content.array_records.values()))
    config = {key: value for record in records.values() for key, value in record.items()}
    return trainer, trainer.layout.from_record(arrays), config, job


def _attempt(turn: Callable[[int], Row], client: int, trainer: Trainer) -> Row:
    """A client's row; whatever its turn raises is that client's failure and nobody else's, but for trouble on disk."""
    row: Row = {}
    for _ in range(2 if trainer.retry else 1):
        try:
            return {"client": client} | turn(client)
        except Exception as error:
            if disk_trouble(error) or isinstance(error, BdbQuit):
                raise
            if os.environ.get("FL_BENCH_DEBUG"):
                traceback.print_exc()
            _recover(error)
            if _is_no_room(error):
                row = {"client": client, "status": NO_MEMORY, "why": in_one_line(error)}
                break
            why = str(error) if isinstance(error, Diverged | OutOfTime) else in_one_line(error)
            row = {"client": client, "status": "failed", "why": why}
    if row["status"] == NO_MEMORY:  # only now is nothing of the failed turn in use
        torch.cuda.empty_cache()
    return row


def _recover(error: Exception) -> None:
    """Leave nothing half done in this process: a turn may have been stopped anywhere, in torch's own code too."""
    if isinstance(error, OutOfTime):
        torch.set_grad_enabled(True)
        trainer_in.cache_clear()


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raises OutOfTime in what takes longer; code that does not come back to Python is not stopped by it."""
    if seconds is None:
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime(f"it took more than engine.client_timeout_s={seconds:g}")

    previous = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)  # on the monotonic clock
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _reply(message: Message, rows: list[Row], models: Mapping[str, NDArray] | None = None, **numbers: int) -> Message:
    answer = ConfigRecord({"rows": json.dumps(rows), "peak_mb": peak_memory_mb(), **numbers})
    return Message(RecordDict({"models": to_record(models or {}), JOB: answer}), reply_to=message)
