"""The rows that a round writes: one of metrics.csv, and one of clients.csv for each client that was asked."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import MetricRecord

from fl_bench.federation.exchange import Answer, Status, with_status
from fl_bench.federation.local import RECEIVED, VALIDATION
from fl_bench.federation.parts import ATTACK
from fl_bench.metrics import FUNCTIONS, WRITTEN, Metric, Summand, merge, values
from fl_bench.network.schedule import Plan

Row = dict[str, Any]  # of a table, by column
COSTS = ("steps", "bytes_down", "bytes_up")  # columns that add up over clients


def trained(answer: Answer, plan: Plan, bytes_down: int) -> Row:
    """The row of a client that was asked to train."""
    row: Row = {"round": plan.round, "client": answer.client, "status": answer.status.value}
    if answer.metrics:
        row["num_examples"] = answer.num_examples
        row |= {f"train_{name}": mean.value for name, mean in answer.metrics.items()}
        row |= {f"train_{name}": value for name, value in answer.reply.items()}
    row |= {"steps": answer.steps, "bytes_down": bytes_down + answer.bytes_down, "bytes_up": answer.bytes_up}
    seconds = plan.seconds[answer.client]
    row["virtual_seconds"] = seconds if math.isfinite(seconds) else None  # None: never
    return row | ({"why": answer.why} if answer.why is not None else {})


# By the prefix of a metric's name that of its columns.
TESTED = {"": "test_", ATTACK: "attack_"}
CLIENTS = {"": "client_", VALIDATION: "validation_", ATTACK: "client_attack_"}
STRANGERS = {RECEIVED: "unseen_"}
ADAPTED = {"": "unseen_adapted_"}  # where they do something with the model before they use it


def evaluated(answers: Iterable[Answer], round: int, trained: Iterable[Row], columns: Mapping[str, str]) -> list[Row]:
    """The rows of those who have `trained`, with what their evaluation says; and of others, at no cost."""
    by_client = {row["client"]: row for row in trained}
    for answer in answers:
        alone = {"round": round, "client": answer.client, "status": answer.status.value} | dict.fromkeys(COSTS, 0)
        row = by_client.get(answer.client, alone)
        by_client[answer.client] = row | of_evaluation(answer, row.get("why"), columns)
    return [by_client[client] for client in sorted(by_client)]


def of_evaluation(answer: Answer, why: str | None = None, columns: Mapping[str, str] = CLIENTS) -> Row:
    """What its evaluation adds to a client's row; `why` its training failed, if it did."""
    if answer.status in (Status.EVALUATED, Status.EMPTY):
        return _columns(answer.metrics, columns)
    return {"why": "; ".join(filter(None, (why, f"evaluation: {answer.why}")))}


def tested(metrics: Mapping[str, Summand], measured: Mapping[str, float]) -> Row:
    """What metrics.csv says of the central test set: metrics that add up over batches, and what is measured at once."""
    return _columns(metrics, TESTED) | {f"test_{name}": value for name, value in measured.items()}


def training(
    answers: Sequence[Answer], rows: Iterable[Row], extra: MetricRecord | None, columns: Sequence[str] = ()
) -> Row:
    """What metrics.csv says of a round's training: means over those who answered, what the strategy adds, counts.

    Of what it adds, `columns` are no metrics of the training, and keep their names.
    """
    of_all = [answer.of_all for answer in answers if answer.of_all is not None]
    means = merge(said.metrics for said in (of_all or with_status(Status.OK, answers)))
    row = {f"train_{name}": mean.value for name, mean in means.items()}
    row |= {name: value for name, value in _prefixed("train_", extra, columns).items() if name not in row}
    statuses = [answer.status for answer in answers]
    row["clients_sampled"] = len(statuses)
    for status in (Status.OK, Status.FAILED, Status.DROPPED, Status.WITHHELD):
        row[f"clients_{status}"] = statuses.count(status)
    rows = list(rows)
    row |= {name: sum(row[name] or 0 for row in rows) for name in COSTS}
    row["steps"] += sum(said.steps for said in of_all)
    return row | {name: extra[name] for name in columns if extra is not None}


def evaluation(answers: Sequence[Answer], metrics: Mapping[str, Metric], extra: MetricRecord | None) -> Row:
    """What metrics.csv says of the clients' held-out data: means, how they are spread, and what the strategy adds."""
    by_client = [answer.metrics for answer in answers if answer.status is Status.EVALUATED]
    merged = merge(by_client)
    row: Row = {}
    for name, summand in merged.items():
        row |= _columns({name: summand}, CLIENTS)
        each = [of_one[name] for of_one in by_client if "/" not in name and of_one[name].known]
        if not each:
            continue
        ordered = metrics[name].best_first([one.value for one in each], [one.count for one in each])
        row |= {f"client_{name}_{spread}": FUNCTIONS[spread](*ordered) for spread in WRITTEN}
    ours = {f"client_{name}" for name in merged}
    return row | {name: value for name, value in _prefixed("client_", extra).items() if name not in ours}


def of_strangers(answers: Sequence[Answer], columns: Mapping[str, str]) -> Row:
    """What metrics.csv says of clients that never train, of the model as received and as they would use it: means."""
    return _columns(merge(answer.metrics for answer in answers if answer.status is Status.EVALUATED), columns)


def _columns(metrics: Mapping[str, Summand], columns: Mapping[str, str]) -> Row:
    """The values of metrics whose names have one of the prefixes of `columns`, under those of the columns."""
    known = values(metrics)
    parts = {name: name.rpartition("/") for name in known}
    found = {name: (columns.get(head + slash), tail) for name, (head, slash, tail) in parts.items()}
    return {column + tail: known[name] for name, (column, tail) in found.items() if column}


def _prefixed(prefix: str, record: MetricRecord | None, others: Sequence[str] = ()) -> Row:
    """The single numbers of what a strategy made of the metrics, as columns, but for `others`."""
    known = (record or {}).items()
    numbers = {name: value for name, value in known if isinstance(value, int | float) and name not in others}
    return {name if name.startswith(prefix) else prefix + name: value for name, value in numbers.items()}
