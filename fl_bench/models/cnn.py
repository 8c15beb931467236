"""Small convolutional networks: two convolutions with kernels of 5, each with a pool of 2, then linear layers."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from fl_bench.build import positive
from fl_bench.models.images import image
from fl_bench.models.norms import LAYERS

Layer = Callable[[], nn.Module]


def _small(
    shape: tuple[int, int, int],
    widths: Sequence[int],
    paddings: Sequence[int],
    between: Callable[[int], list[nn.Module]],
    pool: Callable[[int], nn.Module] = nn.MaxPool2d,
) -> nn.Module:
    """`widths` are the channels of both convolutions, the hidden units and the classes; `between` follows a layer."""
    before, height, width = shape
    found: list[nn.Module] = []
    for after, padding in zip(widths, paddings, strict=False):
        found += [nn.Conv2d(before, after, 5, padding=padding), *between(after), pool(2)]
        height, width = ((pixels + 2 * padding - 4) // 2 for pixels in (height, width))
        before = after
    found.append(nn.Flatten())
    for units, more in pairwise([before * height * width, *widths[2:]]):
        found += [nn.Linear(units, more), between(0)[-1]]
    return nn.Sequential(*found[:-1])


def blitz(
    shape: tuple[int, ...], num_classes: int, norm: Literal["batch", "group", "layer", "none"] | None
) -> nn.Module:
    """The CNN of PyTorch's 60-minute blitz: convolutions to 6 and 16 channels, then 120-84-classes.

    62,006 parameters for [3, 32, 32] and 10 classes. `norm` follows each convolution; its GroupNorm has two groups.
    """
    layers = LAYERS | {"group": lambda channels: nn.GroupNorm(2, channels)}

    def between(channels: int) -> list[nn.Module]:
        return [*([layers[norm](channels)] if channels and norm not in (None, "none") else []), nn.ReLU()]

    return _small(image(shape, 16, "blitz"), (6, 16, 120, 84, num_classes), (0, 0), between)


def mcmahan_cnn(shape: tuple[int, ...], num_classes: int, hidden: int, padding: Literal[0, 2]) -> nn.Module:
    """The CNN of McMahan et al. 2017 (arXiv:1602.05629, section 3): 32 and 64 channels, then `hidden`-classes.

    1,663,370 parameters with 512 hidden units for [1, 28, 28] and 10 classes, as the paper says: its convolutions
    are padded by 2 pixels.
    """
    positive(hidden=hidden)
    widths, smallest = (32, 64, hidden, num_classes), 4 if padding else 16
    return _small(image(shape, smallest, "mcmahan_cnn"), widths, (padding, padding), lambda channels: [nn.ReLU()])


def flgo_cnn(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The CNN that FLGo has for CIFAR-10 (arXiv:2306.12079): 64 and 64 channels, then 384-192-classes.

    797,962 parameters for [3, 32, 32] and 10 classes.
    """
    widths = (64, 64, 384, 192, num_classes)
    return _small(image(shape, 16, "flgo_cnn"), widths, (0, 0), lambda channels: [nn.ReLU()])


def lenet5(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998, section II.B): 6 and 16 channels, then 120-84-classes, with tanh and means as pools.

    61,706 parameters for [1, 28, 28] or [1, 32, 32] and 10 classes; the paper pads digits of 28 x 28 to 32 x 32, and so
    do we below 32. Unlike the paper's, the second convolution sees all channels, and the last layer is linear.
    """
    size = image(shape, 12, "lenet5")
    paddings = (2 if min(size[1:]) < 32 else 0, 0)
    return _small(size, (6, 16, 120, 84, num_classes), paddings, lambda channels: [nn.Tanh()], nn.AvgPool2d)
