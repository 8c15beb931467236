"""The loss and the accuracy of the next character, by hand, and whole runs."""

import math

import numpy as np
import pytest
import torch
from conftest import Launch, compose, table
from torch import nn

from fl_bench.build import build
from fl_bench.models.characters import char_lstm, char_transformer
from fl_bench.tasks.base import Task

LSTM, TRANSFORMER = char_lstm(80, 80, 8, 256, 2), char_transformer(80, 80, 128, 4, 2)


class Shares(nn.Module):
    """Says of every place that the characters have these shares."""

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.5, 0.25, 0.25]).log().expand(*text.shape, 3)


@pytest.mark.parametrize(("predict", "loss"), [("last", 2.0), ("all", 1.5)])  # bits: of 1/4, and of 1/2 and 1/4
def test_the_loss_is_of_the_last_character_or_of_all_and_what_is_measured_of_the_last(
    predict: str, loss: float
) -> None:
    task = build(compose("task=characters", "task.alphabet=abc", f"task.predict={predict}").task, Task)
    batch = {"text": torch.tensor([[0, 0, 1], [2, 0, 2]], dtype=torch.uint8), "y": torch.tensor([1, 2])}
    found, measured = task.objective(Shares(), batch)
    assert found.item() == pytest.approx(loss * math.log(2))
    for metrics in (measured, task.score(Shares(), batch)):
        assert metrics["loss"].value == pytest.approx(2 * math.log(2))
        assert (metrics["accuracy"].value, metrics["accuracy"].count) == (0, 2)


def test_parameters_by_hand() -> None:
    lstm = 80 * 8 + 4 * 256 * (8 + 256 + 2) + 4 * 256 * (256 + 256 + 2) + 256 * 80 + 80
    norms, attention, rest = 2 * 2 * 128, 128 * 384 + 384 + 128 * 128 + 128, 128 * 512 + 512 + 512 * 128 + 128
    transformer = 80 * 128 + 2 * (norms + attention + rest) + 2 * 128 + 128 * 80 + 80
    for model, count in ((LSTM, lstm), (TRANSFORMER, transformer)):
        assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("model", [LSTM, TRANSFORMER])
@torch.no_grad()
def test_nothing_is_known_of_what_follows(model: nn.Module) -> None:
    text = torch.arange(24).view(2, 12)
    other = text.clone()
    other[:, 8] = 79
    scores, changed = model(text), model(other)
    assert scores.shape == (2, 12, 80)
    assert torch.allclose(scores[:, :8], changed[:, :8], atol=1e-6)
    assert not torch.allclose(scores[:, 11], changed[:, 11], atol=1e-3)


@pytest.mark.parametrize("model", ["char_lstm model.hidden=16", "char_transformer model.width=16"])
def test_it_learns_what_follows(launch: Launch, model: str) -> None:
    words = (
        "num_rounds=2",
        "local.steps=60",
        "local.lr=0.02",
        "task.length=10",
        "num_clients=1",
        "clients_per_round=1",
    )
    folder = launch("task=characters", *f"model={model}".split(), *words, "evaluate.metrics=[perplexity]")
    before, *_, after = table(folder, "metrics")
    assert float(before["test_perplexity"]) == pytest.approx(80, rel=0.4)
    assert float(after["test_perplexity"]) < 14  # by the shares of single characters: about 17
    assert float(after["test_accuracy"]) > 0.3


def test_what_does_not_fit_is_one_line(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("task=characters", "model=lstm"), ("task=text", "model=char_lstm"), ("task=characters", "task.alphabet=aba"),
        ("task=characters", "model=char_transformer", "model.heads=3"), ("task=characters", "task.length=0"),
    ):  # fmt: skip
        launch(*words, exit_code=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("fl-bench: ").partition(":")[0] for line in lines] == [
        "model", "model", "task.alphabet='aba'", "model.width=128", "task.length=0",
    ]  # fmt: skip
    assert "lstm takes no characters" in lines[0]
    assert "char_lstm takes no texts" in lines[1]


def test_who_speaks_is_a_client(launch: Launch) -> None:
    words = ("num_rounds=1", "local.steps=1", "model=char_transformer", "model.width=8", "task.test_stride=400")
    folder = launch("task=characters", *words, "task.length=10", "evaluate.clients=true")
    assert [row["source"] for row in table(folder, "sources")][:3] == ["alas", "hark", "indeed"]
    assert [row["class"] for row in table(folder, "per_class")][:3] == ["space", "newline", "!"]
    assert np.isfinite(float(table(folder, "metrics")[-1]["client_loss"]))
