"""Small convolutional networks for images [channels, height, width]."""

from typing import Literal

from torch import nn

from fl_bench.models.norms import LAYERS


def blitz(
    shape: tuple[int, ...], num_classes: int, norm: Literal["batch", "group", "layer", "none"] | None
) -> nn.Module:
    """The CNN of PyTorch's 60-minute blitz: conv 3-6-16 with kernels of 5, then 120-84-10; `norm` after each of them.

    62,006 parameters for [3, 32, 32] and ten classes. Its GroupNorm has two groups.
    """
    channels, *size = shape
    height, width = (((pixels - 4) // 2 - 4) // 2 for pixels in size)

    def normed(channels: int) -> list[nn.Module]:
        layers = LAYERS | {"group": lambda channels: nn.GroupNorm(2, channels)}
        return [] if norm in (None, "none") else [layers[norm](channels)]

    return nn.Sequential(
        nn.Conv2d(channels, 6, 5), *normed(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), *normed(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * height * width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, num_classes),
    )  # fmt: skip
