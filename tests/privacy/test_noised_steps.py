"""DP-SGD at a client: by hand, against gradients one by one and against Opacus; its noise, and its Poisson batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from turns import LOCAL, Toy, make_turn

from fl_bench.errors import ConfigError
from fl_bench.metrics import Mean
from fl_bench.privacy.base import Protection
from fl_bench.privacy.example import DPSGD, clipped_sums
from fl_bench.strategies.server import SECRET_NOISE
from fl_bench.strategies.turn import Turn
from fl_bench.tasks.base import Batch, Metrics, Task, batch_mean

HUGE = 1e30


class Slope(Toy):
    """A loss whose gradient with respect to w is x, whatever w is."""

    def objective(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        loss = model(batch["x"]).mean()
        return loss, {"loss": batch_mean(loss, len(batch["x"]))}


def line(*weights: float) -> nn.Linear:
    model = nn.Linear(len(weights), 1, bias=False)
    model.weight.data = torch.tensor([weights])
    return model


def rows(*examples: Sequence[float]) -> Batch:
    return {"x": torch.tensor(examples, dtype=torch.float32)}


def small_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.GroupNorm(1, 7), nn.Tanh(), nn.Linear(7, 2))


def data(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(4)
    return {"x": torch.randn(count, 5, generator=generator), "y": torch.randn(count, 2, generator=generator)}


def test_the_gradient_of_each_example_is_shortened() -> None:
    # of one number, 3 and 4: 3.5 leaves 3, and makes 3.5 of 4
    sums, metrics = clipped_sums(Slope(), line(2.0), rows([3.0], [4.0]), 3.5)
    assert sums["weight"].tolist() == [[6.5]]
    assert metrics["loss"] == Mean(14.0, 2)  # 2 * 3 + 2 * 4
    # of two numbers: (3, 4) has length 5, and (0.3, 0.4) is short enough
    sums, _ = clipped_sums(Slope(), line(0.0, 0.0), rows([3.0, 4.0], [0.3, 0.4]), 1.0)
    assert sums["weight"].tolist() == [pytest.approx([0.9, 1.2])]


@pytest.mark.parametrize("pieces", [1, 4, 9])
def test_the_same_as_one_by_one(pieces: int) -> None:
    """All tensors of an example's gradient are one vector, whose length counts."""
    model, batch, norm = small_network(), data(), 1.5
    sums, metrics = clipped_sums(Toy(), model, batch, norm, pieces)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    lengths, losses = [], []
    for k in range(6):
        loss, _ = Toy().objective(model, {name: column[k : k + 1] for name, column in batch.items()})
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        lengths.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        losses.append(loss.item())
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += gradient * min(1, norm / lengths[-1])
    assert min(lengths) < norm < max(lengths)
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value)
    assert metrics["loss"].value == pytest.approx(np.mean(losses))


def test_the_same_as_opacus() -> None:
    """Its optimiser without noise: the parameters after three steps."""
    opacus = pytest.importorskip("opacus")
    ours, theirs = small_network(), opacus.GradSampleModule(small_network())
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1)
    optimizer = opacus.optimizers.DPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=1.5, expected_batch_size=4)
    turn = begun(ours, DPSGD(0, 1.5, 0.0, 1e-5), 4, Toy())
    for count in (6, 2, 4):
        turn.step(data(count))
        optimizer.zero_grad()
        Toy().objective(theirs, data(count))[0].backward()
        optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def begun(model: nn.Module, noise: DPSGD, expected: int, task: Task, round: int = 1, **given: Any) -> Turn:
    """A turn whose batches have so many examples on average, with the noise in its steps."""
    turn = make_turn(model, **{"local": LOCAL | {"batch_size": expected, "lr": 0.1}} | given)
    turn.task, turn.round = task, round
    noise.begin(turn, rows=10 * expected)
    return turn


def test_a_step_divides_by_the_batch_size_that_is_expected() -> None:
    turn = begun(line(2.0), DPSGD(0, 3.5, 0.0, 1e-5), 5, Slope())
    seen: list[float] = []
    metrics = turn.step(rows([3.0], [4.0]), lambda: seen.append(turn.grad.item()))
    assert seen == [pytest.approx(1.3)]  # 6.5 / 5
    assert turn.parameters.item() == pytest.approx(2.0 - 0.1 * 1.3)
    assert metrics["loss"].value == 7.0
    assert turn.gradient(rows([3.0], [4.0])).tolist() == [pytest.approx(1.3)]
    assert turn.steps == 2


