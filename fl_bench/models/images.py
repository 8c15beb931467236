"""What models of images share."""

from typing import Any

from torch import nn


def image(shape: tuple[int, ...], least: int, name: str) -> tuple[int, int, int]:
    """Channels, height and width of examples of `shape`.

    Raises:
        ValueError: where they are no images, or `name` cannot take any so small.
    """
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(f"{name} takes images of {least} x {least} pixels or more, not examples of shape {[*shape]}")
    channels, height, width = shape
    return channels, height, width


def with_channels(model: nn.Module, channels: int) -> nn.Module:
    """The same model, whose first convolution is a new one where it does not take so many channels."""
    where, old = next((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    if old.in_channels != channels:
        same = ("out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
        options: dict[str, Any] = {name: getattr(old, name) for name in same}
        model.set_submodule(where, nn.Conv2d(channels, bias=old.bias is not None, **options))
    return model


def kaiming(model: nn.Module) -> nn.Module:
    """The same model with the initialisation of He et al. 2015 (arXiv:1502.01852) in its convolutions."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return model
