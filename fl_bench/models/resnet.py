"""Residual networks (He et al. 2016, arXiv:1512.03385) for small images: a 3 x 3 convolution first, and no pool."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from fl_bench.models.images import image, kaiming


class Halved(nn.Module):
    """The shortcut without parameters, option A: every second pixel, and zeros as the new channels."""

    def __init__(self, new: int) -> None:
        super().__init__()
        self.new = new

    def forward(self, images: Tensor) -> Tensor:
        """From [B, channels, height, width] to [B, channels + new, height / 2, width / 2]."""
        return functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new))


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; both rounded off by a ReLU."""

    def __init__(self, before: int, after: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.shortcut = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """From [B, before, height, width] to [B, after, height / stride, width / stride]."""
        inside = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(images)))))
        return functional.relu(inside + self.shortcut(images))


def _resnet(channels: int, num_classes: int, widths: Sequence[int], blocks: Sequence[int], option: str) -> nn.Module:
    """A stage for each of `widths`, with so many `blocks`; all but the first begin by halving height and width."""
    before = widths[0]
    layers: list[nn.Module] = [nn.Conv2d(channels, before, 3, 1, 1, bias=False), nn.BatchNorm2d(before), nn.ReLU()]
    for stage, (after, count) in enumerate(zip(widths, blocks, strict=True)):
        for number in range(count):
            stride, shortcut = (2 if stage and not number else 1), nn.Identity()
            if before != after and option == "A":
                shortcut = Halved(after - before)  # type: ignore[assignment]
            elif before != after:
                projection = nn.Conv2d(before, after, 1, stride, bias=False)
                shortcut = nn.Sequential(projection, nn.BatchNorm2d(after))  # type: ignore[assignment]
            layers.append(Block(before, after, stride, shortcut))
            before = after
    return kaiming(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)))


def resnet8(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Section 4.2 with n = 1: 8 layers, 75,290 parameters for [3, 32, 32] and 10 classes; shortcuts of option A."""
    return _resnet(image(shape, 4, "resnet8")[0], num_classes, (16, 32, 64), (1, 1, 1), "A")


def resnet20(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Section 4.2 with n = 3: 20 layers, 269,722 parameters for [3, 32, 32] and 10 classes; shortcuts of option A."""
    return _resnet(image(shape, 4, "resnet20")[0], num_classes, (16, 32, 64), (3, 3, 3), "A")


def resnet18(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Table 1's ResNet-18 but for its first layer: 11,173,962 parameters for [3, 32, 32] and 10 classes; option B."""
    return _resnet(image(shape, 8, "resnet18")[0], num_classes, (64, 128, 256, 512), (2, 2, 2, 2), "B")


def resnet34(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Table 1's ResNet-34 but for its first layer: 21,282,122 parameters for [3, 32, 32] and 10 classes; option B."""
    return _resnet(image(shape, 8, "resnet34")[0], num_classes, (64, 128, 256, 512), (3, 4, 6, 3), "B")
