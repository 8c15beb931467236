"""FedBuff, TiFL and Oort by hand, on clients of known speed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, make_network, table
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Schedule
from fl_bench.strategies.fedbuff import Buffered, FedBuff
from fl_bench.strategies.oort import Guided
from fl_bench.strategies.tifl import Tiers


def network(tmp_path: Path, seconds: Sequence[float], steps: Sequence[int] | None = None, **given: Any) -> Network:
    """Clients whose only step takes so long."""
    rows = "".join(f"{client},{s},inf,inf,,\n" for client, s in enumerate(seconds))
    return make_network(tmp_path, rows, steps or [1] * len(seconds), (1, 1), **given)


def test_a_buffer_of_two_by_hand(tmp_path: Path) -> None:
    """All four train at once, for 2, 3, 7 and 100 seconds, and start again from what there is."""
    schedule = Buffered(network(tmp_path, [2, 3, 7, 100]), 4, 2)
    plans = [schedule.plan(round) for round in range(1, 6)]
    # 0 at 2, 1 at 3; both start again at 3, with model 1: 0 at 5, 1 at 6; again at 6: 2 at 7 from the very first model,
    # 0 at 8; 0 and 2 start again at 8: 1 at 9 from model 2, 0 at 10; 0 and 1 start again at 10: 0 at 12, 1 at 13.
    assert [plan.ends for plan in plans] == [3, 6, 8, 10, 13]
    assert [plan.asked for plan in plans] == [[0, 1], [0, 1], [0, 2], [0, 1], [0, 1]]
    assert [plan.told["models"] for plan in plans] == [[0, 0], [1, 1], [2, 0], [3, 2], [4, 4]]
    assert all(not plan.dropping for plan in plans)


def test_a_slow_client_is_heard_at_last(tmp_path: Path) -> None:
    schedule = Buffered(network(tmp_path, [1, 1, 10]), 3, 1)
    plans = [schedule.plan(round) for round in range(1, 30)]
    late = next(plan for plan in plans if plan.asked == [2])
    assert late.ends == 10
    assert (late.told["clients"], late.told["models"]) == ([2], [0])
    assert min(late.told["flying"]) > 10


def test_equals_take_turns(tmp_path: Path) -> None:
    schedule = Buffered(network(tmp_path, [0] * 6), 6, 2)
    seen = [client for round in (1, 2, 3) for client in schedule.plan(round).asked]
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def in_windows(tmp_path: Path, rows: str, concurrency: int, buffer: int, num_clients: int) -> Buffered:
    return Buffered(make_network(tmp_path, rows, [1] * num_clients, (1, 1)), concurrency, buffer)


def test_who_comes_while_others_train_starts_at_once(tmp_path: Path) -> None:
    schedule = in_windows(tmp_path, "0,100,inf,inf,,\n1,1,inf,inf,5,\n", 2, 1, 2)
    assert [schedule.plan(round).ends for round in (1, 2)] == [6, 7]


def test_a_round_ends_when_nobody_trains_any_more(tmp_path: Path) -> None:
    schedule = in_windows(tmp_path, "0,1,inf,inf,,\n1,2,inf,inf,,\n2,1,inf,inf,1e6,\n", 2, 3, 3)
    first = schedule.plan(1)
    assert (first.asked, first.ends) == ([0, 1], 2)
    nobody = in_windows(tmp_path, "0,1,inf,inf,50,51\n1,1,inf,inf,,0.5\n", 2, 1, 2)
    assert [nobody.plan(round).asked for round in (1, 2, 3)] == [[1], [0], []]


def test_who_drops_frees_its_place(tmp_path: Path) -> None:
    schedule = Buffered(network(tmp_path, [1, 2, 3, 4, 5, 6], dropout=0.5), 2, 2)
    plan = schedule.plan(1)
    assert plan.dropping
    assert len(set(plan.asked) - set(plan.dropping)) == 2
    everybody = Buffered(network(tmp_path, [1, 2], dropout=1), 2, 2).plan(1)
    assert (everybody.asked, everybody.dropping) == ([0, 1], {0, 1})


class Nodes(InlineGrid):
    """Two clients, as the strategy sees them."""

    def get_node_ids(self) -> list[int]:
        return [4, 7]


def record(*numbers: float) -> ArrayRecord:
    return ArrayRecord({"w": Array(np.array(numbers, np.float32))})


def test_staleness_by_hand() -> None:
    """Client 4, with 30 examples, starts from model 0; client 7, with 10, from model 3: 1/sqrt(4) and 1."""
    strategy = FedBuff(server_lr=0.5, min_train_nodes=1, min_available_nodes=1)
    models = [record(0, 0), record(1, 1), record(2, 2), record(4, 8)]
    for round, model in enumerate(models, start=1):
        current = [0, 0] if round < 4 else [0, 3]
        told = ConfigRecord({"clients": [4, 7], "models": current, "flying": [0]})
        messages = sorted(strategy.configure_train(round, model, told, Nodes()), key=lambda m: m.metadata.dst_node_id)
    sent = {m.metadata.dst_node_id: m.content.array_records["arrays"]["w"].numpy().tolist() for m in messages}
    assert sent == {4: [0, 0], 7: [4, 8]}
    replies = []
    for message, answer, examples in zip(messages, (record(2, 4), record(5, 8)), (30, 10), strict=True):
        metrics = MetricRecord({"num-examples": examples, "train_loss": 1.0})
        replies.append(Message(RecordDict({"arrays": answer, "metrics": metrics}), reply_to=message))
    new, _ = strategy.aggregate_train(4, replies)
    assert new is not None
    # [4, 8] + 0.5 * (30 * [2, 4] / 2 + 10 * [1, 0]) / 40
    assert new["w"].numpy() == pytest.approx([4 + 0.5 * (30 + 10) / 40, 8 + 0.5 * 60 / 40])


def test_old_models_are_forgotten() -> None:
    strategy = FedBuff(server_lr=1.0, min_train_nodes=1, min_available_nodes=1)
    for round in range(1, 8):
        told = ConfigRecord({"clients": [4, 7], "models": [round - 1] * 2, "flying": [1]})
        list(strategy.configure_train(round, record(round), told, Nodes()))
    assert sorted(strategy.models) == [1, 6]


@pytest.mark.parametrize(
    "make",
    [
        lambda net: Tiers(net, 3, tiers=2),
        lambda net: Guided(net, 3, explore=0.9, alpha=2, preferred=0.5),
        lambda net: Guided(net, 3, explore=0, alpha=2, preferred=0.5),
    ],
    ids=["tifl", "oort", "oort-exploit"],
)
def test_clients_without_samples_are_not_asked(tmp_path: Path, make: Callable[[Network], Schedule]) -> None:
    schedule = make(network(tmp_path, [1, 2, 3, 4, 5, 6], steps=[1, 0, 1, 0, 1, 1]))
    for round in range(1, 20):
        plan = schedule.plan(round)
        assert not {1, 3} & set(plan.asked)
        assert len(plan.asked) == 3
        schedule.learn(round, dict.fromkeys(plan.asked, 1.0))


@pytest.mark.parametrize("kind", [Schedule, lambda n, k: Tiers(n, k, 2), lambda n, k: Guided(n, k, 0.9, 2, 0.5)])
def test_nobody_is_there_any_more(tmp_path: Path, kind: Callable[[Network, int], Schedule]) -> None:
    schedule = kind(network(tmp_path, [1, 2]), 2)
    schedule.network.devices = replace(schedule.network.devices, available_to=np.array([5.0, 5.0]))
    assert [len(schedule.plan(round).asked) for round in range(1, 6)] == [2, 2, 2, 0, 0]


def test_oort_does_not_wait_for_those_who_never_answer(tmp_path: Path) -> None:
    """Newcomers who drop out are no newcomers any more, and the slow count less."""
    schedule = Guided(network(tmp_path, [1] * 5 + [50] * 5, deadline_s=10), 2, explore=0.5, alpha=2, preferred=0.5)
    dropped = []
    for round in range(1, 41):
        plan = schedule.plan(round)
        dropped.append(len(plan.dropping))
        schedule.learn(round, dict.fromkeys(set(plan.asked) - set(plan.dropping), 1.0))
    assert sum(dropped[20:]) == 0


def test_tiers_are_of_like_speed(tmp_path: Path) -> None:
    schedule = Tiers(network(tmp_path, [5, 1, 3, 2, 6, 4]), 2, tiers=3)
    assert schedule.tier.tolist() == [2, 0, 1, 0, 2, 1]
    asked = {tuple(schedule.plan(round).asked) for round in range(1, 30)}
    assert asked == {(1, 3), (2, 5), (0, 4)}


def test_a_tier_with_a_high_loss_is_chosen_more_often(tmp_path: Path) -> None:
    schedule = Tiers(network(tmp_path, [1, 1, 9, 9]), 2, tiers=2)
    schedule.learn(1, {0: 1.0, 1: 1.0, 2: 3.0, 3: 3.0})
    slow = sum(schedule.plan(round).asked == [2, 3] for round in range(1, 401))
    assert slow / 400 == pytest.approx(0.75, abs=0.09)  # 4 deviations


def test_a_tier_that_is_too_small_gets_help_from_its_neighbours(tmp_path: Path) -> None:
    schedule = Tiers(network(tmp_path, [1, 2, 3, 4]), 3, tiers=4)
    assert {tuple(schedule.plan(round).asked) for round in range(1, 40)} == {(0, 1, 2), (1, 2, 3)}


def test_one_tier_is_a_uniform_sample(tmp_path: Path) -> None:
    plain, tier = Schedule(network(tmp_path, [1] * 9), 3), Tiers(network(tmp_path, [1] * 9), 3, tiers=1)
    for round in range(1, 6):
        tier.learn(round, {round: float(round)})
        assert plain.plan(round).asked == tier.plan(round).asked


def test_oort_by_hand(tmp_path: Path) -> None:
    """The median client takes 2 seconds; with alpha 1, client 3 of 8 seconds counts a quarter."""
    schedule = Guided(network(tmp_path, [1, 2, 2, 8]), 2, explore=0, alpha=1, preferred=0.5)
    assert schedule.pace.tolist() == [1, 1, 1, 0.25]
    schedule.heard[:] = 1
    schedule.learn(1, {0: 1.0, 1: 2.0, 2: 3.0, 3: 9.0})
    assert schedule.plan(2).asked == [2, 3]  # 1, 2, 3 and (9 + c) / 4 = 2.3, the others with c = 0.26 too
    schedule.learn(2, {2: 0.5, 3: 0.5})
    assert schedule.plan(3).asked == [0, 1]


def test_oort_hears_everybody_once(tmp_path: Path) -> None:
    schedule = Guided(network(tmp_path, [1, 2, 3, 4, 5, 6]), 2, explore=1, alpha=2, preferred=0.5)
    heard: set[int] = set()
    for round in (1, 2, 3):
        asked = schedule.plan(round).asked
        assert not heard & set(asked)
        heard |= set(asked)
        schedule.learn(round, dict.fromkeys(asked, 1.0))
    assert heard == set(range(6))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("strategy=fedbuff", "strategy.buffer=11"), "strategy.buffer=11: must be from 1 to num_clients=10"),
        (("strategy=fedbuff", "min_clients=5"), "min_clients=5: a round has 4 answers with this strategy"),
        (("strategy=fedbuff", "strategy.server_lr=0"), "strategy.server_lr=0: must be a positive number"),
        (("strategy=tifl", "strategy.tiers=0"), "strategy.tiers=0: must be 1 or more"),
        (("strategy=oort", "strategy.explore=2"), "strategy.explore=2: must be from 0 to 1"),
    ],
)
def test_mistakes(launch: Launch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str) -> None:
    launch(*words, exit_code=2)
    assert line in capsys.readouterr().err


def test_fedbuff_on_unequal_devices(launch: Launch) -> None:
    folder = launch("strategy=fedbuff", "network=heterogeneous", "network.dropout=0.2", "num_rounds=20")
    rows = table(folder, "metrics")
    assert {row["clients_ok"] for row in rows[1:]} == {"4"}
    assert float(rows[-1]["test_accuracy"]) > 0.8
    seconds = [float(row["virtual_seconds"]) for row in rows[1:]]
    assert seconds == sorted(seconds)
