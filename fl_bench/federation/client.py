"""The ClientApp that every worker runs: it trains, evaluates or tests what the job of a message names.

A message carries the strategy's own records and our `Job`; the reply is a `Report`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fl_bench.errors import disk_trouble, in_one_line
from fl_bench.federation import attacked, defended
from fl_bench.federation.attempt import attempt, is_no_room, recover, time_limit
from fl_bench.federation.channel import WITHHELD_BYTES, memory_of, without_memory
from fl_bench.federation.exchange import (
    NOBODY,
    RECORD,
    TOTAL,
    Answer,
    Job,
    Report,
    Status,
    Trouble,
    of_clients,
    settings_in,
)
from fl_bench.federation.local import Trainer, trainer_in
from fl_bench.federation.masked import MaskedSums, speak
from fl_bench.federation.trained import Trained
from fl_bench.federation.update import Diverged, ExactMean, Update, check_size
from fl_bench.federation.vectorized import train_together
from fl_bench.machine import peak_memory_mb
from fl_bench.storage.buffers import arrays_in
from fl_bench.storage.states import ClientStates

Handler = Callable[[Message], Report]
Vector = NDArray[np.float32]

app = ClientApp()


def _reporting(handler: Handler) -> Callable[[Message, Context], Message]:
    """A handler of Flower's; it answers too for a worker whose disk fails, or whose GPU has no room even to begin."""

    @wraps(handler)
    def handle(message: Message, context: Context) -> Message:
        try:
            return handler(message).reply_to(message)
        except Exception as error:
            if trouble := disk_trouble(error):
                return Message(Error(Trouble.DISK, trouble), reply_to=message)
            if not is_no_room(error):
                raise
            why = in_one_line(error)
        torch.cuda.empty_cache()
        clients = Job.of(message).clients or (NOBODY,)
        answers = [Answer(client, Status.NO_ROOM, why=why) for client in clients]
        return Report(answers, peak_memory_mb()).reply_to(message)

    return handle


