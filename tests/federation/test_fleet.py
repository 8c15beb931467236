"""Each stock strategy through the fleet gives what the same strategy gives when it is fed the same replies directly."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import FEW, STRATEGIES, Launch, compose, often
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_bench import rng
from fl_bench.build import build
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.errors import RunError
from fl_bench.federation.cohort import Cohort
from fl_bench.federation.exchange import Job
from fl_bench.federation.fleet import Fleet, Vector
from fl_bench.federation.local import Trainer
from fl_bench.network.schedule import Plan
from fl_bench.runs.experiment import make, make_fleet, make_strategy
from fl_bench.runs.prepare import prepare
from fl_bench.storage.checkpoint import Store
from fl_bench.storage.states import ClientStates, State
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.server import ALL_WEIGHTS
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Task

NOTHING_TRAVELS = {"local_only", "fedper", "fedrep"}  # of a model with a single layer


class Plain(InlineGrid):
    """A Grid as a strategy would find it in Flower: ten nodes, and their trained models one by one."""

    def get_node_ids(self) -> Iterable[int]:
        return range(10)


def start(tmp_path: Path, strategy: str) -> tuple[DictConfig, Trainer]:
    cfg = compose(f"strategy={strategy}", "partition=linear", "num_rounds=2", "local.lr=0.05")
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    return cfg, trainer


def told(trainer: Trainer, number: int = 1) -> ConfigRecord:
    """What a strategy is told each round; the last three are for FedBuff, whose clients are all up to date here."""
    up_to_date = {"clients": list(range(10)), "models": [number - 1] * 10, "waiting": []}
    return ConfigRecord({ALL_WEIGHTS: int(trainer.partition.train_sizes.sum()), **up_to_date})


def fleet_of(
    cfg: DictConfig, strategy: Strategy, trainer: Trainer, tmp_path: Path, grid: InlineGrid | None = None
) -> Fleet:
    return make_fleet(make(cfg, strategy, trainer, tmp_path, Store(tmp_path, 0)), grid or InlineGrid())


def replies_of(fleet: Fleet, messages: Iterable[Message], plan: Plan) -> list[Message]:
    return [answer.message for answer in fleet.exchange(messages, plan) if answer.message is not None]


def aggregated(strategy: Strategy, number: int, replies: list[Message]) -> ArrayRecord:
    """The strategy's new model, which it must have made."""
    record, _ = strategy.aggregate_train(number, replies)
    assert record is not None
    return record


def through_fleet(tmp_path: Path, name: str, rounds: int) -> list[Vector]:
    cfg, trainer = start(tmp_path, name)
    strategy = make_strategy(cfg.strategy.server)
    fleet = fleet_of(cfg, strategy, trainer, tmp_path)
    vector, seen = trainer.untrained(), list[Vector]()
    for number in range(1, rounds + 1):
        plan, arrays = Plan(number, range(10)), fleet.layout.to_record(vector)
        replies = replies_of(fleet, strategy.configure_train(number, arrays, told(trainer, number), Cohort(plan)), plan)
        rng.seed_globals(0, "aggregate", number)
        vector = fleet.layout.from_record(aggregated(strategy, number, replies))
        seen.append(vector)
    return seen


def directly(tmp_path: Path, name: str, rounds: int) -> list[Vector]:
    cfg, trainer = start(tmp_path, name)
    strategy = make_strategy(cfg.strategy.server)
    layout = trainer.layout
    states: dict[int, State] = {}
    vector, seen = trainer.untrained(), list[Vector]()
    for number in range(1, rounds + 1):
        messages = strategy.configure_train(number, layout.to_record(vector), told(trainer, number), Plain())
        replies = []
        for message in sorted(messages, key=lambda message: message.metadata.dst_node_id):
            sent = layout.from_record(next(iter(message.content.array_records.values())))
            config = {k: v for record in message.content.config_records.values() for k, v in record.items()}
            client = message.metadata.dst_node_id
            trained = trainer.train(client, number, sent, config, states.get(client, {}))
            states[client] = trained.state
            loss = trained.metrics["loss"].value
            weight = trainer.weighting.of(trained.num_examples)
            metrics = MetricRecord({"num-examples": weight, "train_loss": loss, **trained.reply})
            content = RecordDict({"arrays": layout.to_record(trained.payload.copy()), "metrics": metrics})
            replies.append(Message(content, reply_to=message))
        rng.seed_globals(0, "aggregate", number)
        vector = layout.from_record(aggregated(strategy, number, replies))
        seen.append(vector)
    return seen


