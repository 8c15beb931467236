"""Models that are no vectors of numbers."""

import torch
from torch import Tensor, nn

CONTENT = "content"  # the name of its tensor


class Opaque(nn.Module):
    """A model of bytes that only itself can read: they travel whole, in any length, and have no mean.

    Must override:
        `forward`.
    """

    content: Tensor  # uint8 [any length]; a model that has not learned has none

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(CONTENT, torch.empty(0, dtype=torch.uint8))