@app.train()
@_reporting
def train(message: Message) -> Report:
    job = Job.of(message)
    trainer, start, config = _unpack(message, job)
    if trainer.timeout is not None:  # what it imports is no client's time
        trainer.task.optimizer(trainer.flat.model, trainer.local)
    work = _Training(job, message.content, start, config, trainer)
    clients, size, answers = job.clients, job.together, []
    while clients:
        stacked = work.stack(clients[:size])
        if stacked is None:
            size = -(-min(size, len(clients)) // 2)
            continue
        turn = partial(work.turn, stacked=stacked)
        answers += [attempt(turn, client, trainer.retry) for client in clients[:size]]
        clients = clients[size:]
    weight, said = 0, work.masked.said() if work.masked is not None else None
    if work.masked is not None and work.masked.sums:
        work.models[TOTAL] = work.masked.total()
    elif work.total is not None:
        work.models[TOTAL], weight = work.total
    return Report(answers, peak_memory_mb(), work.models, weight, size, said or {}, work.beside)


class _Training:
    """The turns of one message, and what they add up to."""

    def __init__(
        self, job: Job, content: RecordDict, start: Vector, config: Mapping[str, Any], trainer: Trainer
    ) -> None:
        self.job, self.start, self.config = job, start, config
        self.centre = defended.centre_in(content)
        self.states = ClientStates(Path(job.states), job.run)
        self.received = trainer.channel.arrives_down(start, job.round)
        self.exact = ExactMean(start, job.weight_bound)
        self.models: dict[str, NDArray] = {}
        self.told = of_clients(content)
        self.beside: dict[int, Mapping[str, NDArray]] = {}  # what clients send beside a model
        self.total: Update | None = None
        self.masked = MaskedSums(job.masks, self.exact, trainer.seed, job.round) if job.masks else None

    def stack(self, clients: Sequence[int]) -> dict[int, Trained] | None:
        """What those of these clients have learned who train as one program; None where the GPU has no room for it."""
        trainer, round = trainer_in(Path(self.job.folder)), self.job.round
        group = [client for client in clients if len(trainer.rows(client, round))]
        if len(group) < 2:
            return {}
        try:
            before = [without_memory(self.states.read(client, before=round)) for client in group]
            with time_limit(trainer.timeout and trainer.timeout * len(group)):
                return train_together(trainer, group, round, self.received, self.config, before)
        except (Exception, SystemExit) as error:  # but for want of memory, whoever is to blame will fail by itself
            recover(error)
            if not is_no_room(error):
                return {}
        torch.cuda.empty_cache()  # only here is nothing of the failed turn in use any more
        return None

    def turn(self, client: int, stacked: dict[int, Trained]) -> Answer:
        """One client's turn, up to what the server makes of its update."""
        trainer, round = trainer_in(Path(self.job.folder)), self.job.round
        channel = trainer.channel
        if not len(trainer.rows(client, round)):
            return Answer(client, Status.EMPTY)
        now = self.job.last or not self.job.exchange  # in between its turn has it
        before = self.states.read(client, before=round) if now else {}
        told = channel.beside(channel.down, client, round, self.told.get(client, {}), self.job.exchange)
        with time_limit(trainer.timeout):  # not of the sum, of which a half could not be taken back
            if client in stacked:
                trained = stacked.pop(client).checked()
            else:
                part = told.arrays, self.job.exchange, self.job.last
                trained = trainer.train(client, round, self.received, self.config, without_memory(before), *part)
        weight = trainer.weighting.of(trained.num_examples)
        numbers = trained.metrics, trained.num_examples, weight, trained.reply, trained.steps
        sent = channel.beside(channel.up, client, round, trained.beside, self.job.exchange)
        for name, array in sent.arrays.items():
            if not np.isfinite(array).all():
                raise Diverged(f"its {name} is not finite")
        if sent.arrays:
            self.beside[client] = sent.arrays
        up, down = sent.num_bytes, told.num_bytes
        if not self.job.last:
            return Answer(client, Status.OK, *numbers, bytes_up=up, bytes_down=down)
        end = trainer.privacy.sent(client, round, self.received, trained.payload, self.config)
        end = attacked.sent(trainer.attack, client, round, trainer.layout, self.received, end)
        state = trained.state | memory_of(before)
        arrived = channel.arrives_up(client, round, self.start, self.received, end, state, trained.loss)
        if arrived is None:  # nothing has happened, but for what the codec remembers
            state = without_memory(before) | memory_of(state)
            self.states.write(client, round, state)
            if self.masked is not None:
                return Answer(client, Status.WITHHELD, steps=None, bytes_up=WITHHELD_BYTES, keeps=bool(state))
            return Answer(client, Status.WITHHELD, *numbers, bytes_up=WITHHELD_BYTES, keeps=bool(state))
        self.states.write(client, round, state)
        arrived = defended.bounded(trainer.rule, trainer.layout, self.start, arrived, self.centre)
        if self.masked is not None:
            self.masked.add(client, arrived, weight, trained)
            return Answer(client, Status.OK, steps=None, keeps=bool(state))
        if self.job.each:
            check_size(arrived, self.start)
            self.models[str(client)] = arrived.copy()
        else:
            self.total = self.exact.add(self.total, Update(arrived, weight))
        up += channel.bytes_up + trainer.layout.unplanned(arrived)
        return Answer(client, Status.OK, *numbers, bytes_up=up, bytes_down=down, keeps=bool(state))


@app.query("masks")
@_reporting
def agree(message: Message) -> Report:
    """What the parties of a masked sum tell each other before it and after it."""
    job = Job.of(message)
    assert job.masks is not None
    trainer = trainer_in(Path(job.folder))
    said = speak(job.masks, trainer.seed, job.round, trainer.weighting.each)
    return Report([], peak_memory_mb(), said=said)


@app.evaluate()
@_reporting
def evaluate(message: Message) -> Report:
    job = Job.of(message)
    trainer, start, config = _unpack(message, job)
    states = ClientStates(Path(job.states), job.run)
    beside: dict[int, Mapping[str, NDArray]] = {}

    def turn(client: int) -> Answer:
        trainer = trainer_in(Path(job.folder))
        before = states.read(client, before=job.round + 1)
        if trainer.algorithm.has_test:  # the server half measures
            made = trainer.embed_tests(client, job.round, start, before)
            beside[client] = trainer.channel.beside(trainer.channel.up, client, job.round, made, "test").arrays
            return Answer(client, Status.EVALUATED)
        with time_limit(trainer.timeout):
            metrics = trainer.evaluate_client(client, job.round, start, config, before)
        return Answer(client, Status.EVALUATED if metrics else Status.EMPTY, metrics)

    answers = [attempt(turn, client, trainer.retry) for client in job.clients]
    return Report(answers, peak_memory_mb(), beside=beside)


@app.query()
@_reporting
def test(message: Message) -> Report:
    """Batches of the central test set; a message without a job has everything imported and unused memory freed."""
    if RECORD not in message.content:
        torch.cuda.empty_cache()
        return Report([], peak_memory_mb())
    job = Job.of(message)
    trainer, payload, _ = _unpack(message, job)
    tested = trainer.test(payload, job.batches)
    return Report([Answer(NOBODY, Status.TESTED, metrics) for metrics in tested], peak_memory_mb())


def _unpack(message: Message, job: Job) -> tuple[Trainer, Vector, dict[str, Any]]:
    """This process's trainer, what the server sends as a flat vector, and what the strategy sent along."""
    trainer = trainer_in(Path(job.folder))
    arrays = arrays_in(message.content)
    return trainer, trainer.layout.from_record(arrays), settings_in(message.content)