def test_without_noise_and_with_a_large_norm_it_is_poisson_sgd() -> None:
    """With momentum: the sum of the gradients of a batch of any size, by the size that is expected."""
    model, weights = small_network(), small_network()
    local = LOCAL | {"batch_size": 4, "lr": 0.1, "optimizer": {"name": "SGD", "momentum": 0.9}}
    turn = begun(model, DPSGD(0, HUGE, 0.0, 1e-5), 4, Toy(), local=local)
    plain = torch.optim.SGD(weights.parameters(), lr=0.1, momentum=0.9)
    for count in (6, 1, 3, 0, 4):
        turn.step(data(count))
        plain.zero_grad()
        # a mean over two numbers an example
        ((weights(data(count)["x"]) - data(count)["y"]).square().sum() / 2 / 4).backward()
        plain.step()
    for mine, other in zip(model.parameters(), weights.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def pure_noise(round: int = 1, told: Any = None, seed: int = 0) -> torch.Tensor:
    """The step of an empty batch, of 100,000 numbers."""
    turn = begun(line(*[0.0] * 100_000), DPSGD(seed, 3.0, 0.5, 1e-5), 6, Slope(), round, config=told or {})
    return turn.gradient({"x": torch.zeros(0, 100_000)})


def test_an_empty_batch_is_a_step_of_noise_as_large_as_accounted() -> None:
    noise = pure_noise()
    assert noise.std().item() == pytest.approx(0.5 * 3 / 6, rel=0.01)  # 4.5 standard errors
    assert abs(noise.mean().item()) < 0.25 / 100_000**0.5 * 4.5
    assert noise.square().square().mean().item() == pytest.approx(3 * 0.25**4, rel=0.05)  # as of a normal distribution


def test_noise_comes_from_its_address_or_on_real_sites_from_nowhere() -> None:
    assert pure_noise().equal(pure_noise())
    for other in (pure_noise(round=2), pure_noise(seed=1), pure_noise(told={SECRET_NOISE: True})):
        assert (other - pure_noise()).std().item() == pytest.approx(0.25 * 2**0.5, rel=0.02)  # independent
    assert not pure_noise(told={SECRET_NOISE: True}).equal(pure_noise(told={SECRET_NOISE: True}))


def test_rows_are_in_a_batch_each_for_itself() -> None:
    """With odds of 3 in 12: the counts of batches, of rows, and of pairs of rows."""
    noise, known = DPSGD(0, 1.0, 1.0, 1e-5), np.arange(100, 112)
    draws = noise.generator("batches", 1, 2, {})
    parts = [part for part, _ in zip(noise.batches(known, 3, draws), range(20_000), strict=False)]
    there = np.array([np.isin(known, part) for part in parts])
    assert all(np.isin(part, known).all() and len({*part}) == len(part) for part in parts)
    standard_error = (0.25 * 0.75 / 20_000) ** 0.5
    np.testing.assert_allclose(there.mean(axis=0), 0.25, atol=5 * standard_error)
    assert there.sum(axis=1).var() == pytest.approx(12 * 0.25 * 0.75, rel=0.05)
    together = there[:, :, None] & there[:, None, :]
    np.testing.assert_allclose(
        together.mean(axis=0)[~np.eye(12, dtype=bool)], 1 / 16, atol=5 * (1 / 16 / 20_000) ** 0.5
    )
    whole = next(noise.batches(known, 12, draws))
    assert sorted(whole) == known.tolist() == sorted(next(noise.batches(known, 40, draws)))


class TwoLosses(Slope):
    def step(self, *_: Any) -> Metrics:
        return {}


class Together(Slope):
    def objective(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        loss = model(batch["x"]).square().sum()
        return loss, {"loss": batch_mean(loss, len(batch["x"]))}


class Branching(Slope):
    def objective(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        assert model(batch["x"]).sum() < 1e9
        return super().objective(model, batch)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (TwoLosses(), "privacy: a step of task TwoLosses is not one loss and one optimiser; use privacy=local"),
        (Together(), "privacy: the loss of a batch of task Together is not the mean of its examples' losses"),
        (Branching(), "privacy: examples cannot be taken one by one: RuntimeError: vmap: "),
    ],
)
def test_steps_that_cannot_be_taken_example_by_example(task: Task, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        DPSGD(0, 1.0, 1.0, 1e-5).suit(task, line(1.0), rows([1.0], [2.0]))


def test_dropout_is_no_obstacle() -> None:
    model = nn.Sequential(line(1.0, 1.0), nn.Dropout())
    DPSGD(0, 1.0, 1.0, 1e-5).suit(Slope(), model, rows([1.0, 2.0], [3.0, 4.0]))
    many = rows(*[[3.0, 4.0]] * 1000)  # each dropped or doubled by itself: (0, 0), or (6, 8) and so (0.6, 0.8)
    torch.manual_seed(0)
    sums, _ = clipped_sums(Slope(), model.train(), many, 1.0)
    kept = sums["0.weight"][0, 0].item() / 0.6
    assert kept == pytest.approx(500, abs=5 * 250**0.5)
    assert sums["0.weight"][0, 1].item() == pytest.approx(kept * 0.8, rel=1e-4)


def test_without_protection_a_step_is_the_tasks() -> None:
    turn = make_turn(line(2.0))
    step = turn.step
    Protection(0).begin(turn, 10)
    assert turn.step == step
