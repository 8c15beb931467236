"""Server halves and clocks on models of two numbers and turns of a few seconds, with literal values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import make_network
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.federation.cohort import Cohort
from fl_bench.network.schedule import Plan, Schedule
from fl_bench.storage.buffers import arrays_in, to_record
from fl_bench.topologies.gossip import Ring
from fl_bench.topologies.hierarchical import Hierarchical
from fl_bench.topologies.several import SeveralModels


def record(*numbers: float) -> ArrayRecord:
    return to_record({"w": np.array(numbers, np.float32)})


def numbers(content: ArrayRecord) -> list[float]:
    return [round(float(value), 5) for value in content["w"].numpy()]


@pytest.fixture(autouse=True)
def node() -> None:
    """Flower wants to know whose messages these are, and a Grid says it."""
    InlineGrid()


def all_there(strategy: FedAvg) -> FedAvg:
    strategy.min_train_nodes = strategy.min_evaluate_nodes = strategy.min_available_nodes = 1
    return strategy


def asked(strategy: SeveralModels, number: int, clients: Sequence[int], now: ArrayRecord) -> dict[int, Message]:
    messages = strategy.configure_train(number, now, ConfigRecord(), Cohort(Plan(number, clients)))
    return {message.metadata.dst_node_id: message for message in messages}


def answered(
    strategy: SeveralModels, number: int, messages: Mapping[int, Message], means: Mapping[int, ArrayRecord]
) -> tuple[ArrayRecord, MetricRecord]:
    """What the strategy makes of these means, each borne by a client."""
    said = MetricRecord({"num-examples": 1, "train_loss": 0.5})
    replies = [Message(RecordDict({"a": mean, "m": said}), reply_to=messages[k]) for k, mean in means.items()]
    made, metrics = strategy.aggregate_train(number, replies)
    assert made is not None
    assert metrics is not None
    return made, metrics


def test_a_ring_adapts_and_then_combines() -> None:
    """Four nodes weigh 1/3 each, with their two neighbours. Node 3 is not there in round 2."""
    ring = Ring(seed=0, weights=np.array([5, 1, 1, 1]), num_bytes=8, delay=0.0)
    strategy = ring.strategy(all_there(FedAvg()))
    assert isinstance(strategy, SeveralModels)
    messages = asked(strategy, 1, range(4), record(0, 0))
    assert len({id(message.content) for message in messages.values()}) == 4
    trained = {0: record(3, 0), 1: record(6, 0), 2: record(0, 9), 3: record(0, 3)}
    made, metrics = answered(strategy, 1, messages, trained)
    assert numbers(made) == [2.25, 3]  # the plain mean, whatever they weigh
    messages = asked(strategy, 2, [0, 1, 2], made)
    received = {k: numbers(arrays_in(message.content)) for k, message in messages.items()}
    assert received == {0: [3, 1], 1: [3, 3], 2: [2, 4]}
    # The fourth has [1, 4]; the distances from [2.25, 3] are those of (.75, 2), (.75, 0), (.25, 1), (1.25, 1).
    assert metrics["consensus_distance"] == pytest.approx((2.13600 + 0.75 + 1.03078 + 1.60078) / 4, abs=1e-5)
    made, _ = answered(strategy, 2, messages, {0: record(3, 0), 1: record(6, 0), 2: record(0, 9)})
    # 0 and 2 have lost a neighbour, whose third falls to themselves: 2/3 (3, 0) + 1/3 (6, 0), and so on.
    sent = asked(strategy, 3, range(4), made)
    models = {k: numbers(arrays_in(message.content)) for k, message in sent.items()}
    assert models == {0: [4, 0], 1: [3, 3], 2: [2, 6], 3: [1, 4]}
    assert numbers(made) == [2.5, 3.25]


def test_the_cloud_weighs_edges_by_their_data_every_other_round() -> None:
    """Edge 0 has clients 0 and 2, of weight 3; edge 1 has client 1, of weight 1."""
    keys = {"edge_delay": 0.0, "edge_bytes_per_second": np.inf}
    edges = Hierarchical(
        seed=0, weights=np.array([1, 1, 2]), num_bytes=8, edges=2, edge_rounds=2, assignment=[0, 1, 0], **keys
    )
    strategy = edges.strategy(all_there(FedAvg()))
    assert isinstance(strategy, SeveralModels)
    messages = asked(strategy, 1, range(3), record(0, 0))
    assert messages[0].content is messages[2].content is not messages[1].content
    made, metrics = answered(strategy, 1, messages, {0: record(4, 0), 1: record(0, 8)})
    assert numbers(made) == [3, 2]
    assert metrics["edge_bytes_up"] == metrics["edge_bytes_down"] == 0
    messages = asked(strategy, 2, range(3), made)
    assert [numbers(arrays_in(messages[k].content)) for k in range(3)] == [[4, 0], [0, 8], [4, 0]]
    made, metrics = answered(strategy, 2, messages, {0: record(8, 4)})  # edge 1 has not heard of its client
    assert numbers(made) == [6, 5]
    assert metrics["edge_bytes_up"] == metrics["edge_bytes_down"] == 16
    messages = asked(strategy, 3, range(3), made)
    assert [numbers(arrays_in(messages[k].content)) for k in range(3)] == [[6, 5]] * 3


def test_an_edge_does_not_wait_for_others_but_the_cloud_does(tmp_path: Path) -> None:
    """Turns take 1, 2, 3 and 4 seconds; clients 0 and 3 are of edge 0, 1 and 2 of edge 1; a message to the cloud 10."""
    network = make_network(
        tmp_path, "0,1,1,1,,\n1,2,1,1,,\n2,3,1,1,0,4\n3,4,1,1,8,\n", [1, 1, 1, 1], (0, 0), repeat=False
    )
    edges = Hierarchical(
        seed=0, weights=np.ones(4, int), num_bytes=8, edges=2, edge_rounds=3, assignment=[0, 1, 1, 0],
        edge_delay=2.0, edge_bytes_per_second=1.0,
    )  # fmt: skip
    schedule = edges.schedule(Schedule(network, 4))
    # Client 3 can be reached from second 8 on, client 2 to second 4, so not for a second turn.
    plans = [schedule.plan(number) for number in range(1, 5)]
    assert [plan.asked for plan in plans] == [[0, 1, 2], [0, 1, 2], [0, 1], [0, 1, 3]]
    assert [sorted(plan.dropping) for plan in plans] == [[], [2], [], []]
    # Edge 0 is done at 1, 2, 3; edge 1 at 3, 5 and 7; then 2 ways of 2 + 8 / 1 seconds; then 4 seconds of client 3.
    assert [plan.ends for plan in plans] == [3, 5, 7 + 20, 27 + 4]


@pytest.mark.parametrize("seed", range(3))
def test_one_edge_asks_whom_a_star_asks(tmp_path: Path, seed: int) -> None:
    rows = "".join(f"{k},{1 + k % 3},1,1,{k},{k + 40}\n{k},1,1,1,{k + 60},{k + 90}\n" for k in range(8))
    network = make_network(tmp_path, rows, [1, 2, 0, 4, 1, 2, 3, 4], (1, 1), dropout=0.3, seed=seed, repeat=False)
    keys = {"edges": 1, "edge_rounds": 2, "assignment": "blocks", "edge_delay": 0.0, "edge_bytes_per_second": np.inf}
    one = Hierarchical(seed=seed, weights=np.ones(8, int), num_bytes=8, **keys).schedule(Schedule(network, 3))  # type: ignore[arg-type]
    star = Schedule(network, 3)
    for number in range(1, 8):
        assert one.plan(number) == star.plan(number)


def test_a_ring_waits_for_the_last_and_for_its_links(tmp_path: Path) -> None:
    network = make_network(tmp_path, "0,1,1,1,,\n1,2,1,1,,\n2,3,1,1,,\n", [1, 1, 1], (0, 0), repeat=False)
    ring = Ring(seed=0, weights=np.ones(3, int), num_bytes=8, delay=0.5).schedule(Schedule(network, 3))
    assert [ring.plan(number).ends for number in (1, 2)] == [3.5, 7]
