"""Images from an update: those whose gradient is the update's.

By search: Zhu et al. 2019 (DLG, arXiv:1906.08935), as Geiping et al. 2020 do it (arXiv:2003.14053, section 4): Adam, on
the signs of the derivatives, minimises 1 - the cosine of both gradients, and the images' total variation; pixels stay
in their range. Labels are known beforehand (Zhao et al. 2020, arXiv:2001.02610); see `labels.py`.

By division: where the first layer is linear and has a bias, the gradient of a row of its weights over that of its bias
is the input, exactly for one example (Phong et al. 2018, TIFS 13(5), section 3; Geiping et al., proposition 3.1).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from fl_bench.tasks.base import Task

Images = NDArray[np.float32]  # [N, channels, height, width], pixels from 0 to 1
Watch = Callable[[range], Iterable[int]]  # gives the same numbers, and shows how far it has come

RATE, DROPS = 0.1, (3 / 8, 5 / 8, 7 / 8)  # of Adam, which falls to a tenth after each of these shares of the iterations
SMOOTHNESS = 0.01  # what the total variation counts beside 1 - cosine
LARGEST_PSNR = 100.0  # dB, of images that are the same but for rounding
WINDOW = 7  # pixels, of SSIM


def searched(
    task: Task,
    model: nn.Module,
    gradient: Mapping[str, Tensor],
    labels: Tensor,
    start: Images,
    iterations: int,
    watch: Watch = iter,
) -> Images:
    """An image for each of `labels` [N], searched from `start` [N, ...].

    `gradient` is that of parameters of `model` by name, where it is now, up to a factor.
    """
    named = dict(model.named_parameters())
    parameters = [named[name] for name in gradient]
    target = torch.cat([part.flatten() for part in gradient.values()])
    images = torch.tensor(start, device=target.device, requires_grad=True)
    optimizer = torch.optim.Adam([images], lr=RATE)
    rates = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(share * iterations) for share in DROPS])
    for _ in watch(range(iterations)):
        loss, _ = task.objective(model, {"x": images * 255, "y": labels})
        parts = torch.autograd.grad(loss, parameters, create_graph=True)
        found = torch.cat([part.flatten() for part in parts])
        distance = 1 - torch.cosine_similarity(found, target, dim=0, eps=1e-30)
        (slope,) = torch.autograd.grad(distance + SMOOTHNESS * _variation(images), images)
        images.grad = slope.sign()
        optimizer.step()
        rates.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach().cpu().numpy()


def divided(weights: NDArray[np.float32], biases: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Inputs [count or fewer, D], from the gradient of a first layer's `weights` [U, D] and `biases` [U].

    Those of the units whose biases have the largest gradients; none of units that have none.

    Examples:
        >>> divided(np.array([[1.0, 3.0], [0.0, 0.0], [-1.0, -3.0]]), np.array([2.0, 0.0, -2.0]), 1).tolist()
        [[0.5, 1.5]]
    """
    units = np.argsort(-np.abs(biases), kind="stable")[:count]
    units = units[biases[units] != 0]
    inputs: NDArray[np.float32] = weights[units] / biases[units, None]
    return inputs


class Match(NamedTuple):
    """Images beside those originals that they are most like."""

    originals: Images
    made: Images  # as many
    psnr: NDArray[np.float64]  # of each in dB, at most LARGEST_PSNR
    ssim: NDArray[np.float64]  # of each


def matched(originals: Images, made: Images) -> Match:
    """Each of the `made` images beside an original of its own, by the least squared distances in sum.

    There are at most as many of them as `originals`. Source of SSIM: Wang et al. 2004, TIP 13(4), equation 13.
    """
    flat, others = (images.reshape(len(images), -1).astype(np.float64) for images in (made, originals))
    squares = (flat**2).sum(1)[:, None] + (others**2).sum(1) - 2 * flat @ others.T
    _, chosen = linear_sum_assignment(squares)
    beside = originals[chosen]
    errors = ((flat - others[chosen]) ** 2).mean(axis=1)
    psnr = -10 * np.log10(np.maximum(errors, 10 ** (-LARGEST_PSNR / 10)))
    window = min(WINDOW, (min(made.shape[2:]) - 1) // 2 * 2 + 1)  # an odd number that fits
    pairs = zip(beside, made, strict=True)
    ssim = [structural_similarity(a, b, win_size=window, data_range=1, channel_axis=0) for a, b in pairs]
    return Match(beside, made, psnr, np.array(ssim))


def _variation(images: Tensor) -> Tensor:
    return images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()
