"""What is changed of the images that a client trains on: at random, anew each time that an image comes up.

The numbers that decide come from (seed, purpose, round, client), a few for each image, in the order in which the client
takes its images: an image is changed in the same way whatever batch it is in. All that is done to pixels is done in
whole numbers, or is rounded to them, so that it does not depend on the batch either.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fl_bench import rng
from fl_bench.config.rules import require

Chances = NDArray[np.float64]  # uniform in [0, 1)
BITS = 8  # after the point, of factors and weights
ONE = 1 << BITS
RGB = (77, 150, 29)  # what red, green and blue count in a grey value (ITU-R 601-2: 0.299, 0.587, 0.114), ONE together
LEVELS = 30  # of RandAugment


class Augment:
    """By itself nothing is changed. A subclass says how many numbers an image needs, and what it makes of them.

    Must override:
        `draws` and `__call__`.

    May override:
        `channels`, where not every image will do.
    """

    draws = 0  # how many uniform numbers decide what happens to an image
    channels: tuple[int, ...] | None = None  # how many an image may have; None: any number

    def __call__(self, images: Tensor, chances: Tensor) -> Tensor:
        """The changed images, uint8 [B, channels, height, width] as `images`, by `chances` in [0, 1) [B, draws]."""
        return images

    def chances(self, seed: int, purpose: str, round: int, client: int) -> Callable[[int], Chances]:
        """For the next `count` images that the client takes for this purpose: their numbers [count, draws]."""
        if not self.draws:
            return lambda count: np.empty((count, 0))
        generator = rng.generator(seed, f"augment {purpose}", round, client)
        return lambda count: generator.random((count, self.draws))


class FlipCrop(Augment):
    """Mirrored left to right with probability `p`; then cut out at random after a black frame of `padding` pixels.

    As He et al. 2016 (arXiv:1512.03385, section 4.2) train on CIFAR-10.
    """

    draws = 3  # mirrored or not; from the top; from the left

    def __init__(self, p: float, padding: int) -> None:
        require("augment.p", p, 0 <= p <= 1, "must be from 0 to 1")
        require("augment.padding", padding, padding >= 0, "must be 0 or more")
        self.p, self.padding = p, padding

    def __call__(self, images: Tensor, chances: Tensor) -> Tensor:
        mirrored = (chances[:, 0] < self.p)[:, None, None, None]
        top, left = (chances[:, 1:] * (2 * self.padding + 1)).long().unbind(dim=1)
        framed = functional.pad(torch.where(mirrored, images.flip(3), images), [self.padding] * 4)
        windows = framed.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)  # a view of all cut-outs
        return _like(images, windows[torch.arange(len(images), device=images.device), :, top, left])


class Color(Augment):
    """Brightness, then contrast, then saturation multiplied by factors from [1 - x, 1 + x], x being the key.

    The ColorJitter of torchvision, but always in this order. Contrast is the distance from the image's mean grey value,
    saturation that from the pixel's.
    """

    draws = 3
    channels = (1, 3)

    def __init__(self, brightness: float, contrast: float, saturation: float) -> None:
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for key, value in given.items():
            require(f"augment.{key}", value, 0 <= value <= 1, "must be from 0 to 1")
        self.spread = list(given.values())

    def __call__(self, images: Tensor, chances: Tensor) -> Tensor:
        spread = torch.tensor(self.spread, dtype=torch.float64, device=images.device)
        factors = ((1 + spread * (2 * chances - 1)) * ONE).round().int()
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
        pixels = _blend(torch.zeros_like(brightness), images.int(), brightness)
        grey = _grey(pixels)
        mean = grey.sum(dim=(1, 2, 3), keepdim=True) // grey[0].numel()
        pixels = _blend(mean.int(), pixels, contrast)
        return _blend(_grey(pixels), pixels, saturation).byte()


class RandAugment(Augment):
    """`num_ops` of RandAugment's 14 operations one after the other, each as strong as `magnitude` of 30 says.

    Cubuk et al. 2020 (arXiv:1909.13719), with torchvision's operations and strengths.
    """

    channels = (1, 3)

    def __init__(self, num_ops: int, magnitude: int) -> None:
        require("augment.num_ops", num_ops, num_ops >= 1, "must be 1 or more")
        require("augment.magnitude", magnitude, 0 <= magnitude <= LEVELS, f"must be from 0 to {LEVELS}")
        self.num_ops, self.share, self.draws = num_ops, magnitude / LEVELS, 2 * num_ops

    def __call__(self, images: Tensor, chances: Tensor) -> Tensor:
        images, operations = images.clone(), _operations(self.share, *images.shape[2:])
        signed = torch.tensor([operation.signed for operation in operations], device=images.device)
        for number, sign in chances.view(len(images), self.num_ops, 2).permute(1, 2, 0):
            which = (number * len(operations)).long()
            kinds = 2 * which + ((sign < 0.5) & signed[which])  # odd where the strength is negative
            for kind in kinds.unique().tolist():
                operation, mine = operations[kind // 2], kinds == kind
                images[mine] = operation.change(images[mine], operation.strength * (-1) ** kind)
        return images


class Operation(NamedTuple):
    """What one of RandAugment's operations makes of images, by its strength."""

    change: Callable[[Tensor, float], Tensor]
    strength: float = 0.0
    signed: bool = False  # whether it is as often as strong the other way


