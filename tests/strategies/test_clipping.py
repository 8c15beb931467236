import pytest
import torch
from flwr.supercore.differential_privacy import compute_clip_model_update
from torch import nn
from turns import make_turn

from fl_bench.strategies.clipping import Clipping
from fl_bench.strategies.turn import Turn


def turn_at(end: list[float], start: torch.Tensor, norm: float) -> Turn:
    model = nn.Linear(len(end), 1, bias=False)
    turn = make_turn(model, start=start, config={"clipping_norm": norm})
    turn.parameters.copy_(torch.tensor(end))
    return turn


@pytest.mark.parametrize(("norm", "end", "bit"), [(10.0, [4.0, 5.0], 0), (2.5, [2.5, 3.0], 1)])
def test_an_update_of_norm_five_by_hand(norm: float, end: list[float], bit: int) -> None:
    turn = turn_at([4.0, 5.0], torch.tensor([1.0, 1.0]), norm)
    Clipping().finish(turn)
    assert turn.parameters.tolist() == end
    assert turn.reply == {"norm_bit": bit}


def test_it_clips_as_flowers_own_client_does() -> None:
    torch.manual_seed(0)
    start, end = torch.randn(50), torch.randn(50)
    expected = [end.numpy().copy()]
    compute_clip_model_update(expected, [start.numpy()], clipping_norm=1.5)
    turn = turn_at(end.tolist(), start, 1.5)
    Clipping().finish(turn)
    assert torch.allclose(turn.parameters, torch.from_numpy(expected[0]), atol=1e-6)
