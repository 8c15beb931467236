"""q-FedAvg by numbers worked out by hand, and the loss that its clients report."""

import pytest
import torch
from conftest import Launch, compose, table
from serving import serve
from torch import nn
from turns import make_turn

from fl_bench.errors import ConfigError
from fl_bench.runs.experiment import make_strategy
from fl_bench.strategies.qfedavg import QFedAvg, StartingLoss

SGD = {"name": "SGD"}
SENT = {"w": [1.0, 1.0], "n.running_mean": [0.0]}
MODELS = [{"w": [4.0, 5.0], "n.running_mean": [1.0]}, {"w": [1.0, 0.0], "n.running_mean": [5.0]}]


def test_a_round_by_hand() -> None:
    # q = 2, L = 2, losses 2 and 3, updates (3, 4) and (0, -1) of squared length 25 and 1:
    # 4 * 2 * (3, 4) + 9 * 2 * (0, -1) = (24, 14); (2 * 2 * 4 * 25 + 2 * 4) + (2 * 3 * 4 * 1 + 2 * 9) = 408 + 42 = 450
    made = serve(QFedAvg(2.0, None, 0.5, SGD), SENT, MODELS, [30, 10], [{"start_loss": 2.0}, {"start_loss": 3.0}])
    assert made is not None
    assert made[0]["w"].tolist() == pytest.approx([1 + 24 / 450, 1 + 14 / 450], abs=1e-6)
    assert made[0]["n.running_mean"].tolist() == [2.0]  # by examples, and not stepped


def test_q_zero_is_the_plain_mean() -> None:
    made = serve(QFedAvg(0.0, None, 0.5, SGD), SENT, MODELS, [30, 10], [{"start_loss": 2.0}, {"start_loss": 3.0}])
    assert made is not None
    assert made[0]["w"].tolist() == pytest.approx([2.5, 2.5], abs=1e-6)


def test_the_constant() -> None:
    assert QFedAvg(1.0, None, 0.1, {"name": "SGD", "momentum": 0.9}).lipschitz == pytest.approx(1.0)
    assert QFedAvg(1.0, 7.0, 0.1, {"name": "Adam"}).lipschitz == 7.0
    with pytest.raises(ConfigError, match=r"strategy\.lipschitz=null: must be given with AdamW"):
        make_strategy(compose("task=imdb", "strategy=qfedavg").strategy.server)
    with pytest.raises(ConfigError, match=r"strategy\.q=-1: must be a number from 0"):
        make_strategy(compose("strategy=qfedavg", "strategy.q=-1").strategy.server)


def test_clients_report_the_loss_of_what_they_were_sent() -> None:
    # the loss of weight w for target t is (w - t)^2: of 1 for the targets 3, 5 and 1 it is 4, 16 and 0
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batches = [{"x": torch.ones(len(t), 1), "y": torch.tensor(t)[:, None]} for t in ([3.0, 5.0], [1.0])]
    turn = make_turn(model, batches)
    StartingLoss().begin(turn)
    assert turn.reply["start_loss"] == pytest.approx(20 / 3)
    assert turn.model.training


def test_it_is_of_all_their_data_whatever_they_train_on(launch: Launch) -> None:
    losses = []
    for steps in (1, 7):
        folder = launch("strategy=qfedavg", "num_rounds=1", f"local.steps={steps}", "num_clients=3")
        losses.append([row["train_start_loss"] for row in table(folder, "clients")])
    assert losses[0] == losses[1]
    assert all(2.2 < float(loss) < 2.6 for loss in losses[0])  # of an untrained model, ln 10 is 2.3
