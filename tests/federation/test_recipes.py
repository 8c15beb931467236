"""Learning rates over the rounds, clipping, decay, pieces and precision: what they are is what torch makes of them."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Launch, compose, digests, forked, long, table
from safetensors.torch import load_file
from torch import nn
from torch.optim import lr_scheduler
from turns import LOCAL, Toy, make_turn

from fl_bench import rng
from fl_bench.build import build
from fl_bench.data.arrays import batches
from fl_bench.errors import ConfigError
from fl_bench.runs.prepare import prepare
from fl_bench.tasks.base import Task
from fl_bench.tasks.rates import of_round

SMALL = ("data=synthetic", "data.num_samples=200", "num_clients=4", "local.steps=3", "local.batch_size=8")
RATES = {"lr": 0.4, "lr_decay": 0.7, "lr_every": 3, "lr_final": 0.1, "lr_horizon": 8, "lr_warmup": 0}
TORCHS: dict[str, Callable[[Any], Any]] = {
    "constant": lambda sgd: lr_scheduler.ConstantLR(sgd, factor=1.0),
    "exponential": lambda sgd: lr_scheduler.ExponentialLR(sgd, 0.7),
    "step": lambda sgd: lr_scheduler.StepLR(sgd, 3, 0.7),
    "cosine": lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, 8, 0.04),
}


@pytest.mark.parametrize("name", TORCHS)
def test_schedules_are_torchs(name: str) -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = TORCHS[name](sgd)
    for round in range(1, 10):
        assert of_round(RATES | {"lr_schedule": name}, round)["lr"] == pytest.approx(schedule.get_last_lr()[0])
        sgd.step()
        schedule.step()


def test_the_rate_rises_before_its_schedule_begins_and_stays_after_the_horizon() -> None:
    local = RATES | {"lr": 1.0, "lr_schedule": "cosine", "lr_warmup": 3, "lr_horizon": 7}
    rates = [of_round(local, round)["lr"] for round in range(1, 10)]
    # 0.1 + 0.9 (1 + cos(pi t / 4)) / 2 for t = 0 to 4, and 0.1 from then on
    assert of_round(local, 0) == of_round(local, 1)  # what is tried before the first round
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.868198, 0.55, 0.231802, 0.1, 0.1], abs=1e-6)


def test_a_client_trains_with_them_as_a_plain_loop_does(launch: Launch, tmp_path: Path) -> None:
    words = (
        *SMALL, "num_clients=1", "num_rounds=4", "local.lr_schedule=step", "local.lr_every=2", "local.lr_decay=0.5",
        "local.clip_norm=0.2", "local.optimizer.name=AdamW", "+local.optimizer.weight_decay=0.1", "local.decay=weights",
        "local.lr=0.01",
    )  # fmt: skip
    made = load_file(launch(*words) / "model.safetensors")
    cfg = compose(*words)
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    model, rows = trainer.flat.model, trainer.partition.train_rows(0)
    longest = 0.0
    for round, rate in enumerate([0.01, 0.01, 0.005, 0.005], 1):
        layer: Any = model.get_submodule("1")
        adam = torch.optim.AdamW(
            [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0.0}], lr=rate
        )
        for part in islice(batches(rows, 8, rng.generator(0, "batches", round, 0)), 3):
            adam.zero_grad()
            trainer.task.objective(model, trainer.task.gather(trainer.data.train, part, "cpu"))[0].backward()
            longest = max(longest, float(nn.utils.clip_grad_norm_(model.parameters(), 0.2)))
            adam.step()
    assert longest > 0.4  # it was clipped
    for name, tensor in model.state_dict().items():
        assert (made[name] - tensor).abs().max() < 1e-6


def line(value: float) -> nn.Linear:
    """Whose weight and bias both have this value."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, value)
    return model


