"""Models of torchvision, by their names there or with a smaller stem."""

from typing import Any

import torch
from torch import nn

from fl_bench.build import nearest
from fl_bench.models.images import image, with_channels

# Two whose training mode returns more than scores.
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def by_torchvision(shape: tuple[int, ...], num_classes: int, name: str) -> nn.Module:
    """torchvision's classifier `name` without weights; another number of channels makes its first convolution new.

    11,181,642 parameters for resnet18 and 10 classes.
    """
    import torchvision  # a second to import

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f"name={name}: {nearest(name, known)}")
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=num_classes, **OPTIONS.get(name, {})
    )
    return tried(with_channels(model, image(shape, 1, name)[0]), shape, name)


def mobilenet(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381, table 2) that halves small images three times, not five.

    2,236,682 parameters for [3, 32, 32] and 10 classes.
    """
    from torchvision.models import mobilenet_v2

    channels, *_ = image(shape, 8, "mobilenet")
    strides = (1, 1, 2, 2, 1, 2, 1)  # the paper's second is 2
    rows = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    plan = [[*row, stride] for row, stride in zip(rows, strides, strict=True)]
    model: nn.Module = mobilenet_v2(num_classes=num_classes, inverted_residual_setting=plan)
    stem = model.get_submodule("features.0.0")
    stem.stride = (1, 1)  # type: ignore[assignment]
    return with_channels(model, channels)


def vit_tiny(shape: tuple[int, ...], num_classes: int, patch: int) -> nn.Module:
    """DeiT-Ti (Touvron et al. 2021, arXiv:2012.12877, table 1), 192 wide and 12 deep, on patches of a few pixels.

    5,362,762 parameters for [3, 32, 32], 10 classes and patches of 4 x 4.
    """
    from torchvision.models import VisionTransformer

    channels, height, width = image(shape, 4, "vit_tiny")
    if patch < 1 or height % patch or height != width:
        raise ValueError(f"patch={patch}: must divide the sides of square images, and these are {height} x {width}")
    return with_channels(
        VisionTransformer(height, patch, 12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=num_classes),
        channels,
    )


def tried(model: nn.Module, shape: tuple[int, ...], name: str) -> nn.Module:
    """The model, after it has scored an image of zeros.

    Raises:
        ValueError: where it cannot take images of `shape`.
    """
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot take images of shape {[*shape]}: {reason}") from error
    return model.train()
