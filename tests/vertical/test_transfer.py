"""Transfer to a party without labels, beside a plain loop of torch in one place, and beside numbers by hand."""

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, compose, digests, forked, long, table
from flwr.app import Message
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fl_bench import rng
from fl_bench.data import tables
from fl_bench.data.arrays import batches
from fl_bench.federation.exchange import beside_in
from fl_bench.federation.fleet import Fleet
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute
from fl_bench.strategies.server import Given
from fl_bench.tasks.numeric import Tabular
from fl_bench.vertical.columns import align
from fl_bench.vertical.nets import OneHead
from fl_bench.vertical.transfer import Source

WORDS = (
    "strategy=ftl", "task=tabular", "data=digits", "setting.alignment=known", "model=logistic", "strategy.width=3",
    "num_rounds=2", "local.steps=4", "local.batch_size=50", "local.lr=0.1", "strategy.gamma=0.2",
)  # fmt: skip
ITS, OURS = slice(0, 32), slice(32, 64)  # the columns of the client and of the label holder
COMMON = 72  # of 1,438 rows


class Loop:
    """Both encoders and the head, where one process has all columns and labels."""

    def __init__(self, seed: int) -> None:
        data = tables.digits()
        self.x, self.y = (torch.from_numpy(data.train[name]) for name in "xy")
        self.test_x, self.test_y = (torch.from_numpy(data.test[name]) for name in "xy")
        self.common = align(np.arange(1438), 64, 1, "split", 0.05, "known", seed).rows
        assert len(self.common) == COMMON
        rng.seed_torch(seed, "model")
        self.its, self.ours, self.head = nn.Linear(32, 3), nn.Linear(32, 3), nn.Linear(3, 10)
        self.parameters = [p for net in (self.its, self.ours, self.head) for p in net.parameters()]
        self.seed = seed

    def loss_of(self, embeddings: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.head(embeddings.relu()), y)

    def train(self, round: int, transfer: bool, away: bool) -> None:
        orders = [rng.generator(self.seed, purpose, round, 1) for purpose in ("batches", "own batches")]
        common = islice(batches(np.arange(COMMON), 50, orders[0]), 4)
        for places, own in zip(common, batches(np.arange(1438), 50, orders[1]), strict=False):
            rows, loss = self.common[places], torch.zeros(())
            its, ours = self.its(self.x[rows][:, ITS]), self.ours(self.x[rows][:, OURS])
            if not away:
                loss = loss + self.loss_of(its, self.y[rows])
            if transfer:
                loss = loss + self.loss_of(self.ours(self.x[own][:, OURS]), self.y[own])
            if transfer and not away:
                loss = loss + 0.2 * ((its - ours) ** 2).sum() / (3 * len(rows))
            for parameter, step in zip(
                self.parameters, torch.autograd.grad(loss, self.parameters, allow_unused=True), strict=True
            ):
                parameter.data -= 0.1 * step if step is not None else 0

    def check(self, folder: Path, kept_in: int) -> None:
        kept, model = (
            load_file(folder / "state" / "0" / f"{kept_in}.safetensors"),
            load_file(folder / "model.safetensors"),
        )
        assert set(model) == {"bottoms.1.1.weight", "bottoms.1.1.bias", "top.1.1.weight", "top.1.1.bias"}
        for name in ("weight", "bias"):
            pairs = {f"bottoms.1.1.{name}": self.ours, f"top.1.1.{name}": self.head}
            for made, net in ((kept[f"1.{name}"], self.its), *((model[key], net) for key, net in pairs.items())):
                torch.testing.assert_close(made, getattr(net, name).data, atol=1e-6, rtol=0)
        with torch.no_grad():
            loss = float(self.loss_of(self.its(self.test_x[:, ITS]), self.test_y))  # by the client's columns alone
        assert abs(float(table(folder, "metrics")[-1]["test_loss"]) - loss) < 1e-6


@pytest.mark.parametrize("transfer", [True, False])
def test_it_is_training_in_one_place(launch: Launch, transfer: bool) -> None:
    folder = launch(*WORDS, f"strategy.transfer={str(transfer).lower()}")
    loop = Loop(seed=0)
    for round in (1, 2):
        loop.train(round, transfer, away=False)
    loop.check(folder, kept_in=2)


def test_while_the_client_is_away_the_label_holder_trains_alone(launch: Launch) -> None:
    folder = launch(*WORDS, "network=flaky", "num_rounds=6", "seed=1")
    statuses = [row["status"] for row in table(folder, "clients")]
    assert set(statuses) == {"ok", "dropped"}
    loop = Loop(seed=1)
    for round, status in enumerate(statuses, 1):
        loop.train(round, transfer=True, away=status == "dropped")
    loop.check(folder, kept_in=max(round for round, status in enumerate(statuses, 1) if status == "ok"))


