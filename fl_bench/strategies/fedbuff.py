"""FedBuff: Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", arXiv:2106.06639.

`clients_per_round` clients train at any time; as soon as one is done, another starts from the model that there is then.
Each time `buffer` updates have come, the server makes a new model of them: that is a round here. An update from t
models ago counts 1 / sqrt(1 + t).
"""

import heapq
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_bench import rng
from fl_bench.network.clock import Arrival, Network
from fl_bench.network.schedule import Clients, Plan, Schedule
from fl_bench.storage.buffers import arrays_in
from fl_bench.strategies.layers import is_statistic


class Flight(NamedTuple):
    """A client that is training; who is done first sorts first, and among equals who was the first to start."""

    at: float
    number: int  # how many have started before
    client: int
    model: int  # the round that has made the model it started from
    answer: Arrival


class Buffered(Schedule):
    """A round lasts until `buffer` answers have come, or until none can come any more.

    Whoever has answered may start again at once, from the last model. Since a client has one row in a round, a second
    answer lies in the buffer until the next round, and its client does not start before that. Those who answer at the
    same time do so before anybody starts. Clients without samples are not asked.
    """

    def __init__(self, network: Network, clients_per_round: int, buffer: int) -> None:
        if not 1 <= buffer <= len(network.steps):
            raise ValueError(f"buffer={buffer}: must be from 1 to num_clients={len(network.steps)}")
        super().__init__(network, buffer)
        self.concurrency = clients_per_round
        self.flying: list[Flight] = []  # a heap
        self.early: list[Flight] = []  # have answered, and count in the next round; the first first
        self.started = 0

    def plan(self, round: int) -> Plan:
        landed: dict[int, Flight] = {}
        generator = rng.generator(self.network.seed, "cohort", round)
        early, self.early = self.early, []
        missing = self.wanted
        while missing and (early or self._fly(round, landed, generator)):
            flight = early.pop(0) if early else heapq.heappop(self.flying)
            self.now = max(self.now, flight.at)
            if flight.client in landed:
                self.early.append(flight)
            else:
                landed[flight.client] = flight
                missing -= flight.answer.comes
        self.early = early + self.early
        asked = sorted(landed)
        models = [landed[client].model for client in asked]
        waiting = sorted({flight.model for flight in (*self.flying, *self.early)})
        told = {"clients": asked, "models": models, "waiting": waiting}
        dropping = {client for client in asked if not landed[client].answer.comes}
        return Plan(round, asked, dropping, {k: landed[k].answer.seconds for k in asked}, self.now, told)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for name in ("flying", "early"):  # they come as plain tuples
            flights = ((*flight[:-1], Arrival(*flight[-1])) for flight in getattr(self, name))
            setattr(self, name, [Flight(*flight) for flight in flights])

    def _fly(self, round: int, landed: Mapping[int, Flight], generator: np.random.Generator) -> bool:
        """Let clients start until the next one lands; False where nobody else can land in this round."""
        while True:
            if self.flying and self.flying[0].at == self.now:
                return True  # who lands now does so before anybody starts
            idle = self._idle()
            if all(client in landed for client in chain(idle, (flight.client for flight in self.flying))):
                if landed:
                    return False
                self.now = self.network.reachable(round, self.now)
                idle = self._idle()
            self._start(round, landed, idle, generator)
            opens = self.network.opens(self.now) if len(self.flying) < self.concurrency else None
            if opens is None or (self.flying and self.flying[0].at <= opens):
                return True
            self.now = opens  # there may be somebody to start

    def _idle(self) -> Clients:
        """Those who could start now, rising."""
        available = self.network.devices.available(self.now)
        busy = [flight.client for flight in (*self.flying, *self.early)]
        return available[(self.network.steps[available] > 0) & ~np.isin(available, busy)]

    def _start(self, round: int, landed: Mapping[int, Flight], idle: Clients, generator: np.random.Generator) -> None:
        """Let clients start from the last model until enough are training, or nobody is idle."""
        count = min(self.concurrency - len(self.flying), len(idle))
        for client in sorted(generator.choice(idle, count, replace=False, shuffle=False).tolist()):
            again = client in landed and landed[client].model == round - 1  # it has started and landed in this round
            answer = self.network.answer(round, client, self.now, start=int(again))
            heapq.heappush(self.flying, Flight(answer.at, self.started, client, round - 1, answer))
            self.started += 1


class FedBuff(FedAvg):
    """w + server_lr * mean of s_i (w_i - the model that i started from), by `weighting`; s_i = 1/sqrt(1 + t)."""

    def __init__(self, server_lr: float, **options: Any) -> None:
        if not server_lr > 0:
            raise ValueError(f"server_lr={server_lr}: must be a positive number")
        super().__init__(**options)
        self.server_lr = server_lr
        self.divisors: dict[int, float] = {}  # of the updates of this round, by client: sqrt(1 + t)
        self.models: dict[int, ArrayRecord] = {}  # by the round that has made them, as far as someone still has them

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        clients, models, waiting = (cast(list[int], config.pop(name)) for name in ("clients", "models", "waiting"))
        self.started = dict(zip(clients, models, strict=True))
        self.divisors = {k: float(np.sqrt(server_round - model)) for k, model in self.started.items()}
        self.models[server_round - 1] = arrays
        needed = {*models, *waiting, server_round - 1}
        self.models = {model: old for model, old in self.models.items() if model in needed}
        messages = list(super().configure_train(server_round, arrays, config, grid))
        contents = {  # one object a model, so that clients with the same one share a message to their worker
            model: RecordDict({**messages[0].content, self.arrayrecord_key: self.models[model]})
            for model in set(self.started.values())
        }
        for message in messages:
            message.content = contents[self.started[message.metadata.dst_node_id]]
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        means, metrics = super().aggregate_train(server_round, replies)
        if means is None:
            return means, metrics
        now = self.models[server_round - 1]
        moved = {name: np.zeros(array.shape) for name, array in now.items()}
        total = 0.0
        for reply in (reply for reply in replies if not reply.has_error()):
            client = reply.metadata.src_node_id
            examples = float(next(iter(reply.content.metric_records.values()))[self.weighted_by_key])  # type: ignore[arg-type]
            weight = examples / self.divisors[client]
            total += examples
            for name, array in arrays_in(reply.content).items():
                moved[name] += weight * (array.numpy() - self.models[self.started[client]][name].numpy())
        rate = self.server_lr / total
        new = {
            name: means[name] if is_statistic(name) else Array((array.numpy() + rate * moved[name]).astype(np.float32))
            for name, array in now.items()
        }
        return ArrayRecord(new), metrics
