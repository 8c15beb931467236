"""Rounds of several exchanges, and arrays beside the model: strategies of a user's own."""

from pathlib import Path

import pytest
from conftest import digests, forked, long, table

MINE = '''
import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fl_bench.storage.buffers import arrays_in, to_record
from fl_bench.strategies.base import LocalAlgorithm


class Stepwise(FedAvg):
    """FedAvg that asks for a step at a time."""

    def exchanges(self, server_round):
        return 4

    def go_on(self, server_round, exchange, asked, replies):
        there = {r.metadata.src_node_id for r in replies if not r.has_error()}
        return [m for m in asked if m.metadata.dst_node_id in there]


class Step(LocalAlgorithm):
    def train(self, turn):
        return [self.training_step(turn, turn.draw("batches"))]


class Echo(Stepwise):
    """Sends each client at its second exchange what it has sent at the first, and one number of the others."""

    def exchanges(self, server_round):
        return 2

    def go_on(self, server_round, exchange, asked, replies):
        sent = {r.metadata.src_node_id: r.content["beside"]["rows"].numpy() for r in replies}
        total = np.array(sum(len(rows) for rows in sent.values()))
        records = {m.metadata.dst_node_id: arrays_in(m.content) for m in asked}
        return [
            Message(
                RecordDict({"arrays": records[k], "beside": to_record({"rows": rows, "total": total})}), k, "train"
            )
            for k, rows in sent.items()
        ]

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        texts = [r.content.pop("beside")["text"].numpy() for r in replies]  # Flower's wants one record
        arrays, metrics = super().aggregate_train(server_round, replies)
        metrics["text"] = float(sum(text.sum() for text in texts))
        return arrays, metrics


class Telling(LocalAlgorithm):
    def train(self, turn):
        if turn.beside:  # the second exchange
            assert turn.beside["rows"].tolist() == [[float(turn.client)]] * (turn.client + 1)
            turn.sends["text"] = torch.frombuffer(bytearray(b"ab"), dtype=torch.uint8) + turn.beside["total"]
        else:
            turn.sends["rows"] = torch.full((turn.client + 1, 1), float(turn.client))
        return super().train(turn)
'''
SMALL = ("num_clients=3", "num_rounds=2", "local.steps=4", "figures=false", "partition=linear", "strategy=fedavg")


def run(folder: Path, name: str, *words: str) -> Path:
    (folder / "mine.py").write_text(MINE)
    done = forked(*SMALL, *words, f"hydra.run.dir={name}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / name


def of(server: str, client: str) -> tuple[str, ...]:
    return f"strategy.server._target_=mine.{server}", f"strategy.client._target_=mine.{client}"


@pytest.mark.parametrize("optimizer", [pytest.param((), marks=long), ("+local.optimizer.momentum=0.9",)])
def test_a_turn_in_pieces_is_the_whole_turn(tmp_path: Path, optimizer: tuple[str, ...]) -> None:
    whole = run(tmp_path, "whole", "engine=inline", *optimizer)
    pieces = run(tmp_path, "pieces", "engine=inline", *of("Stepwise", "Step"), *optimizer)
    for file in ("model.safetensors", "metrics.csv"):
        assert (pieces / file).read_bytes() == (whole / file).read_bytes()


def test_arrays_beside_the_model_come_and_go_for_each_client(tmp_path: Path) -> None:
    words = (*of("Echo", "Telling"), "strategy.needs_each_client=true")
    folder = run(tmp_path, "inline", "engine=inline", *words)
    # Three clients of 1, 2 and 3 rows: 6 in all, which each adds to the two letters.
    text = 3 * (ord("a") + ord("b") + 2 * 6)
    assert [float(row["train_text"]) for row in table(folder, "metrics")[1:]] == [text, text]
    plain, clients = table(run(tmp_path, "plain", "engine=inline"), "clients"), table(folder, "clients")
    assert [row["steps"] for row in clients] == ["8"] * 6
    # Up go k + 1 rows of float32 and two letters of a byte, down come those rows and the int64.
    for name, more in (("bytes_up", lambda k: 4 * (k + 1) + 2), ("bytes_down", lambda k: 4 * (k + 1) + 8)):
        differences = [int(a[name]) - int(b[name]) for a, b in zip(clients, plain, strict=True)]
        assert differences == 2 * [more(k) for k in range(3)]


@long
def test_in_a_simulation_they_are_the_same(tmp_path: Path) -> None:
    words = (*of("Echo", "Telling"), "strategy.needs_each_client=true")
    inline = run(tmp_path, "inline", "engine=inline", *words)
    simulated = run(tmp_path, "simulation", "engine=simulation", *words)
    assert digests(simulated) == digests(inline)


def test_arrays_beside_a_sum_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = forked(*SMALL, *of("Echo", "Telling"), "engine=inline", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "strategy: its clients send arrays beside the model: its yaml must say needs_each_client: true" in done.stderr
    )
