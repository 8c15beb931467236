"""Partitions in which each client draws its own mix of classes, and the sharing out of rows that others use too."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fl_bench.config.rules import require
from fl_bench.data.arrays import Columns, Ints
from fl_bench.data.labels import labels_of


def dirichlet_sizes(columns: Columns, num_clients: int, rng: Generator, alpha: float, sigma: float) -> Ints:
    """Labels and amounts skewed, each by a key: mixes as in `dirichlet_equal`, sizes from a lognormal distribution.

    A client's size is proportional to exp(sigma * z), z drawn from the standard normal distribution, as in the
    unbalanced splits of FedDyn's code (Acar et al. 2021, arXiv:2111.04263); a client may get nothing.

    Raises:
        ConfigError: where alpha or sigma is out of range, or "y" missing or not of classes.

    Examples:
        >>> owners = dirichlet_sizes({"y": np.zeros(90, int)}, 3, np.random.default_rng(0), alpha=1.0, sigma=0.0)
        >>> np.bincount(owners).tolist()
        [30, 30, 30]
    """
    labels = labels_of(columns, "dirichlet_sizes")
    require("partition.sigma", sigma, 0 <= sigma < np.inf, "must be 0 or more")
    exponents = sigma * rng.standard_normal(num_clients)
    bounds = bounds_of(np.exp(exponents - exponents.max()), len(labels))
    return mixed(labels, np.diff(bounds, prepend=0), rng, alpha)


def mixed(labels: Ints, sizes: Sequence[int] | Ints, rng: Generator, alpha: float) -> Ints:
    """Owners [N]: client k gets sizes[k] rows by a mix drawn from Dirichlet(alpha * the data's mix), one after another.

    Where a class has run out, the mix is that of the other classes.
    """
    require("partition.alpha", alpha, 0 < alpha < np.inf, "must be a positive number")
    names, left = np.unique(labels, return_counts=True)
    weights = alpha * (left / len(labels))
    held = np.zeros((len(sizes), len(names)), dtype=np.int64)
    for counts, size in zip(held, sizes, strict=True):
        mix = rng.dirichlet(weights)
        while lacking := size - counts.sum():
            mix[left == 0] = 0
            if not mix.any():  # it was of classes that have run out only: the rest of a Dirichlet is one too
                mix[left > 0] = rng.dirichlet(weights[left > 0])
            mix /= mix.sum()
            drawn = np.minimum(rng.multinomial(lacking, mix), left)  # what is too much is drawn again
            counts += drawn
            left -= drawn
    owners = np.empty(len(labels), dtype=np.int64)
    for name, counts in zip(names, held.T, strict=True):
        owners[labels == name] = rng.permutation(np.repeat(np.arange(len(sizes)), counts))
    return owners


def bounds_of(shares: NDArray[np.float64], num_rows: int) -> Ints:
    """Where the rows of each owner end [K], so that owner k has shares[k] / sum(shares) of them."""
    return np.rint(np.cumsum(shares) / np.sum(shares) * num_rows).astype(np.int64)
