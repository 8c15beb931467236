"""Networks of convolutions of 3 x 3 without norms, with which some benchmarks train on CIFAR-10."""

from torch import nn

from fl_bench.models.images import image


def moderate_cnn(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The larger CNN of FedMA (Wang et al. 2020, arXiv:2002.06440), as NVFlare's example for CIFAR-10 has it.

    Three times two convolutions and a pool of 2, then 512-512-classes, with dropout. 3,491,530 parameters for
    [3, 32, 32] and 10 classes.
    """
    before, height, width = image(shape, 8, "moderate_cnn")
    layers: list[nn.Module] = []
    for first, second in ((32, 64), (128, 128), (256, 256)):
        layers += [_padded(before, first), nn.ReLU(), _padded(first, second), nn.ReLU(), nn.MaxPool2d(2)]
        before = second
    layers.insert(10, nn.Dropout2d(0.05))  # behind the second pool
    inputs = before * (height // 8) * (width // 8)
    head = [nn.Flatten(), nn.Dropout(0.1), nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Dropout(0.1), nn.Linear(512, num_classes))


def pfl_cnn(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The CNN of pfl-research's benchmark on CIFAR-10 (arXiv:2404.06430): 32 and 64 channels, a pool, 128-classes.

    With dropout, and weights as Glorot and Bengio 2010 draw them. 1,626,442 parameters for [3, 32, 32] and 10 classes.
    """
    before, height, width = image(shape, 6, "pfl_cnn")
    inputs = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    model = nn.Sequential(
        nn.Conv2d(before, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, num_classes),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return model


def _padded(before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 3, padding=1)
