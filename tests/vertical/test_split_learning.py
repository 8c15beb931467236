"""Split learning over columns, beside plain loops of torch."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Launch, compose, digests, forked, long, table
from flwr.app import Message
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
from fl_bench.vertical.columns import align

WORDS = (
    "setting=vertical", "task=tabular", "data=digits", "num_clients=2", "setting.alignment=known", "num_rounds=2",
    "model=logistic", "strategy.width=3", "local.batch_size=500", "local.lr=0.3", "setting.overlap=0.9",
)  # fmt: skip
SHARES = slice(0, 22), slice(22, 43), slice(43, 64)  # of 64 columns, the last the label holder's


class Loop:
    """The whole net, where one process has all."""

    def __init__(self, seed: int = 0, width: int = 3) -> None:
        data = tables.digits()
        self.x, self.y = (torch.from_numpy(data.train[name]) for name in "xy")
        self.test_x, self.test_y = (torch.from_numpy(data.test[name]) for name in "xy")
        self.rows = align(np.arange(1438), 64, 2, "split", 0.9, "known", seed).rows
        rng.seed_torch(seed, "model")
        self.bottoms = [nn.Linear(share.stop - share.start, width) for share in SHARES]
        self.top = nn.Linear(3 * width, 10)
        self.seed = seed

    def batches(self, round: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Three of a round: the rows are 1,438 x 0.9 x 0.9 or so, and the last batch is short."""
        order = rng.generator(self.seed, "batches", round, 2)  # those of the party after the two clients
        for places in islice(batches(np.arange(len(self.rows)), 500, order), 3):
            rows = self.rows[places]
            yield self.x[rows], self.y[rows]

    def embeddings(self, x: Tensor) -> list[Tensor]:
        return [bottom(x[:, share]) for bottom, share in zip(self.bottoms, SHARES, strict=True)]

    def loss(self, embeddings: list[Tensor], y: Tensor) -> Tensor:
        return cross_entropy(self.top(torch.cat(embeddings, 1).relu()), y)

    def check(self, folder: Path, round: int) -> None:
        """That the parts of a run's net, wherever they are, are those of this one."""
        for client, bottom in enumerate(self.bottoms[:2]):
            kept = load_file(folder / "state" / str(client) / f"{round}.safetensors")
            torch.testing.assert_close(kept["1.weight"], bottom.weight.data, atol=1e-6, rtol=0)
            torch.testing.assert_close(kept["1.bias"], bottom.bias.data, atol=1e-6, rtol=0)
        model = load_file(folder / "model.safetensors")
        assert set(model) == {"bottoms.2.1.weight", "bottoms.2.1.bias", "top.1.1.weight", "top.1.1.bias"}
        torch.testing.assert_close(model["bottoms.2.1.weight"], self.bottoms[2].weight.data, atol=1e-6, rtol=0)
        torch.testing.assert_close(model["top.1.1.weight"], self.top.weight.data, atol=1e-6, rtol=0)
        with torch.no_grad():
            loss = float(self.loss(self.embeddings(self.test_x), self.test_y))
        assert abs(float(table(folder, "metrics")[-1]["test_loss"]) - loss) < 1e-6


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_central_training_of_the_joined_net(launch: Launch, momentum: float) -> None:
    folder = launch(*WORDS, *(["+local.optimizer.momentum=0.9"] if momentum else []))
    loop, losses = Loop(), []
    parameters = [p for net in (*loop.bottoms, loop.top) for p in net.parameters()]
    for round in (1, 2):
        optimizer = torch.optim.SGD(parameters, 0.3, momentum)  # each turn begins with none, as everywhere
        total = 0.0
        for x, y in loop.batches(round):
            optimizer.zero_grad()
            loss = loop.loss(loop.embeddings(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        losses.append(total / len(loop.rows))
    loop.check(folder, 2)
    trained = [float(row["train_loss"]) for row in table(folder, "metrics")[1:]]
    np.testing.assert_allclose(trained, losses, atol=1e-6)


def test_several_steps_go_along_the_gradient_of_the_first(launch: Launch) -> None:
    """FedBCD: a party's gradient, and what the label holder has of the others, stay as they were exchanged."""
    folder = launch(*WORDS, "strategy.local_updates=3")
    loop = Loop()
    for round in (1, 2):
        for x, y in loop.batches(round):
            sent = [embedding.detach().requires_grad_() for embedding in loop.embeddings(x)[:2]]
            own = loop.embeddings(x)[2]
            gradients = torch.autograd.grad(loop.loss([*sent, own], y), sent)
            for bottom, share, gradient in zip(loop.bottoms, SHARES, gradients, strict=False):
                for _ in range(3):  # of a linear layer: W -= lr g'x, b -= lr sum g, three times the same
                    bottom.weight.data -= 0.3 * gradient.T @ x[:, share]
                    bottom.bias.data -= 0.3 * gradient.sum(0)
            holders = [*loop.bottoms[2].parameters(), *loop.top.parameters()]
            for _ in range(3):
                loss = loop.loss([*(embedding.detach() for embedding in sent), loop.bottoms[2](x[:, SHARES[2]])], y)
                for parameter, step in zip(holders, torch.autograd.grad(loss, holders), strict=True):
                    parameter.data -= 0.3 * step
    loop.check(folder, 2)
    assert [row["steps"] for row in table(folder, "clients")] == ["9"] * 4


@pytest.mark.parametrize(
    ("words", "up", "down"),
    [
        ((), 4, 4),
        (("compression=fp16", "compression/down=fp16"), 2, 2),
        (("compression=quantize",), None, 4),
    ],
)
def test_every_byte_is_counted(launch: Launch, words: tuple[str, ...], up: int | None, down: int) -> None:
    folder = launch(*WORDS, "num_rounds=1", *words)
    rows = len(Loop().rows)
    assert table(folder, "partition")[0]["aligned"] == str(rows)
    for row in table(folder, "clients"):
        if up is not None:
            assert int(row["bytes_up"]) == up * 3 * rows
        else:  # a byte a number, and a scale of four for each of three batches
            assert int(row["bytes_up"]) == 3 * rows + 3 * 4
        assert int(row["bytes_down"]) == down * 3 * rows + 4 * rows  # and the number of each row


def test_the_clock_counts_embeddings_and_gradients(launch: Launch) -> None:
    """Equal devices: 4 bytes a row and 12 a gradient go down, 12 an embedding up; then three batches' steps."""
    speeds = "network.seconds_per_step=0.5", "network.bytes_per_second_up=1000", "network.bytes_per_second_down=2000"
    folder = launch(*WORDS, "network=heterogeneous", "network.spread=0", *speeds)
    count = len(Loop().rows)
    seconds = 16 * count / 2000 + 12 * count / 1000 + 3 * 0.5
    ends = [float(row["virtual_seconds"]) for row in table(folder, "metrics")[1:]]
    assert ends == pytest.approx([seconds, 2 * seconds])


def test_what_each_side_sees(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """No label and no column goes anywhere, nor any net: rows and gradients come, embeddings go."""
    seen: list[tuple[str, Message]] = []
    exchange = Fleet.exchange

    def watched(fleet: Fleet, messages: Any, *rest: Any, **options: Any) -> Any:
        messages = list(messages)
        answers = exchange(fleet, messages, *rest, **options)
        seen.extend(("down", message) for message in messages)
        seen.extend(("up", answer.message) for answer in answers if answer.message is not None)
        return answers

    monkeypatch.setattr(Fleet, "exchange", watched)
    launch(*WORDS, "num_rounds=1")
    found: dict[str, set[str]] = {"down": set(), "up": set()}
    for way, message in seen:
        assert not message.content.array_records.get("arrays")  # no model
        numbers = {key for record in message.content.metric_records.values() for key in record}
        assert numbers <= {"num-examples"}
        for name, array in beside_in(message.content).items():
            found[way].add(name)
            assert array.shape[1:] == (() if name == "rows" else (3,))
    assert found == {"down": {"rows", "gradient"}, "up": {"embedding"}}


def test_a_party_that_drops_out_is_zeros_for_a_round(launch: Launch) -> None:
    folder = launch(*WORDS, "network=flaky", "num_rounds=4", "seed=3")
    rows = table(folder, "clients")
    statuses = {(row["round"], row["client"]): row["status"] for row in rows}
    assert {"ok", "dropped"} == set(statuses.values())
    loop = Loop(seed=3)
    parameters = {k: [*net.parameters()] for k, net in enumerate((*loop.bottoms, loop.top))}
    for round in range(1, 5):
        away = [k for k in (0, 1) if statuses[str(round), str(k)] == "dropped"]
        trained = [p for k, part in parameters.items() if k not in away for p in part]
        for x, y in loop.batches(round):
            embeddings = [e if k not in away else torch.zeros_like(e) for k, e in enumerate(loop.embeddings(x))]
            gradients = torch.autograd.grad(loop.loss(embeddings, y), trained)
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.data -= 0.3 * gradient
    last = [max(int(r) for (r, k), status in statuses.items() if k == str(c) and status == "ok") for c in (0, 1)]
    for client in (0, 1):
        kept = load_file(folder / "state" / str(client) / f"{last[client]}.safetensors")
        torch.testing.assert_close(kept["1.weight"], loop.bottoms[client].weight.data, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("columns", "share"), [("together", slice(0, 64)), ("alone", SHARES[2])])
def test_without_others_it_is_plain_training(launch: Launch, columns: str, share: slice) -> None:
    folder = launch(*WORDS, "setting.overlap=1", f"setting.columns={columns}")
    data = tables.digits()
    x, y = (torch.from_numpy(data.train[name]) for name in "xy")
    rows = align(np.arange(1438), 64, 2, columns, 1.0, "known", 0).rows  # type: ignore[arg-type]
    rng.seed_torch(0, "model")
    net = nn.Sequential(nn.Linear(share.stop - share.start, 3), nn.ReLU(), nn.Linear(3, 10))
    optimizer = torch.optim.SGD(net.parameters(), 0.3)
    for round in (1, 2):
        order = rng.generator(0, "batches", round, 0)
        for places in islice(batches(np.arange(1438), 500, order), 3):
            optimizer.zero_grad()
            cross_entropy(net(x[rows[places]][:, share]), y[rows[places]]).backward()
            optimizer.step()
    with torch.no_grad():
        loss = float(cross_entropy(net(torch.from_numpy(data.test["x"])[:, share]), torch.from_numpy(data.test["y"])))
    last = table(folder, "metrics")[-1]
    assert abs(float(last["test_loss"]) - loss) < 1e-6
    assert (last["clients_sampled"], last["bytes_up"], last["bytes_down"]) == ("0", "0", "0")


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


def test_images_are_cut_into_strips(launch: Launch) -> None:
    folder = launch("setting=vertical", "num_clients=4", "local.steps=2", "num_rounds=1", "setting.alignment=known")
    held = table(folder, "partition")
    assert [(row["client"], row["first_column"], row["last_column"]) for row in held] == [
        ("0", "0", "5"), ("1", "6", "11"), ("2", "12", "17"), ("3", "18", "22"), ("labels", "23", "27"),
    ]  # fmt: skip
    kept = load_file(folder / "state" / "3" / "1.safetensors")
    assert kept["1.weight"].shape == (16, 28 * 5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("strategy=fedavg",), "setting=vertical: FedAvg averages models"),
        (("attack=sign_flip",), "attack: cannot be had with setting=vertical: clients send embeddings, and no updates"),
        (("secure_aggregation=masks",), "secure_aggregation=masks: must be none with setting=vertical"),
        (("partition=dirichlet",), "partition: cannot be had with setting=vertical: clients have the same rows"),
        (("evaluate.clients=true",), "evaluate.clients=true: must be false with setting=vertical: clients have no"),
        (("compression=topk",), "compression: TopK follows a client's update over the rounds"),
        (("setting.overlap=0.0",), "setting.overlap=0.0: must be above 0 and at most 1"),
        (("num_clients=64",), "num_clients=64: must be less than 64, the columns of the data"),
        (("strategy.noise=-1.0",), "strategy.noise=-1.0: must be 0 or more"),
        (("task=dcgan", "data=embedded"), "setting=vertical: task Dcgan has no examples of which a party could have"),
    ],
)
def test_what_does_not_fit_is_refused(refused: Any, words: tuple[str, ...], says: str) -> None:
    said = refused("setting=vertical", "task=tabular", "data=digits", "setting.alignment=known", *words)
    assert says in said
    assert said.count("\n") == 1


def test_only_with_the_setting(refused: Any) -> None:
    words = ("strategy.server._target_=fl_bench.vertical.holder.Holder", "+strategy.server.width=1")
    said = refused(*words, "+strategy.server.local_updates=1")
    assert "strategy: Holder is for clients that hold columns; add setting=vertical" in said
