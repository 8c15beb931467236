"""Models for rows of tables, [features]."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn


def mlp(shape: tuple[int, ...], num_classes: int, hidden: Sequence[int]) -> nn.Module:
    """Linear layers with ReLUs between them, `hidden` numbers wide; of other examples, it takes all numbers in a row.

    4,130 parameters for [30], two classes and hidden layers of 64 and 32.

    Raises:
        ValueError: where a layer would have no numbers.
    """
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden={list(hidden)}: each layer must have 1 or more numbers")
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise([prod(shape), *hidden])]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(hidden[-1] if hidden else prod(shape), num_classes))
