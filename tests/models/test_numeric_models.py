"""Models for tables and series: how many numbers they have, by hand, and what they refuse."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fl_bench.errors import ConfigError
from fl_bench.models.chosen import model_of
from fl_bench.models.series import cnn1d, gru
from fl_bench.models.tables import mlp


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_how_many_parameters() -> None:
    assert count(mlp((30,), 2, [64, 32])) == 30 * 64 + 64 + 64 * 32 + 32 + 32 * 2 + 2 == 4130
    assert count(mlp((30,), 2, [])) == 30 * 2 + 2
    assert count(cnn1d((6, 128), 6, 32, 5)) == 6 * 32 * 5 + 32 + 2 * (32 * 32 * 5 + 32) + 32 * 6 + 6 == 11494
    # three gates, each with two matrices and, in torch, two biases
    assert count(gru((6, 128), 6, 64)) == 3 * (64 * 6 + 64 * 64 + 2 * 64) + 64 * 6 + 6 == 14214


@pytest.mark.parametrize("length", [1, 7, 128])
def test_series_may_have_any_length(length: int) -> None:
    for model in (cnn1d((3, length), 4, 8, 5), gru((3, length), 4, 8)):
        assert model(torch.zeros(2, 3, length)).shape == (2, 4)


def test_the_order_of_a_series_matters_to_a_gru() -> None:
    model, series = gru((1, 5), 2, 8), torch.arange(5.0).reshape(1, 1, 5)
    assert not torch.allclose(model(series), model(series.flip(2)))


@pytest.mark.parametrize(
    ("keys", "shape", "message"),
    [
        ({"_target_": "fl_bench.models.tables.mlp", "hidden": [4, 0]}, (3,), r"model.hidden=\[4, 0\]: each layer must"),
        ({"_target_": "fl_bench.models.series.gru", "hidden": 0}, (3, 5), r"model.hidden=0: must be 1 or more"),
        (
            {"_target_": "fl_bench.models.series.gru", "hidden": 4},
            (3,),
            r"gru takes series \[channels, length\], .*\[3\]",
        ),
        (
            {"_target_": "fl_bench.models.series.cnn1d", "width": 4, "kernel": -1},
            (3, 5),
            r"model.kernel=-1: must be 1 or more",
        ),
    ],
)
def test_what_they_refuse(keys: dict[str, object], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(OmegaConf.create({"model": keys}).model, 2, shape=shape)
