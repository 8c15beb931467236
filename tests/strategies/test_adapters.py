"""What FLoRA, FlexLoRA and HetLoRA make of adapters: by hand, and as dense matrices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from adapted import Adapted
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import nn
from turns import make_turn

from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.federation.cohort import Cohort
from fl_bench.network.schedule import Plan
from fl_bench.runs.experiment import all_there
from fl_bench.storage.buffers import to_record
from fl_bench.strategies.adapters import OfAdapters, stacked
from fl_bench.strategies.flexlora import FlexLoRA, factored
from fl_bench.strategies.flora import FLoRA, Restarting, add
from fl_bench.strategies.hetlora import HetLoRA, SelfPruning, mean
from fl_bench.strategies.turn import Turn

Floats = NDArray[np.float32]

A, B = "x.lora_A.default.weight", "x.lora_B.default.weight"


def adapters(ranks: Sequence[int], size: int = 6, out: int = 5) -> list[dict[str, Floats]]:
    draws = np.random.default_rng(0)
    return [
        {name: draws.normal(size=shape).astype(np.float32) for name, shape in ((A, (r, size)), (B, (out, r)))}
        for r in ranks
    ]


def product(one: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.asarray(one[B], np.float64) @ np.asarray(one[A], np.float64)


def replies(clients: Mapping[int, tuple[int, Mapping[str, Floats]]], *failed: int) -> list[Message]:
    """What the round loop gives a server half: of each client its weight and its arrays beside."""
    asked = {k: Message(RecordDict(), k, "train") for k in (*clients, *failed)}
    said = [
        Message(
            RecordDict({"metrics": MetricRecord({"num-examples": n}), "beside": to_record(sent)}), reply_to=asked[k]
        )
        for k, (n, sent) in clients.items()
    ]
    return [*said, *(Message(Error(1001, "-"), reply_to=asked[k]) for k in failed)]


def asked(strategy: OfAdapters, round: int, model: Mapping[str, Floats], clients: Sequence[int]) -> dict[int, Any]:
    """What each client is sent beside the vector, by name."""
    plan = Plan(round, list(clients))
    messages = strategy.configure_train(round, to_record(model), ConfigRecord(), Cohort(plan))
    assert not any(message.content.array_records["arrays"] for message in messages)
    return {
        message.metadata.dst_node_id: {k: array.numpy() for k, array in message.content.array_records["beside"].items()}
        for message in messages
    }


def made(strategy: OfAdapters, round: int, given: Sequence[Message]) -> dict[str, Floats]:
    record, _ = strategy.aggregate_train(round, given)
    assert record is not None
    return {name: array.numpy() for name, array in record.items()}


def server(kind: Callable[..., Any], *given: Any) -> Any:
    InlineGrid()  # of whose run messages are
    return all_there(kind(*given))


def test_a_stack_is_the_sum_of_products() -> None:
    one, other = {A: np.array([[1.0, 2]]), B: np.array([[3.0], [4]])}, {A: np.eye(2), B: np.array([[0.0, 1], [1, 0]])}
    stack = stacked([one, other], np.array([0.5, 2]))
    np.testing.assert_array_equal(stack[A], [[0.5, 1], [2, 0], [0, 2]])
    np.testing.assert_array_equal(stack[B], [[3, 0, 1], [4, 1, 0]])
    np.testing.assert_array_equal(product(stack), [[1.5, 5], [4, 4]])  # 0.5 [[3, 6], [4, 8]] + 2 [[0, 1], [1, 0]]


def test_flora_adds_the_mean_of_products_to_the_weights() -> None:
    clients, weight = adapters([1, 3, 2]), np.ones((5, 6), np.float32)
    flora = server(FLoRA)
    assert asked(flora, 1, {"x.base_layer.weight": weight}, range(3)) == {0: {}, 1: {}, 2: {}}
    new = made(flora, 1, replies({k: (n, clients[k]) for k, n in ((0, 10), (2, 30))}, 1))
    expected = 1 + 0.25 * product(clients[0]) + 0.75 * product(clients[2])
    np.testing.assert_allclose(new["x.base_layer.weight"], expected, atol=1e-6)


def test_flora_sends_each_client_the_stacks_that_it_lacks_or_the_weights_where_those_are_shorter() -> None:
    flora, model = server(FLoRA), {"x.base_layer.weight": np.zeros((5, 6), np.float32)}  # of 30 numbers
    sizes, weights = [], [model["x.base_layer.weight"]]
    for round, clients in enumerate(([0, 1], [0], [0], [0, 1, 2]), 1):
        sent = asked(flora, round, model, clients)
        sizes.append({k: sum(array.size for array in arrays.values()) for k, arrays in sent.items()})
        if round == 4:
            break
        trained = adapters([1])[0]  # 11 numbers
        model = made(flora, round, replies(dict.fromkeys(clients, (1, trained))))
        weights.append(model["x.base_layer.weight"])
    # Round 1: nothing to add. Of round 1 the stack has rank 2, of rounds 2 and 3 rank 1: 22, 11 and 11 numbers, of
    # which the first is dropped once all three are longer than the weights.
    assert sizes == [{0: 0, 1: 0}, {0: 22}, {0: 11}, {0: 11, 1: 30, 2: 30}]
    own = {"x.base_layer.weight": torch.from_numpy(weights[2].copy())}
    add({name: torch.from_numpy(array) for name, array in sent[0].items()}, own)
    np.testing.assert_array_equal(own["x.base_layer.weight"], weights[3])
    np.testing.assert_array_equal(sent[2]["x.base_layer.weight"], weights[3])


def test_flora_sends_what_is_to_be_added_to_the_weights() -> None:
    model, half, x = nn.Module(), Restarting([2]), torch.tensor([[1.0, -1, 2]])
    model.x = Adapted(3, 2, 4)
    half.rank = 4
    turn = make_turn(model)
    half.begin(turn)
    weights = turn.split(turn.parameters)
    assert [bool(row.any()) for row in weights[A]] == [True, True, False, False]
    assert not weights[B].any()
    weights[B][:, :2] = torch.tensor([[3.0, 0], [0, 5]])
    trained = model.x(x)
    with torch.no_grad():
        half.finish(turn)
    layer = model.x.base_layer
    torch.testing.assert_close(
        nn.functional.linear(x, layer.weight + turn.sends[B] @ turn.sends[A], layer.bias), trained
    )


def test_flexlora_is_wrong_by_the_singular_values_that_it_cuts_off() -> None:
    clients = adapters([2, 3])
    mean = 0.25 * product(clients[0]) + 0.75 * product(clients[1])
    values = np.linalg.svd(mean, compute_uv=False)
    assert values[4] > 0.01  # a mean of rank 2 + 3
    for rank in (1, 2, 4, 5):
        flexlora = server(FlexLoRA, [rank])
        asked(flexlora, 1, {A: np.zeros((rank, 6), np.float32), B: np.zeros((5, rank), np.float32)}, [0, 1])
        new = made(flexlora, 1, replies({0: (1, clients[0]), 1: (3, clients[1])}))
        assert new[A].shape == (rank, 6)
        assert new[B].shape == (5, rank)
        error = np.linalg.norm(mean - product(new))
        assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-6)


def test_flexlora_leaves_no_component_without_a_gradient() -> None:
    (one,) = adapters([1])
    a, b = factored(one[A], one[B], 3)
    np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(b[:, 1:], 0, atol=1e-6)


def test_clients_are_sent_as_many_components_as_their_rank() -> None:
    model = {A: np.arange(24, dtype=np.float32).reshape(4, 6), B: np.arange(20, dtype=np.float32).reshape(5, 4)}
    sent = asked(server(FlexLoRA, [1, 3]), 1, model, range(3))
    assert [sent[k][A].tolist() for k in (0, 2)] == [model[A][:1].tolist()] * 2
    assert sent[1][A].tolist() == model[A][:3].tolist()
    assert sent[1][B].tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10], [12, 13, 14], [16, 17, 18]]
    assert asked(server(FlexLoRA, None), 1, model, [7])[7][B].tolist() == model[B].tolist()


def test_hetlora_weighs_by_the_norms_of_products() -> None:
    one = np.array([[3.0, 0]]), np.array([[0.0], [1]])  # of norm 3
    other = np.array([[0.0, 1], [0, 0]]), np.array([[4.0, 0], [0, 0]])  # of norm 4
    a, b = mean([one, other], np.array([1 / 3, 2 / 3]), rank=3)
    # 3 * 1/3 and 4 * 2/3 are 3/11 and 8/11 of their sum.
    assert (a * 11).round(12).tolist() == [[9, 8], [0, 0], [0, 0]]
    assert (b * 11).round(12).tolist() == [[32, 0, 0], [3, 0, 0]]
    still = [(one[0], 0 * one[1]), (other[0], 0 * other[1])]
    assert mean(still, np.array([0.25, 0.75]), rank=2)[0].tolist() == [[0.75, 0.75], [0, 0]]


def hetlora_turn(**given: Any) -> tuple[SelfPruning, Turn]:
    """A client of rank 3 that has been sent A = [1 2 3]^T and B = [1 1 2], on a model of rank 4 of a number."""
    model = nn.Module()
    model.x = Adapted(1, 1, 4)
    for name in ("weight", "bias"):
        delattr(model.x.base_layer, name)
    half = SelfPruning([3], decay=0.7, regularization=0.1)
    half.rank = 4
    turn = make_turn(model, **given)
    turn.beside = {A: torch.tensor([[1.0], [2], [3]]), B: torch.tensor([[1.0, 1, 2]])}
    with torch.no_grad():
        half.begin(turn)
    return half, turn


def test_hetlora_draws_the_last_components_to_zero() -> None:
    half, turn = hetlora_turn()  # keeps floor(0.7 * 3) = 2 of 3
    assert turn.work.kept == 2
    assert turn.work.size == 6
    for parameter in turn.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    half.correct(turn)
    parts = turn.split(turn.grad)  # d |a| |b| / da = |b| where a > 0
    torch.testing.assert_close(parts[A], torch.tensor([[0.0], [0], [0.2], [0]]))
    torch.testing.assert_close(parts[B], torch.tensor([[0.0, 0, 0.3, 0]]))


@pytest.mark.parametrize(("last", "rank"), [(2.0, 2), (3.0, 3), (-3.5, 3)])
def test_hetlora_cuts_off_components_that_have_shrunk(last: float, rank: int) -> None:
    half, turn = hetlora_turn()
    turn.split(turn.parameters)[A][2] = last
    half.finish(turn)
    assert turn.sends[A].shape == (rank, 1)
    assert turn.sends[B].shape == (1, rank)
    assert half.rank_of(turn) == rank


def test_hetlora_keeps_to_the_rank_of_a_client_that_has_pruned() -> None:
    hetlora = server(HetLoRA, [3])
    model = {A: np.ones((4, 6), np.float32), B: np.ones((5, 4), np.float32)}
    asked(hetlora, 1, model, [0, 1])
    pruned, whole = adapters([2, 3])
    new = made(hetlora, 1, replies({0: (1, pruned), 1: (1, whole)}))
    assert {k: sent[A].shape for k, sent in asked(hetlora, 2, new, [0, 1, 2]).items()} == {
        0: (2, 6), 1: (3, 6), 2: (3, 6),
    }  # fmt: skip
    assert not new[A][3].any()
