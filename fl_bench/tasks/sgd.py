"""torch.optim.SGD without its overhead, for clients that take few and small steps; and clipping for any optimiser."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.sgd import sgd


class SGD:
    """Takes torch.optim.SGD's arguments and steps with its fused kernel, all tensors in one call.

    The class in torch.optim checks and hooks so much that with a small CNN this takes up to a sixth of a step, and it
    imports torch's compiler, more than a second in every process.
    """

    def __init__(
        self,
        params: Iterable[Any],  # parameters, or groups of them as torch.optim takes them
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        if momentum < 0 or weight_decay < 0:
            raise ValueError(f"momentum={momentum} and weight_decay={weight_decay} must not be negative")
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        options = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize,
        }  # fmt: skip
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [options | group for group in groups]  # where a schedule sets "lr"
        self._momenta: dict[nn.Parameter, Tensor | None] = {}

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            options = dict(group)
            ready = [parameter for parameter in options.pop("params") if parameter.grad is not None]
            for first in (False, True):  # the kernel begins the momenta of all that it is given, or of none
                trained = [parameter for parameter in ready if (parameter not in self._momenta) == first]
                momenta = [self._momenta.get(parameter) for parameter in trained]
                sgd(trained, [parameter.grad for parameter in trained], momenta, fused=True, **options)
                if options["momentum"]:
                    self._momenta |= zip(trained, momenta, strict=True)


class Clipped:
    """An optimiser that first shortens the gradient of all its parameters together to `norm` (Pascanu et al. 2013,
    arXiv:1211.5063, algorithm 1), whatever a strategy has made of it.
    """

    def __init__(self, optimizer: Any, norm: float) -> None:
        self.optimizer, self.norm = optimizer, norm
        self.param_groups: list[dict[str, Any]] = optimizer.param_groups

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self) -> None:
        clip_grad_norm_([parameter for group in self.param_groups for parameter in group["params"]], self.norm)
        self.optimizer.step()
