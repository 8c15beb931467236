"""A Grid that speaks in clients: a strategy sees virtual clients as nodes, and a few workers do their turns.

Whoever configures, sends to or hears from clients does it through here, for every strategy: the fleet packs the
strategy's messages by worker (heaviest client first), sends one message a worker, takes the replies apart, and puts
them in the order of the clients. What it returns depends neither on the number of workers nor on who was first.
"""

import heapq
import json
import textwrap
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray

from fl_bench.errors import RunError, StorageError, WorkerDied, note
from fl_bench.federation.client import (
    DISK_TROUBLE,
    JOB,
    NO_MEMORY,
    WORKER_FAILED,
    WORKER_OUT_OF_MEMORY,
    Row,
    metrics_of,
    to_pairs,
)
from fl_bench.federation.parameters import Layout
from fl_bench.federation.update import ExactMean, Update
from fl_bench.metrics import Mean, merge
from fl_bench.storage.buffers import contents

CLIENT_FAILED = 1  # the code of the Error that a strategy sees for a client without an answer


class Fleet(Grid):
    """The virtual clients of one experiment behind the nodes of Flower's `grid`."""

    def __init__(
        self,
        grid: Grid,
        folder: Path,
        states: Path,
        layout: Layout,
        weights: NDArray[np.int64],
        steps: NDArray[np.int64],
        packing: bool,
        each: bool,
        together: int = 1,
    ) -> None:
        self.grid = grid
        self.folder = folder
        self.states = states
        self.layout = layout
        self.weights = weights  # [num_clients]: training examples
        self.steps = steps  # [num_clients]: a client's share of a worker's time
        self.packing = packing
        self.each = each
        self.together = together  # how many clients a worker trains at once
        self.cohort: Sequence[int] = ()  # the clients that a strategy sees
        self.dropping: Collection[int] = ()  # those of them who will not answer in time, and so need not train
        self.round = 0
        self.rows: list[Row] = []  # of the last exchange, by client
        self.worker_peak_mb = 0  # the most memory that any worker has had
        self._nodes = list(grid.get_node_ids())
        self._bound = 1  # at least the examples of all who train in this exchange
        self._sent: dict[str, tuple[list[Message], ExactMean]] = {}

    def get_node_ids(self) -> Iterable[int]:
        return self.cohort

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Give every client its message and return the replies by client; the rows of the exchange stay in `rows`.

        Where the strategy needs only the mean of the models, there is one reply, from the first client that has
        answered, with that mean and the sum of the weights; and an error for each client that has failed.
        """
        by_client = {message.metadata.dst_node_id: message for message in messages}
        answering = by_client.keys() - self.dropping
        self._bound = max(1, int(self.weights[list(answering)].sum()))
        replies = self._collect(self.push_messages(by_client[client] for client in answering), timeout)
        while (crowded := _out_of_memory(replies)) and len(self._nodes) > 1:
            self._use_fewer_nodes()
            replies += self._collect(self.push_messages(by_client[client] for client in crowded), timeout)
        answers = self._unpack(replies)
        dropped = ({"client": client, "status": "dropped"} for client in by_client.keys() - answering)
        self.rows = sorted([*self.rows, *dropped], key=lambda row: row["client"])
        return answers

    def test(self, payload: NDArray[np.float32], num_batches: int) -> dict[str, Mean]:
        """The metrics of a model on the central test set, whose batches the workers share."""
        content = RecordDict({"arrays": self.layout.to_record(payload)})
        batches = range(num_batches)
        shares = [list(batches[index :: len(self._nodes)]) for index in range(len(self._nodes))]
        messages = [
            Message(self._with_job(content, {"batches": share}), node, MessageType.QUERY)
            for node, share in zip(self._nodes, shares, strict=True)
            if share
        ]
        answers = [self._answer(reply, "the test set") for reply in self._collect(self.grid.push_messages(messages))]
        rows = [row for answer in answers for row in json.loads(answer["rows"])]
        if crowded := _with_no_memory(rows):
            if len(self._nodes) == 1:
                raise RunError(f"round {self.round}: testing the model: {crowded[0]['why']}")
            self._use_fewer_nodes()
            return self.test(payload, num_batches)
        return merge(map(metrics_of, rows))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        by_client = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        self._bound = max(self._bound, int(self.weights[[m.metadata.dst_node_id for m in by_client]].sum()))
        ids = []
        exact: dict[int, ExactMean] = {}  # by content: usually all messages share one
        for worker, pack in self._pack(by_client):
            content = pack[0].content
            if id(content) not in exact:
                arrays = next(iter(content.array_records.values()))
                exact[id(content)] = ExactMean(self.layout.from_record(arrays), self._bound)
            clients = [message.metadata.dst_node_id for message in pack]
            job = {"clients": clients, "weight_bound": self._bound, "each": self.each, "together": self.together}
            content = self._with_job(content, job)
            node = self._nodes[worker]
            (message_id,) = self.grid.push_messages([Message(content, node, pack[0].metadata.message_type)])
            self._sent[message_id] = (pack, exact[id(pack[0].content)])
            ids.append(message_id)
        starts = [mean.start for mean in exact.values()]
        if not self.each and any((start != starts[0]).any() for start in starts[1:]):
            raise RunError("the strategy sends clients different models: its yaml must say needs_each_client: true")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return list(self.grid.pull_messages(message_ids))

    def set_run(self, run: Run) -> None:
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        return self.grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def _with_job(self, content: RecordDict, job: dict[str, Any]) -> RecordDict:
        """What a strategy sends, and beside it what a worker is to do."""
        where: dict[str, Any] = {"folder": str(self.folder), "states": str(self.states), "round": self.round}
        return RecordDict({**content, JOB: ConfigRecord(where | job)})

    def _collect(self, message_ids: Iterable[str], timeout: float | None = None) -> list[Message]:
        """The replies to these messages, once all are there."""
        message_ids = list(message_ids)
        replies = collect(self.grid, message_ids, timeout)
        if len(replies) < len(message_ids):
            raise RunError(f"round {self.round}: no answer from a worker after {timeout:.0f} s")
        return replies

    def _use_fewer_nodes(self) -> None:
        """From now on only half of the workers train; the others leave their GPU memory to them."""
        used, left = self._nodes[::2], self._nodes[1::2]  # of each GPU some: Ray fills one after the other
        self._nodes = used
        self._collect(self.grid.push_messages(Message(RecordDict(), node, MessageType.QUERY) for node in left))
        note(f"round {self.round}: out of GPU memory: {len(used)} of the workers go on, and repeat who found no room")

    def _pack(self, messages: list[Message]) -> list[tuple[int, list[Message]]]:
        """Split the messages over the workers: the heaviest client goes first, to the worker with the least to do.

        Only messages with the very same content object can share one of ours.
        """
        if not self.packing:
            return [(index % len(self._nodes), [message]) for index, message in enumerate(messages)]
        loads = [(0, worker) for worker in range(len(self._nodes))]
        packs: dict[tuple[int, int], list[Message]] = {}
        costs = {id(message): self.steps[message.metadata.dst_node_id] for message in messages}
        for message in sorted(messages, key=lambda message: -costs[id(message)]):
            load, worker = heapq.heappop(loads)
            packs.setdefault((id(message.content), worker), []).append(message)
            heapq.heappush(loads, (load + costs[id(message)], worker))
        return [(worker, pack) for (_, worker), pack in packs.items()]

    def _unpack(self, replies: list[Message]) -> list[Message]:
        originals: dict[int, Message] = {}
        rows: dict[int, Row] = {}  # of a client that has been repeated, the later one
        models: dict[int, ArrayRecord] = {}
        total: Update | None = None
        for reply in replies:
            pack, exact = self._sent.pop(reply.metadata.reply_to_message_id)
            originals |= {message.metadata.dst_node_id: message for message in pack}
            answer = self._answer(reply, f"clients {', '.join(str(message.metadata.dst_node_id) for message in pack)}")
            rows |= {row["client"]: row for row in json.loads(answer["rows"])}
            if answer.get("together", self.together) < self.together:
                self.together = answer["together"]
                note(f"out of GPU memory: from now on a worker trains {self.together} clients at once")
            for key, array in reply.content.array_records["models"].items():
                if key == "total":
                    total = exact.add(total, Update(contents(array), answer["weight"]))
                else:
                    models[int(key)] = self.layout.to_record(contents(array))
        self.rows = [rows[client] for client in sorted(rows)]
        for row in _with_no_memory(self.rows):
            row["status"] = "failed"
        errors = [
            Message(Error(CLIENT_FAILED, row["why"]), reply_to=originals[row["client"]])
            for row in self.rows
            if "why" in row
        ]
        answered = [row for row in self.rows if row["status"] in ("ok", "evaluated")]
        if not answered:
            return errors
        if total is not None:
            weighted = (
                {k: Mean(v * row["num_examples"], row["num_examples"]) for k, v in row["reply"].items()}
                for row in answered
            )
            merged = {
                "num_examples": total.weight,
                "metrics": to_pairs(merge(map(metrics_of, answered))),
                "reply": {name: mean.value for name, mean in merge(weighted).items()},
            }
            models = {answered[0]["client"]: self.layout.to_record(exact.mean(total))}
            answered = [answered[0] | merged]
        return [self._message(row, models, originals[row["client"]]) for row in answered] + errors

    def _answer(self, reply: Message, work: str) -> dict[str, Any]:
        """What a worker says of its work."""
        if reply.has_error():
            reason = textwrap.shorten(str(reply.error.reason), 300, placeholder=" ...")
            if reply.error.code == DISK_TROUBLE:
                raise StorageError(f"round {self.round}: {reason}")
            text = f"round {self.round}: the worker of {work} {reason}"
            if reply.error.code == WORKER_FAILED:
                raise RunError(text)
            raise WorkerDied(text, out_of_memory=reply.error.code == WORKER_OUT_OF_MEMORY)
        answer: dict[str, Any] = dict(reply.content.config_records[JOB])
        self.worker_peak_mb = max(self.worker_peak_mb, answer["peak_mb"])
        return answer

    @staticmethod
    def _message(row: Row, models: dict[int, ArrayRecord], original: Message) -> Message:
        """The reply of one client as Flower's strategies want it."""
        is_train = original.metadata.message_type == MessageType.TRAIN
        means = metrics_of(row)
        if is_train:
            numbers = {f"train_{name}": mean.value for name, mean in means.items()} | row["reply"]
            content = RecordDict({"arrays": models[row["client"]]})
        else:
            numbers = {name: mean.value for name, mean in means.items()}
            content = RecordDict()
        weight = row["num_examples"] if is_train else means["loss"].count
        content["metrics"] = MetricRecord({"num-examples": weight} | numbers)
        return Message(content, reply_to=original)


def collect(grid: Grid, message_ids: Iterable[str], timeout: float | None = None) -> list[Message]:
    """The replies to these messages, once all are there, or those that are when the seconds are over."""
    pending = set(message_ids)
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    replies: list[Message] = []
    while pending:
        arrived = list(grid.pull_messages(pending))
        replies += arrived
        pending -= {reply.metadata.reply_to_message_id for reply in arrived}
        if time.monotonic() > deadline:
            break
    return replies


def _out_of_memory(replies: list[Message]) -> list[int]:
    """The clients that found no room on a GPU, if their last reply says so."""
    rows: dict[int, Row] = {}
    if any(not reply.has_error() and NO_MEMORY in str(reply.content.config_records[JOB]["rows"]) for reply in replies):
        for reply in replies:
            if not reply.has_error():
                rows |= {row["client"]: row for row in json.loads(str(reply.content.config_records[JOB]["rows"]))}
    return [row["client"] for row in _with_no_memory(rows.values())]


def _with_no_memory(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == NO_MEMORY]
