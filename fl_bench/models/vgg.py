"""VGG (Simonyan and Zisserman 2015, arXiv:1409.1556) for small images."""

from torch import nn

from fl_bench.models.images import image, kaiming

PLAN = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")  # table 1, column A


def vgg11(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """VGG-11 with BatchNorm and one linear layer: 9,231,114 parameters for [3, 32, 32] and 10 classes.

    The paper has neither: `model.norm=none` takes the BatchNorms out.
    """
    before, *_ = image(shape, 32, "vgg11")
    layers: list[nn.Module] = []
    for entry in PLAN:
        if isinstance(entry, int):
            layers += [nn.Conv2d(before, entry, 3, padding=1), nn.BatchNorm2d(entry), nn.ReLU()]
            before = entry
        else:
            layers.append(nn.MaxPool2d(2))
    return kaiming(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)))
