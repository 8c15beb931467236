"""The rounds of an experiment: sample, configure, train, aggregate, evaluate; each is a value when it is over."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from omegaconf import DictConfig

from fl_bench import rng
from fl_bench.config import trust
from fl_bench.errors import RunError, note
from fl_bench.federation import defended, rows
from fl_bench.federation.cohort import Cohort
from fl_bench.federation.exchange import Answer, Status, joined, with_status
from fl_bench.federation.fleet import Fleet
from fl_bench.federation.flower_log import flower_says
from fl_bench.federation.local import Trainer
from fl_bench.federation.rows import Row
from fl_bench.metrics import Summand, values
from fl_bench.network.schedule import Plan, Schedule
from fl_bench.privacy.spent import Spent
from fl_bench.storage.states import ClientStates
from fl_bench.strategies.server import ALL_WEIGHTS, LOWER_IS_BETTER, SECRET_NOISE, Exchanges, own_part
from fl_bench.topologies.base import Topology

Vector = NDArray[np.float32]
SILENT = (Status.FAILED, Status.DROPPED, Status.EMPTY)  # of clients that have done nothing in a round


@dataclass(frozen=True)
class Experiment:
    """The parts of an experiment, made and checked once from its config."""

    cfg: DictConfig
    folder: Path  # of the run
    data: Path  # of the config, the data and the partition, for the workers
    strategy: Strategy
    trainer: Trainer
    schedule: Schedule
    states: ClientStates
    topology: Topology
    spent: Spent | None = None  # where clients' noise is accounted for

    @property
    def parts(self) -> dict[str, Any]:
        """What a round leaves to the next, beside the model and what is in files."""
        parts: dict[str, Any] = {"strategy": self.strategy, "schedule": self.schedule}
        parts |= {"robust": self.trainer.rule} if self.trainer.rule.keeps or self.trainer.rule.follows else {}
        return parts | ({"spent": self.spent} if self.spent is not None else {})


@dataclass(frozen=True)
class Round:
    """A round that is over; round 0 is the untrained model."""

    number: int
    vector: Vector  # the model [P], then the extras of the algorithm, [P] each
    row: Row  # of metrics.csv
    clients: Sequence[Row] = ()  # the rows of clients.csv, by client
    seconds: Mapping[str, float] = field(default_factory=dict)  # wall, by phase
    worker_peak_mb: int = 0  # the most memory that any worker has had so far
    plan: Plan | None = None  # of the training; None in round 0
    answers: Sequence[Answer] = ()  # to it, by client


class RoundFailed(RunError):
    """A round that cannot go on; `clients` are its rows of clients.csv."""

    def __init__(self, text: str, clients: Sequence[Row]) -> None:
        super().__init__(text)
        self.clients = clients


class Rounds:
    """Takes an experiment's rounds on a fleet, one after another."""

    def __init__(self, experiment: Experiment, fleet: Fleet) -> None:
        self.experiment = experiment
        self.fleet = fleet
        self.cfg, self.trainer, self.strategy = experiment.cfg, experiment.trainer, experiment.strategy
        self.own_part = own_part(experiment.strategy)
        self.ends: Callable[[Round], bool] = lambda round: False  # whether a round is the last before its time

    def __iter__(self) -> Iterator[Round]:
        """All rounds, from that of the untrained model."""
        first = self.first()
        yield first
        yield from self.after(0, first.vector)

    def first(self) -> Round:
        """Round 0: the untrained model."""
        return self.evaluate(Round(0, self.trainer.untrained(), {"round": 0}))

    def after(self, number: int, vector: Vector) -> Iterator[Round]:
        """The rounds after `number`, which has made the model `vector`, up to the last."""
        while number < self.cfg.num_rounds:
            number += 1
            round = self.train(number, vector)
            vector = round.vector
            due = number % self.cfg.evaluate.every == 0 or number == self.cfg.num_rounds
            yield self.evaluate(round) if due or self.ends(round) else round

    def train(self, number: int, vector: Vector) -> Round:
        """A round from the last one's model, not evaluated yet."""
        seconds = Seconds()
        with seconds.of("train"):
            messages, plan = self.configure_train(number, vector)
            answers = self._exchange(messages, plan)
        bytes_down = self.trainer.channel.bytes_down + self.trainer.layout.unplanned(vector)
        if (spent := self.experiment.spent) is not None:
            spent.add(answer.client for answer in answers if answer.status in (Status.OK, Status.WITHHELD))
        trained = self.experiment.topology.costs([rows.trained(answer, plan, bytes_down) for answer in answers])
        clients = self._marked(number, trained)
        self._tolerate(number, answers, clients)
        with seconds.of("aggregate"):
            record, extra = self.aggregate(plan, messages, answers)
        self._commit(plan, answers, made_a_model=record is not None)
        if record is not None:
            vector = self.trainer.layout.from_record(record)
        row: Row = {"round": number} | rows.training(answers, clients, extra, getattr(self.strategy, "columns", ()))
        row |= {"aggregated": int(record is not None), "virtual_seconds": plan.ends}
        row |= {"epsilon": spent.largest} if spent is not None else {}
        return Round(number, vector, row, clients, seconds, self.fleet.worker_peak_mb, plan, answers)

    def _exchange(self, messages: list[Message], plan: Plan) -> list[Answer]:
        """What clients say in the exchanges of a round's training, of which a strategy may want several."""
        strategy: Any = self.strategy
        count = strategy.exchanges(plan.round) if isinstance(strategy, Exchanges) else 1
        now = self.fleet.exchange(messages, plan, last=count == 1)
        answers = {answer.client: answer for answer in now}
        for number in range(1, count):
            messages = list(strategy.go_on(plan.round, number, messages, _messages(now)))
            now = self.fleet.exchange(messages, plan, number, number == count - 1)
            answers |= {answer.client: joined(answers[answer.client], answer) for answer in now}
        return list(answers.values())

    def evaluate(self, round: Round) -> Round:
        """The same round with its metrics on the central test set, and where wanted on clients' held-out data."""
        seconds = Seconds(round.seconds)
        with seconds.of("test"):
            tested = self.fleet.test(round.number, round.vector, self.trainer.test_batches)
            tested |= self._tested_by_server(round.number)
            row = round.row | rows.tested(tested, self.trainer.measure(round.vector))
            validated = self.fleet.test(round.number, round.vector, self.trainer.validation_batches)
            row |= {f"validation_{name}": value for name, value in values(validated).items()}
        clients = round.clients
        if self.cfg.evaluate.clients:
            with seconds.of("evaluate_clients"):
                answers, clients = self._evaluate_clients(round, clients, rows.CLIENTS)
                extra = self.strategy.aggregate_evaluate(round.number, _messages(answers))
            row |= rows.evaluation(answers, self.trainer.metrics, extra)
        if len(self.trainer.unseen.ends):
            columns = self.columns_of_strangers
            with seconds.of("evaluate_clients"):
                answers, clients = self._evaluate_clients(round, clients, columns, unseen=True)
            row |= rows.of_strangers(answers, columns)
        peak = self.fleet.worker_peak_mb
        return replace(round, row=row, clients=clients, seconds=seconds, worker_peak_mb=peak)

    def _tested_by_server(self, number: int) -> Mapping[str, Summand]:
        """What the server half says of the test rows itself, by what clients make of them."""
        messages = list(self.own_part.configure_test(number))
        plan = Plan(number, [message.metadata.dst_node_id for message in messages])
        answers = self.fleet.exchange(messages, plan) if messages else []
        self._tolerate(number, answers, (), " --evaluation")
        return self.own_part.aggregate_test(number, _messages(answers))

    def configure_train(self, number: int, vector: Vector) -> tuple[list[Message], Plan]:
        """Who is asked in a round, and what the strategy sends them."""
        plan = self.experiment.schedule.plan(number)
        rng.seed_globals(self.cfg.seed, "configure_train", number)
        told = ConfigRecord({ALL_WEIGHTS: self._all_weights, SECRET_NOISE: self.fleet.homes is not None, **plan.told})
        if not plan.asked and not self._of_nothing:  # a strategy of Flower's would wait for somebody
            return [], plan
        arrays = self.trainer.layout.to_record(vector)
        messages = list(self.strategy.configure_train(number, arrays, told, Cohort(plan)))
        defended.tell(self.trainer.rule, messages)
        return messages, plan

    def configure_evaluate(self, number: int, vector: Vector, unseen: bool = False) -> tuple[list[Message], Plan]:
        """What the strategy sends to those who hold out data, of those who train or of those who never do."""
        first, partition = (
            (len(self.trainer.partition.ends), self.trainer.unseen) if unseen else (0, self.trainer.partition)
        )
        holding = first + np.flatnonzero(partition.heldout_sizes)
        most = self.cfg.evaluate.max_clients
        if most is not None and most < len(holding):  # the same in every round
            holding = np.sort(rng.generator(self.cfg.seed, "evaluated").choice(holding, most, replace=False))
        plan = Plan(number, holding.tolist())
        rng.seed_globals(self.cfg.seed, "configure_evaluate", number)
        lower = [name for name, metric in self.trainer.metrics.items() if metric.better == "lower"]
        arrays, told = self.trainer.layout.to_record(vector), ConfigRecord({LOWER_IS_BETTER: lower})
        return list(self.strategy.configure_evaluate(number, arrays, told, Cohort(plan))), plan

    def _evaluate_clients(
        self, round: Round, clients: Sequence[Row], columns: Mapping[str, str], unseen: bool = False
    ) -> tuple[list[Answer], list[Row]]:
        """What clients say of a round's model, and with it the rows of its `clients`."""
        messages, plan = self.configure_evaluate(round.number, round.vector, unseen)
        answers = self.fleet.exchange(messages, plan)
        evaluated = self._marked(round.number, rows.evaluated(answers, round.number, clients, columns))
        self._tolerate(round.number, answers, evaluated, " --evaluation")
        return answers, evaluated

    def _marked(self, number: int, clients: list[Row]) -> list[Row]:
        """Rows of clients.csv with each client's epsilon, and who is malicious, from the round on in which one is."""
        attack, spent = self.trainer.attack, self.experiment.spent
        if spent is not None:
            clients = [row | {"epsilon": spent.epsilon(row["client"])} for row in clients]
        if not any(attack.attacks(client, number) for client in attack.malicious):
            return clients
        return [row | {"malicious": int(attack.attacks(row["client"], number))} for row in clients]

    @cached_property
    def _all_weights(self) -> int:
        """What all clients weigh together: asked for once, where only their sites know what one weighs."""
        known = self.trainer.weighting.all
        return self.fleet.weigh() if known is None else known

    @property
    def columns_of_strangers(self) -> Mapping[str, str]:
        return rows.STRANGERS | (rows.ADAPTED if self.trainer.adapts else {})

    @property
    def _of_nothing(self) -> bool:
        """Whether the strategy makes a model also where nobody has answered."""
        return getattr(self.strategy, "of_nothing", False)

    def aggregate(
        self, plan: Plan, asked: Sequence[Message], answers: Sequence[Answer]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's new model and what it makes of the metrics; None where too few have answered."""
        answered, withheld = with_status(Status.OK, answers), with_status(Status.WITHHELD, answers)
        known = any(answer.message is not None for answer in answered)  # masks hide the sum of too few
        enough = known and len(answered) + len(withheld) >= self.cfg.min_clients
        if not (enough or self._of_nothing):
            return None, None
        given = defended.combined(self.trainer, self.strategy, asked, answers, plan.round)
        if given is None:
            return None, None
        rng.seed_globals(self.cfg.seed, "aggregate_train", plan.round)
        record, extra = self.strategy.aggregate_train(plan.round, _messages(given))
        if record is None and len(answered) == len(plan.asked):
            name = type(self.strategy).__name__
            raise RunError(f"round {plan.round}: {name} made no model of {len(answered)} answers: {flower_says.last}")
        if record is None:
            note(f"round {plan.round}: the old model stays, as some have not answered: {flower_says.last}")
        return record, extra

    def _commit(self, plan: Plan, answers: Sequence[Answer], made_a_model: bool) -> None:
        """Let clients have what they kept in this round, and the schedule what it has learned.

        Where no model was made, those who answered stay as they were: nothing came of their work.
        """
        answered, withheld = with_status(Status.OK, answers), with_status(Status.WITHHELD, answers)
        moved_on = [a.client for a in withheld + (answered if made_a_model else []) if a.keeps]
        self.experiment.states.commit(plan.round, moved_on, plan.asked)
        losses = {answer.client: answer.metrics["loss"].value for answer in answered if answer.metrics}
        self.experiment.schedule.learn(plan.round, losses)

    def _tolerate(self, number: int, answers: Sequence[Answer], clients: Sequence[Row], flag: str = "") -> None:
        """Say which clients failed; raise RoundFailed where all did or none may."""
        failed = with_status(Status.FAILED, answers)
        if not failed:
            return
        first, when = failed[0], " in their evaluation" if flag else ""
        named = "".join(f" {quote(word)}" for word in trust.flags(self.cfg))
        folder = quote(str(self.experiment.folder))
        text = (
            f"round {number}: {len(failed)} of {len(answers)} clients failed{when}; client {first.client}: {first.why}"
            f"; to see it: fl-bench replay {folder} --round {number} --client {first.client}{flag}{named}"
        )
        if self.cfg.on_client_failure == "abort" or all(answer.status in SILENT for answer in answers):
            raise RoundFailed(text, clients)
        note(text)


class Seconds(dict[str, float]):
    """Wall seconds by phase of a round."""

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[phase] = time.perf_counter() - start


def _messages(answers: Sequence[Answer]) -> list[Message]:
    """What a strategy is given: those who answered, then those who failed, each by client."""
    messages = [answer.message for answer in answers if answer.message is not None]
    return sorted(messages, key=Message.has_error)