def _operations(share: float, height: int, width: int) -> list[Operation]:
    """Those that RandAugment chooses from, each at this share of its greatest strength."""
    import torchvision.transforms.v2.functional  # a second and a half to import

    vision: Any = torchvision.transforms.v2.functional

    def shear(images: Tensor, x: float, y: float) -> Any:
        angles = [math.degrees(math.atan(slope)) for slope in (x, y)]
        return vision.affine(images, angle=0, translate=[0, 0], scale=1, shear=angles, center=[0, 0])

    def move(images: Tensor, x: float, y: float) -> Any:
        return vision.affine(images, angle=0, translate=[int(x), int(y)], scale=1, shear=[0, 0])

    return [
        Operation(lambda images, _: images),
        Operation(lambda images, by: shear(images, by, 0), 0.3 * share, signed=True),
        Operation(lambda images, by: shear(images, 0, by), 0.3 * share, signed=True),
        Operation(lambda images, by: move(images, by, 0), 150 / 331 * width * share, signed=True),
        Operation(lambda images, by: move(images, 0, by), 150 / 331 * height * share, signed=True),
        Operation(vision.rotate, 30 * share, signed=True),
        Operation(lambda images, by: vision.adjust_brightness(images, 1 + by), 0.9 * share, signed=True),
        Operation(lambda images, by: vision.adjust_saturation(images, 1 + by), 0.9 * share, signed=True),
        Operation(lambda images, by: vision.adjust_contrast(images, 1 + by), 0.9 * share, signed=True),
        Operation(lambda images, by: vision.adjust_sharpness(images, 1 + by), 0.9 * share, signed=True),
        Operation(lambda images, by: vision.posterize(images, round(8 - 4 * by)), share),
        Operation(lambda images, by: vision.solarize(images, 255 * (1 - by)), share),
        Operation(lambda images, _: vision.autocontrast(images)),
        Operation(lambda images, _: vision.equalize(images)),
    ]


def _like(images: Tensor, changed: Tensor) -> Tensor:
    """`changed` with its numbers in memory as those of `images` are."""
    pixels_first = images.is_contiguous(memory_format=torch.channels_last)
    return changed.contiguous(memory_format=torch.channels_last if pixels_first else torch.contiguous_format)


def _grey(pixels: Tensor) -> Tensor:
    """The grey values [B, 1, height, width] of int32 pixels [B, 1 or 3, height, width]."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = (weight * pixels[:, k : k + 1] for k, weight in enumerate(RGB))
    return (red + green + blue) >> BITS


def _blend(zero: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """`zero` + `factor` / ONE * (`pixels` - `zero`), int32, rounded and cut to what a pixel can be."""
    return (zero + ((factor * (pixels - zero) + ONE // 2) >> BITS)).clamp_(0, 255)
