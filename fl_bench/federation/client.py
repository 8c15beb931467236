"""The ClientApp that every SuperNode runs: it trains or evaluates the virtual clients that a message names.

A message carries the strategy's own records, and a ConfigRecord JOB of ours. The reply carries one row per client,
as JSON, and the models: summed up, or each on its own where the strategy needs that.
"""

import json
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fl_bench.federation.local import Diverged, Trainer
from fl_bench.federation.update import ExactMean, Update
from fl_bench.machine import peak_memory_mb

JOB = "fl-bench"
Row = dict[str, Any]

app = ClientApp()
trainer_in = lru_cache(maxsize=1)(Trainer)  # one experiment at a time in a process; its folder is its identity


@app.train()
def train(message: Message, context: Context) -> Message:
    trainer, start, config, job = _unpack(message)
    exact = ExactMean(start, job["weight_bound"])
    models: dict[str, Array] = {}
    total: Update | None = None

    def turn(client: int) -> Row:
        nonlocal total
        if not len(trainer.partition.train_rows(client)):
            return {"status": "empty"}
        trained = trainer.train(client, job["round"], start, config)
        if job["each"]:
            models[str(client)] = Array(trained.parameters)
        else:
            total = exact.add(total, Update(trained.parameters, trained.num_examples))
        metrics = {name: [float(mean.total), mean.count] for name, mean in trained.metrics.items()}
        return {"status": "ok", "num_examples": trained.num_examples, "metrics": metrics, "reply": trained.reply}

    rows = [_attempt(turn, client) for client in job["clients"]]
    if total is not None:
        models["total"] = Array(total.values)
    return _reply(message, rows, models, total.weight if total else 0)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    trainer, start, _, job = _unpack(message)

    def turn(client: int) -> Row:
        metrics = trainer.evaluate_client(client, start)
        return {"status": "evaluated", "metrics": {name: [float(m.total), m.count] for name, m in metrics.items()}}

    return _reply(message, [_attempt(turn, client) for client in job["clients"]], {}, 0)


def _unpack(message: Message) -> tuple[Trainer, NDArray[np.float32], dict[str, Any], dict[str, Any]]:
    """This process's trainer, the server's model as a flat vector, what the strategy sent along, and our job."""
    records = {name: dict(record) for name, record in message.content.config_records.items()}
    job: dict[str, Any] = records.pop(JOB)
    trainer = trainer_in(Path(job["folder"]))
    arrays = next(iter(message.content.array_records.values()))
    config = {key: value for record in records.values() for key, value in record.items()}
    return trainer, trainer.flat.layout.from_record(arrays), config, job


def _attempt(turn: Callable[[int], Row], client: int) -> Row:
    """A client's row; whatever its turn raises is that client's failure and nobody else's."""
    try:
        return {"client": client} | turn(client)
    except Diverged as error:
        return {"client": client, "status": "diverged", "why": str(error)}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return {"client": client, "status": "failed", "why": " ".join(why.split())}


def _reply(message: Message, rows: list[Row], models: dict[str, Array], weight: int) -> Message:
    answer = ConfigRecord({"rows": json.dumps(rows), "weight": weight, "peak_mb": peak_memory_mb()})
    return Message(RecordDict({"models": ArrayRecord(models), JOB: answer}), reply_to=message)