def test_clipping_by_hand() -> None:
    model, batch = line(0.0), {"x": torch.tensor([[1.0], [2.0]]), "y": torch.tensor([[3.0], [2.0]])}
    turn = make_turn(model, [batch], local=LOCAL | {"steps": 1, "lr": 0.1, "clip_norm": 0.5})
    turn.step(batch)
    # The gradient is (2 (-3) 1 + 2 (-2) 2) / 2 = -7 for the weight, -5 for the bias: 8.602 long, and shortened to 0.5.
    assert model.weight.item() == pytest.approx(0.1 * 0.5 * 7 / 74**0.5, abs=1e-7)
    assert model.bias.item() == pytest.approx(0.1 * 0.5 * 5 / 74**0.5, abs=1e-7)


def test_decay_of_weights_only() -> None:
    model = line(2.0)
    local = LOCAL | {"lr": 0.1, "decay": "weights", "optimizer": {"name": "SGD", "weight_decay": 0.5}}
    optimizer = Toy().optimizer(model, local)
    model.weight.grad, model.bias.grad = torch.zeros(1, 1), torch.zeros(1)
    optimizer.step()
    assert model.weight.item() == pytest.approx(1.9)
    assert model.bias.item() == 2.0


@pytest.mark.parametrize("pieces", [2, 3, 50])
def test_pieces_add_up_to_the_batch(launch: Launch, pieces: int) -> None:
    words = (*SMALL, "task=cifar", "num_rounds=2", "local.batch_size=7")
    whole, other = (load_file(launch(*words, *w) / "model.safetensors") for w in ((), (f"local.accumulate={pieces}",)))
    assert max((whole[name] - other[name]).abs().max() for name in whole) < 1e-6
    assert any(not torch.equal(whole[name], other[name]) for name in whole)


def test_half_as_many_bits_in_the_forward_pass(launch: Launch) -> None:
    words = (*SMALL, "task=cifar", "num_rounds=4", "local.steps=20")
    whole, half = launch(*words), launch(*words, "local.precision=bf16")
    losses = [float(table(folder, "metrics")[-1]["test_loss"]) for folder in (whole, half)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert {tensor.dtype for tensor in load_file(half / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    "words",
    [("task=mnist", "strategy=scaffold"), pytest.param(("task=dcgan", "local.clip_norm=0.1"), marks=long)],
    ids=str,
)
def test_every_engine_has_the_same_rate(launch: Launch, quick_judge: None, words: tuple[str, ...]) -> None:
    words = (*words, "num_clients=4", "local.steps=2", "num_rounds=3", "local.lr_schedule=cosine", "local.lr_warmup=1")
    one = digests(launch(*words))
    assert one == digests(launch(*words, "engine.packing=false"))
    assert one != digests(launch(*words, "local.lr_warmup=0"))


@long
def test_with_more_rounds_the_schedule_stays_what_it_was(tmp_path: Path) -> None:
    words = (*SMALL, "engine=inline", "figures=false", "local.lr_schedule=cosine")
    for name, more in {"parts": ("num_rounds=3",), "whole": ("num_rounds=6", "local.lr_horizon=3")}.items():
        assert forked(*words, *more, f"hydra.run.dir={name}", cwd=tmp_path).returncode == 0
    again = (*words, "hydra.run.dir=parts", "resume=true", "num_rounds=5")
    for command in (again, ("resume", "parts", "num_rounds=6")):
        result = forked(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    result = forked(*again[:-1], "num_rounds=7", "local.lr_horizon=7", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("local.lr_horizon=7: the run has 3")) == (2, 1)


def halved(done: int, factor: float) -> float:
    return factor**done


def test_a_schedule_of_ones_own_is_a_function_of_the_rounds_done() -> None:
    own = {"_target_": "test_recipes.halved", "factor": 0.5}
    local = {"lr": 8.0, "lr_schedule": own, "lr_warmup": 1}
    assert [of_round(local, round)["lr"] for round in (1, 2, 3, 4)] == [4.0, 8.0, 4.0, 2.0]
    with pytest.raises(
        ConfigError, match=r"^local\.lr_schedule=test_recipes\.halved: gives -2\.0 after 1 rounds; must "
    ):
        of_round({**local, "lr_schedule": own | {"factor": -2.0}}, 3)
