"""FLoRA, FlexLoRA and HetLoRA: what they make of adapters, by hand and as dense matrices, and whole runs of a model
of two layers.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, compose, digests, long, often, table
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from turns import make_turn

from fl_bench import commands
from fl_bench.data.arrays import FederatedData
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.federation.cohort import Cohort
from fl_bench.network.schedule import Plan
from fl_bench.runs.begin import Start
from fl_bench.runs.checks import check
from fl_bench.runs.execute import execute
from fl_bench.runs.experiment import all_there
from fl_bench.storage.buffers import to_record
from fl_bench.strategies.adapters import OfAdapters, stacked
from fl_bench.strategies.flexlora import FlexLoRA, factored
from fl_bench.strategies.flora import FLoRA, Restarting, add
from fl_bench.strategies.hetlora import HetLoRA, SelfPruning, mean
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.mnist import Mnist

Floats = NDArray[np.float32]


class Adapted(nn.Module):
    """A linear layer with an adapter, its tensors named as peft's."""

    def __init__(self, size: int, out: int, rank: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(size, out).requires_grad_(False)
        a, b = nn.Linear(size, rank, bias=False), nn.Linear(rank, out, bias=False)
        nn.init.zeros_(b.weight)
        self.lora_A, self.lora_B = nn.ModuleDict({"default": a}), nn.ModuleDict({"default": b})
        self.scaling = {"default": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * added  # type: ignore[no-any-return]


class Digits(Mnist):
    """Digits by a net [784, 12, 10] whose layers are as they begin but for adapters of rank 4."""

    def model(self, data: FederatedData) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Adapted(784, 12, 4), nn.ReLU(), Adapted(12, 10, 4))

    def shared(self, model: nn.Module) -> list[str]:
        return [name for name in model.state_dict() if "lora" in name]


RUN = (
    "task=mnist", "task._target_=test_adapters.Digits", "num_clients=4", "num_rounds=3", "local.steps=3",
)  # fmt: skip
RANKS = "strategy.ranks=[1,2,4]"  # of four clients: 1, 2, 4, 1
PER_RANK = 4 * (784 + 12 + 12 + 10)  # bytes of a component of both adapters
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


def compose_words(words: Sequence[str]) -> DictConfig:
    return compose(*words)


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


@pytest.mark.parametrize(
    ("name", "down"),
    [
        ("flexlora", [1, 2, 4, 1]),
        ("hetlora", [1, 2, 4, 1]),
        ("flora", [8, 8, 8, 8]),  # the stack of all four
    ],
)
def test_bytes_are_those_of_each_rank(name: str, down: list[int], launch: Launch) -> None:
    run = launch(*RUN, f"strategy={name}", RANKS)
    rows = [row for row in table(run, "clients") if row["round"] == "2"]
    assert [int(row["bytes_up"]) for row in rows] == [PER_RANK * rank for rank in (1, 2, 4, 1)]
    whole = 4 * (784 * 12 + 12 * 10)  # of weights, which are longer than any stack here
    assert max(down) * PER_RANK < whole
    assert [int(row["bytes_down"]) for row in rows] == [PER_RANK * rank for rank in down]


NAMES = ("flora", "flexlora", "hetlora")
UNEVEN = (RANKS, "network.dropout=0.3", "evaluate.clients=true", "clients_per_round=3")


@pytest.mark.parametrize("name", NAMES)
def test_learns(name: str, launch: Launch) -> None:
    run = launch(*RUN, f"strategy={name}", RANKS, "local.steps=20", "local.optimizer.name=Adam", "local.lr=0.01")
    losses = [float(row["test_loss"]) for row in table(run, "metrics")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", often(NAMES, "flora"))
def test_neither_the_order_nor_a_break_changes_a_bit(name: str, launch: Launch, tmp_path: Path) -> None:
    words = (*RUN, f"strategy={name}", *UNEVEN)
    whole = launch(*words, "num_rounds=5")
    assert any(row["status"] == "dropped" for row in table(whole, "clients"))
    backwards = ("engine.packing=false", "engine._target_=fl_bench.runs.checks.Backwards")
    assert digests(launch(*words, "num_rounds=5", *backwards)) == digests(whole)
    broken, scratch = launch(*words, "num_rounds=3"), tmp_path / "more"
    scratch.mkdir()
    assert execute(compose(*words, "num_rounds=5"), broken, scratch, Start.RESUME) == 0
    assert digests(broken) == digests(whole)
    for row in (row for row in table(whole, "clients") if row["round"] == "4" and row["status"] == "ok"):
        which = ("--round", "4", "--client", row["client"], "--trust", "test_adapters")
        assert commands.call("replay", [str(whole), *which]) == 0


@long
@pytest.mark.parametrize("name", NAMES)
def test_the_checks_hold(name: str, tmp_path: Path) -> None:
    """With one client, and nothing pruned, HetLoRA is plain training."""
    outcomes = {which: outcome for which, outcome, _ in check(name, compose_words, RUN[:2], tmp_path)}
    known = {"one_client"} if name == "hetlora" else set()
    assert {which for which, outcome in outcomes.items() if outcome == "ok"} == {"order", "dropped"} | known
    assert "FAILED" not in outcomes.values()


def test_flora_clients_keep_the_weights_of_the_server(launch: Launch) -> None:
    """To the bit: what a client has after its last turn is the model of the round before."""
    run = launch(*RUN, "strategy=flora", "num_rounds=2")
    before = load_file(launch(*RUN, "strategy=flora", "num_rounds=1") / "model.safetensors")
    states = [load_file(file) for file in run.glob("state/*/2.*")]
    assert len(states) == 4
    for state in states:
        assert {name: tensor.shape for name, tensor in state.items()} == {
            "1.base_layer.weight": (12, 784),
            "3.base_layer.weight": (10, 12),
        }
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("strategy.ranks=[5]", "strategy.ranks=[5]: must not be above the model's rank 4"),
        ("strategy.ranks=[0]", "strategy.ranks=[0]: must be a list of ranks of 1 or more"),
        ("strategy.ranks=[]", "strategy.ranks=[]: must be a list of ranks of 1 or more"),
        ("task._target_=fl_bench.tasks.mnist.Mnist", "needs adapters of which A and B travel, and nothing else"),
        ("robust=median", "robust: cannot be had with this strategy"),
        ("attack=sign_flip", "attack: cannot be had with this strategy"),
        ("privacy=local", "privacy: cannot be had with this strategy"),
        ("secure_aggregation=masks", "secure_aggregation=masks: must be none with this strategy"),
        ("ledger=signed", "ledger.signed=true: must be false with this strategy"),
        ("network=heterogeneous", "network.bytes_per_second_up="),
        ("compression=topk", "compression: TopK follows a client's update over the rounds"),
        ("topology=ring", "strategy: its server half is more than a plain mean"),
    ],
)
def test_refused(word: str, text: str, refused: Callable[..., str]) -> None:
    said = refused(*RUN, "strategy=flexlora", word)
    assert text in said
    assert said.count("\n") == 1
