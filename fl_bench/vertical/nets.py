"""A net in parts: a bottom net for the columns of each party, and a top net on what these make of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl_bench.data.arrays import FederatedData
from fl_bench.models.chosen import model_of
from fl_bench.models.tables import mlp
from fl_bench.tasks.base import ByName, Task
from fl_bench.vertical.columns import blocks


class Joined(nn.Module):
    """All parts as one model: [B, ..., columns] to [B, classes]. The last bottom net is the label holder's."""

    together = True  # whether the top net takes all embeddings of a row, side by side

    def __init__(self, bottoms: Sequence[nn.Module], top: nn.Module, blocks: Sequence[slice]) -> None:
        super().__init__()
        self.bottoms, self.top, self.blocks = nn.ModuleList(bottoms), top, blocks

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.bottoms, self.blocks, strict=True)
        scores: Tensor = self.top(torch.cat([bottom(x[..., block]) for bottom, block in parts], dim=1))
        return scores


class OneHead(Joined):
    """Parts of which the top net takes each embedding by itself: [B, ..., columns] to what the first party makes."""

    together = False

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.top(self.bottoms[0](x[..., self.blocks[0]]))
        return scores


class Holders(nn.Module):
    """The label holder's parts: its columns and the parties' `embeddings`, [B, width] each, to [B, classes]."""

    def __init__(self, bottom: nn.Module, top: nn.Module) -> None:
        super().__init__()
        self.bottom, self.top = bottom, top
        self.embeddings: Sequence[Tensor] = ()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.top(torch.cat([*self.embeddings, self.bottom(x)], dim=1))
        return scores


class OneHeadHolders(Holders):
    """The same where the top net is `OneHead`: what it makes of the embedding of the first party."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.top(self.embeddings[0])
        return scores


def joined(
    task: Task,
    data: FederatedData,
    num_clients: int,
    columns: str,
    width: int,
    hidden: Sequence[int],
    kind: type[Joined] = Joined,
) -> Joined:
    """A new net for the data: each bottom is the model that the group `model` names, with `width` outputs.

    The top net is a ReLU and linear layers, of which the inner ones are `hidden` wide.

    Raises:
        ConfigError: where the model cannot take so few columns, or there are not enough.
    """
    assert isinstance(task, ByName)
    task.check_classes(data)
    *before, num_columns = data.train["x"].shape[1:]
    shares = blocks(num_columns, num_clients, columns)
    bottoms = [model_of(task.chosen, width, shape=(*before, share.stop - share.start)) for share in shares]
    inputs = width * (len(shares) if kind.together else 1)
    top = nn.Sequential(nn.ReLU(), mlp((inputs,), len(data.classes), hidden))
    return kind(bottoms, top, shares)