def test_its_loss_and_gradient_by_hand() -> None:
    """An embedding of one number, which the head takes to the scores (u, 0); two rows, of which both have row 0."""
    its, ours, head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
    for net, weights in ((ours, [[2.0]]), (head, [[1.0], [0.0]])):
        net.weight.data = torch.tensor(weights)
    data: Any = SimpleNamespace(num_samples=2)
    data.train = {"x": np.array([[0, -1], [0, 1]], np.float32), "y": np.array([0, 1])}
    model = OneHead([its, ours], nn.Sequential(nn.ReLU(), head), [slice(0, 1), slice(1, 2)])
    partition: Any = SimpleNamespace(train_rows=lambda client: np.array([0]))
    task = Tabular(OmegaConf.create())
    source = Source(width=1, local_updates=1, gamma=0.5, transfer=True)
    source.use(Given(0, {}, 1, task, data, partition, model, "cpu"))
    source.own_batches = iter([np.array([1])])
    source.measured, source.optimizer = [], torch.optim.SGD(source.net.parameters(), 0.1)
    gradients = source._learn(np.array([0]), {0: np.ones((1, 1), np.float32)})
    (measured,) = source.measured
    # The client's embedding is 1, of label 0: log(1 + 1/e). Ours of row 1 is 2, of label 1: log(1 + e^2). Of row 0 ours
    # is -2, so that the two are 3 apart.
    found = {name: mean.value for name, mean in measured.items()}
    assert found == pytest.approx({"loss": 0.3132617, "accuracy": 1.0, "own_loss": 2.1269280, "alignment": 9.0})
    assert gradients[0] == pytest.approx(-0.2689414 + 0.5 * 2 * 3)  # of the label, and of the distance
    # Ours: of its own row (e^2 / (1 + e^2)) x 1, of the distance 0.5 x 2 x (-2 - 1) x -1.
    assert source.net.state_dict()["bottom.weight"].item() == pytest.approx(2 - 0.1 * (0.8807971 + 3))


def test_what_each_side_sees_and_what_it_costs(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and gradients come, embeddings go: of the common rows only, and of the client's own in the test."""
    seen: list[tuple[str, str, tuple[int, ...]]] = []
    exchange = Fleet.exchange

    def watched(fleet: Fleet, messages: Any, *rest: Any, **options: Any) -> Any:
        messages = list(messages)
        answers = exchange(fleet, messages, *rest, **options)
        replies = [answer.message for answer in answers if answer.message is not None]
        for way, message in [*(("down", m) for m in messages), *(("up", m) for m in replies)]:
            assert isinstance(message, Message)
            assert not message.content.array_records.get("arrays")  # no model
            seen.extend((way, name, array.shape) for name, array in beside_in(message.content).items())
        return answers

    monkeypatch.setattr(Fleet, "exchange", watched)
    folder = launch(*WORDS, "num_rounds=1", "local.steps=2")
    test, batch = ("up", "embedding", (359, 3)), [("down", "rows", (50,)), ("up", "embedding", (50, 3))]
    short = [("down", "gradient", (50, 3)), ("down", "rows", (22,)), ("up", "embedding", (22, 3))]
    assert seen == [test, *batch, *short, ("down", "gradient", (22, 3)), test]
    (row,) = table(folder, "clients")
    assert (int(row["bytes_up"]), int(row["bytes_down"])) == (COMMON * 12, COMMON * (12 + 4))


HARD = ("network=flaky", "compression=quantize", "strategy.noise=0.1", "strategy.local_updates=2", "num_rounds=4")


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(launch: Launch, tmp_path: Path) -> None:
    whole = launch(*WORDS, *HARD)
    parts = launch(*WORDS, *HARD, "num_rounds=2")
    assert execute(compose(*WORDS, *HARD), parts, tmp_path, Start.RESUME) == 0
    assert digests(parts) == digests(whole)


@long
def test_the_simulation_has_the_same_bytes(tmp_path: Path) -> None:
    runs = []
    for engine in ("inline", "simulation"):
        words = (*WORDS, *HARD, "figures=false", f"engine={engine}", f"hydra.run.dir={engine}")
        done = forked(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        runs.append(digests(tmp_path / engine))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("num_clients=2",), "num_clients=2: must be 1 for transfer, from the server to one client"),
        (("setting.columns=alone",), "setting.columns=alone: must be split for transfer"),
        (("strategy.gamma=-1",), "strategy.gamma=-1: must be 0 or more"),
        (("setting.overlap=0.0001",), "setting.overlap=0.0001: no row is held by all of 1 parties; raise it"),
        (("attack=sign_flip",), "attack: cannot be had with setting=vertical"),
    ],
)
def test_what_does_not_fit_is_refused(refused: Any, words: tuple[str, ...], says: str) -> None:
    said = refused(*WORDS, *words)
    assert says in said
    assert said.count("\n") == 1
