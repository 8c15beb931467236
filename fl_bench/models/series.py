"""Models for time series, [channels, length]."""

from torch import Tensor, nn

from fl_bench.build import positive


def cnn1d(shape: tuple[int, ...], num_classes: int, width: int, kernel: int) -> nn.Module:
    """Three convolutions over time, `width` channels each and halving the length, and their mean over time.

    As the fully convolutional network of Wang, Yan and Oates 2017 (arXiv:1611.06455), but smaller and without its
    BatchNorm. 11,494 parameters for [6, 128], six classes, width 32 and kernel 5. It takes any length.

    Raises:
        ValueError: where examples are no series, or a key is not positive.
    """
    channels, _ = _series(shape, "cnn1d")
    positive(width=width, kernel=kernel)

    def block(channels: int) -> list[nn.Module]:
        return [nn.Conv1d(channels, width, kernel, stride=2, padding=kernel // 2), nn.ReLU()]

    return nn.Sequential(
        *block(channels), *block(width), *block(width), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(width, num_classes),
    )  # fmt: skip


class Gru(nn.Module):
    """What a GRU knows after the last step, by a linear layer: [B, channels, length] to [B, classes]."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.memory = nn.GRU(channels, hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, series: Tensor) -> Tensor:
        _, last = self.memory(series.transpose(1, 2))
        scores: Tensor = self.head(last[0])
        return scores


def gru(shape: tuple[int, ...], num_classes: int, hidden: int) -> nn.Module:
    """One GRU layer (Cho et al. 2014, arXiv:1406.1078) with `hidden` numbers, see `Gru`.

    14,214 parameters for [6, 128], six classes and 64 numbers. It takes any length, step by step.

    Raises:
        ValueError: where examples are no series, or `hidden` is not positive.
    """
    channels, _ = _series(shape, "gru")
    positive(hidden=hidden)
    return Gru(channels, hidden, num_classes)


def _series(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{name} takes series [channels, length], and an example of this task is {list(shape)}")
    return shape[0], shape[1]