@pytest.mark.parametrize("name", often(sorted({*STRATEGIES} - NOTHING_TRAVELS), *FEW, "moon"))
def test_a_strategy_through_the_fleet_is_the_strategy(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = through_fleet(tmp_path / "a", name, 2), directly(tmp_path / "b", name, 2)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() < 1e-6
    assert np.abs(ours[1] - ours[0]).max() > 1e-4  # something was learned, so something was compared


class Wire(InlineGrid):
    """Three nodes that keep what they are sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[list[int]] = []

    def get_node_ids(self) -> Iterable[int]:
        return [7, 8, 9]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self.sent += [list(Job.of(message).clients) for message in messages]
        return super().push_messages(messages)


def sent(tmp_path: Path, *overrides: str) -> list[list[int]]:
    cfg = compose("num_clients=6", "partition=linear", "local.steps=null", *overrides)
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    wire = Wire()
    strategy, plan = make_strategy(cfg.strategy.server), Plan(1, range(6))
    fleet = fleet_of(cfg, strategy, trainer, tmp_path, wire)
    arrays = fleet.layout.to_record(trainer.untrained())
    answers = fleet.exchange(strategy.configure_train(1, arrays, told(trainer), Cohort(plan)), plan)
    assert [answer.client for answer in answers] == list(range(6))
    return wire.sent


def test_heaviest_first_to_the_worker_with_the_least_to_do(tmp_path: Path) -> None:
    # linear shares 1:2:3:4:5:6, so 5+0, 4+1, 3+2 are equal loads
    assert sorted(map(sorted, sent(tmp_path))) == [[0, 5], [1, 4], [2, 3]]


def test_without_packing_each_client_has_a_message(tmp_path: Path) -> None:
    assert sorted(sent(tmp_path, "engine.packing=false")) == [[k] for k in range(6)]


def prepared(tmp_path: Path, *overrides: str) -> tuple[Fleet, Vector]:
    cfg = compose(*overrides)
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    return fleet_of(cfg, make_strategy(cfg.strategy.server), trainer, tmp_path), trainer.untrained()


def different_messages(fleet: Fleet, vector: Vector) -> list[Message]:
    contents = [RecordDict({"arrays": fleet.layout.to_record(vector + k), "config": ConfigRecord()}) for k in (0, 1)]
    return [Message(content, k, "train") for k, content in enumerate(contents)]


def test_a_rule_for_updates_to_different_models_is_refused(tmp_path: Path) -> None:
    fleet, vector = prepared(tmp_path, "robust=median")
    with pytest.raises(RunError, match="sends clients different models"):
        fleet.exchange(different_messages(fleet, vector), Plan(1, [0, 1]))


@pytest.mark.parametrize("packing", ["true", "false"])
def test_there_is_a_mean_for_all_who_were_sent_the_same(tmp_path: Path, packing: str) -> None:
    """Clients 0, 2, 4 are sent one model and 1, 3 another: a reply for each of the two, borne by its first client."""
    given = ("num_clients=5", "partition=linear", f"engine.packing={packing}")
    fleet, vector = prepared(tmp_path, *given)
    contents = [message.content for message in different_messages(fleet, vector)]
    plan = Plan(1, range(5))
    replies = replies_of(fleet, [Message(contents[k % 2], k, "train") for k in plan.asked], plan)
    assert [reply.metadata.src_node_id for reply in replies] == [0, 1]
    (tmp_path / "each").mkdir()
    each, _ = prepared(tmp_path / "each", "strategy.needs_each_client=true", *given)
    models = replies_of(each, [Message(contents[k % 2], k, "train") for k in plan.asked], plan)
    for first, reply in enumerate(replies):
        own = [models[k] for k in range(first, 5, 2)]
        weights = [float(message.content.metric_records["metrics"]["num-examples"]) for message in own]  # type: ignore[arg-type]
        vectors = [fleet.layout.from_record(message.content.array_records["arrays"]) for message in own]
        mean = fleet.layout.from_record(reply.content.array_records["arrays"])
        assert np.abs(mean - np.average(vectors, axis=0, weights=weights)).max() < 1e-6
        assert reply.content.metric_records["metrics"]["num-examples"] == sum(weights)


def test_each_client_may_be_sent_a_model_of_its_own(tmp_path: Path) -> None:
    fleet, vector = prepared(tmp_path, "strategy=qfedavg", "local.lr=1e-9")
    replies = replies_of(fleet, different_messages(fleet, vector), Plan(1, [0, 1]))
    for k, reply in enumerate(replies):
        assert reply.metadata.src_node_id == k
        assert np.abs(fleet.layout.from_record(reply.content.array_records["arrays"]) - (vector + k)).max() < 1e-6


def test_what_clients_report_beside_the_metrics_is_averaged_by_examples(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: LocalAlgorithm, turn: Turn) -> None:
        turn.reply["ten_times"] = turn.client * 10

    monkeypatch.setattr("fl_bench.strategies.base.LocalAlgorithm.finish", finish)
    folder = launch("num_rounds=1", "num_clients=2", "partition=linear", "partition.holdout=0")
    rows = list(csv.DictReader((folder / "clients.csv").open()))
    assert [row["train_ten_times"] for row in rows] == ["0", "10"]
    (metrics,) = list(csv.DictReader((folder / "metrics.csv").open()))[1:]
    weights = [int(row["num_examples"]) for row in rows]
    assert float(metrics["train_ten_times"]) == pytest.approx(10 * weights[1] / sum(weights))


def test_scaffolds_variate_is_the_weighted_mean_of_the_clients_whoever_takes_part(tmp_path: Path) -> None:
    cfg, trainer = start(tmp_path, "scaffold")
    strategy = make_strategy(cfg.strategy.server)
    states = ClientStates(tmp_path / "state")
    fleet = fleet_of(cfg, strategy, trainer, tmp_path)
    vector = trainer.untrained()
    for number, cohort in enumerate(([0, 9], [3], [9, 4, 5], [0, 3]), start=1):
        plan, arrays = Plan(number, cohort), fleet.layout.to_record(vector)
        replies = replies_of(fleet, strategy.configure_train(number, arrays, told(trainer), Cohort(plan)), plan)
        vector = fleet.layout.from_record(aggregated(strategy, number, replies))
    weights = trainer.partition.train_sizes / trainer.partition.train_sizes.sum()
    kept = {client: states.read(client, before=5) for client in range(10)}
    mean = sum(weights[client] * state["variate"].numpy() for client, state in kept.items() if state)
    assert [client for client, state in kept.items() if state] == [0, 3, 4, 5, 9]
    assert np.abs(vector[len(vector) // 2 :] - mean).max() < 1e-6
    assert np.abs(mean).max() > 1e-3
