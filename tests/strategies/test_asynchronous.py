"""FedBuff by hand, on clients of known speed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Launch, make_network, table
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fl_bench import rng
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.errors import RunError
from fl_bench.network.clock import Network
from fl_bench.storage.snapshot import Tensors, put_back, take
from fl_bench.strategies.fedbuff import Buffered, FedBuff


def network(tmp_path: Path, seconds: Sequence[float], steps: Sequence[int] | None = None, **given: Any) -> Network:
    """Clients whose only step takes so long."""
    rows = "".join(f"{client},{s},inf,inf,,\n" for client, s in enumerate(seconds))
    return make_network(tmp_path, rows, steps or [1] * len(seconds), (1, 1), **{"repeat": False} | given)


def test_a_buffer_of_two_by_hand(tmp_path: Path) -> None:
    """All four train at once, for 2, 3, 7 and 100 seconds, and start again, when done, from what there is."""
    schedule = Buffered(network(tmp_path, [2, 3, 7, 100]), 4, 2)
    plans = [schedule.plan(round) for round in range(1, 6)]
    # Round 1: 0 at 2, which starts again with model 0, until 4; 1 at 3.
    # Round 2: 1 starts with model 1, until 6. 0 at 4, again with model 1, until 6; 1 at 6, which began before it.
    # Round 3: 1 starts with model 2, until 9. 0 at 6, again with model 2, until 8; 2 at 7, from the very first model.
    # Round 4: 2 starts with model 3, until 14. 0 at 8, again with model 3, until 10; 1 at 9, from model 2.
    # Round 5: 1 starts with model 4, until 12. 0 at 10, from model 3, again with model 4; 1 at 12.
    assert [plan.ends for plan in plans] == [3, 6, 7, 9, 12]
    assert [plan.asked for plan in plans] == [[0, 1], [0, 1], [0, 2], [0, 1], [0, 1]]
    assert [plan.told["models"] for plan in plans] == [[0, 0], [0, 1], [1, 0], [2, 2], [3, 4]]
    assert [plan.told["waiting"] for plan in plans] == [[0], [0, 1], [0, 2], [0, 3], [0, 3, 4]]
    assert all(not plan.dropping for plan in plans)


def test_a_second_answer_lies_in_the_buffer_until_the_next_round(tmp_path: Path) -> None:
    """Client 0, of 1 second, has two turns while 1, of 10 seconds, has one; then it waits for the next round."""
    schedule = Buffered(network(tmp_path, [1, 10]), 2, 2)
    first, second, third = (schedule.plan(round) for round in (1, 2, 3))
    assert (first.asked, first.told["models"], first.told["waiting"], first.ends) == ([0, 1], [0, 0], [0], 10)
    # 0's second answer, of second 2, is there already; both start with model 1, and 0 is done once more at 11.
    assert (second.asked, second.told["models"], second.told["waiting"], second.ends) == ([0, 1], [0, 1], [1], 20)
    assert (third.asked, third.told["models"], third.ends) == ([0, 1], [1, 2], 30)


def test_a_buffer_that_is_full_already_makes_a_round_of_no_time(tmp_path: Path) -> None:
    """0 and 1 have two turns each in 100 seconds; 3 is as slow as 2, and the first round ends without it."""
    schedule = Buffered(network(tmp_path, [1, 1, 100, 100]), 4, 3)
    first, second, third = (schedule.plan(round) for round in (1, 2, 3))
    assert (first.asked, first.ends) == ([0, 1, 2], 100)
    assert (second.asked, second.told["models"], second.ends) == ([0, 1, 3], [0, 0, 0], 100)
    assert (third.asked, third.told["models"], third.ends) == ([0, 1, 2], [2, 2, 2], 200)


def test_each_start_of_a_client_has_its_own_luck(tmp_path: Path) -> None:
    for seed in range(20):
        schedule = Buffered(network(tmp_path, [1, 10], dropout=0.5, seed=seed), 2, 2)
        plan = schedule.plan(1)
        first, second = rng.generator(seed, "dropout", 1, 0).random(2) < 0.5
        assert (0 in plan.dropping) == first
        (early,) = schedule.early
        assert (early.client, early.at, early.answer.comes) == (0, 2, not second)


def test_what_lies_in_the_buffer_is_in_the_checkpoint(tmp_path: Path) -> None:
    schedule, other = (Buffered(network(tmp_path, [1, 3, 5, 10, 11], dropout=0.2), 4, 4) for _ in range(2))
    for round in range(1, 5):
        schedule.plan(round)
    assert schedule.early
    tensors: Tensors = {}
    put_back(take(schedule, tensors, "schedule"), tensors, other)
    assert [other.plan(round) for round in range(5, 15)] == [schedule.plan(round) for round in range(5, 15)]


def test_equals_land_before_anybody_starts_also_where_a_round_ends_between_them(tmp_path: Path) -> None:
    schedule = Buffered(network(tmp_path, [1, 1, 1]), 2, 1)
    assert [schedule.plan(round).told["models"] for round in range(1, 5)] == [[0], [0], [2], [2]]


def test_a_slow_client_is_heard_at_last(tmp_path: Path) -> None:
    schedule = Buffered(network(tmp_path, [1, 1, 10]), 3, 1)
    plans = [schedule.plan(round) for round in range(1, 30)]
    late = next(plan for plan in plans if plan.asked == [2])
    assert late.ends == 10
    assert (late.told["clients"], late.told["models"]) == ([2], [0])
    assert min(late.told["waiting"]) > 10


def test_equals_take_turns(tmp_path: Path) -> None:
    schedule = Buffered(network(tmp_path, [0] * 6), 6, 2)
    seen = [client for round in (1, 2, 3) for client in schedule.plan(round).asked]
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def in_windows(tmp_path: Path, rows: str, concurrency: int, buffer: int, num_clients: int) -> Buffered:
    return Buffered(make_network(tmp_path, rows, [1] * num_clients, (1, 1), repeat=False), concurrency, buffer)


def test_who_comes_while_others_train_starts_at_once(tmp_path: Path) -> None:
    schedule = in_windows(tmp_path, "0,100,inf,inf,,\n1,1,inf,inf,5,\n", 2, 1, 2)
    assert [schedule.plan(round).ends for round in (1, 2)] == [6, 7]


def test_a_round_ends_when_nobody_trains_any_more(tmp_path: Path) -> None:
    schedule = in_windows(tmp_path, "0,1,inf,inf,,\n1,2,inf,inf,,\n2,1,inf,inf,1e6,\n", 2, 3, 3)
    first = schedule.plan(1)
    assert (first.asked, first.ends) == ([0, 1], 2)
    nobody = in_windows(tmp_path, "0,1,inf,inf,50,51\n1,1,inf,inf,,0.5\n", 2, 1, 2)
    assert [nobody.plan(round).asked for round in (1, 2)] == [[1], [0]]
    with pytest.raises(RunError, match=r"round 3: .* no client with samples can be reached after virtual second 51"):
        nobody.plan(3)


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
        told = ConfigRecord({"clients": [4, 7], "models": current, "waiting": [0]})
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
        told = ConfigRecord({"clients": [4, 7], "models": [round - 1] * 2, "waiting": [1]})
        list(strategy.configure_train(round, record(round), told, Nodes()))
    assert sorted(strategy.models) == [1, 6]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("strategy=fedbuff", "strategy.buffer=11"), "strategy.buffer=11: must be from 1 to num_clients=10"),
        (("strategy=fedbuff", "min_clients=5"), "min_clients=5: a round has 4 answers with this strategy"),
        (("strategy=fedbuff", "strategy.server_lr=0"), "strategy.server_lr=0: must be a positive number"),
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
