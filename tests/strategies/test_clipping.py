import pytest
import torch
from torch import nn

from fl_bench.strategies.base import Turn
from fl_bench.strategies.clipping import Clipping


@pytest.mark.parametrize(("norm", "end", "bit"), [(10.0, [4.0, 5.0], 0), (2.5, [2.5, 3.0], 1)])
def test_an_update_of_norm_five_by_hand(norm: float, end: list[float], bit: int) -> None:
    start = torch.tensor([1.0, 1.0])
    turn = Turn(0, 1, nn.Identity(), torch.tensor([4.0, 5.0]), start, lambda v: {}, {"clipping_norm": norm})
    Clipping().finish(turn)
    assert turn.parameters.tolist() == end
    assert turn.reply == {"norm_bit": bit}
