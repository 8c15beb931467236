"""Generated series: waves whose frequency tells their class, in noise that differs from source to source."""

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData
from fl_bench.data.tables import federated

CHANNELS, LENGTH = 3, 64
PERIODS = (3, 5, 7, 9)  # of the waves of each class
SOURCES, PER_SOURCE, TEST = 10, 200, 500
QUIETEST, LOUDEST = 0.5, 3.0  # noise, as its standard deviation; that of a wave is 0.7


def waves() -> FederatedData:
    """2,000 generated series [3, 64] of four classes from ten sources, each with its own noise, and 500 to test.

    A class has a frequency, and delays between its channels; when a wave begins is random.
    """
    rng = np.random.default_rng(0)
    delays = rng.uniform(0, 2 * np.pi, (len(PERIODS), CHANNELS, 1))
    levels = np.linspace(QUIETEST, LOUDEST, SOURCES)
    source = np.concatenate([np.repeat(np.arange(SOURCES), PER_SOURCE), np.arange(TEST) % SOURCES])
    y = rng.integers(len(PERIODS), size=len(source))
    angles = 2 * np.pi * np.multiply.outer(np.array(PERIODS)[y], np.arange(LENGTH) / LENGTH)
    begin: NDArray = rng.uniform(0, 2 * np.pi, (len(y), 1, 1))
    noise = levels[source][:, None, None] * rng.standard_normal((len(y), CHANNELS, LENGTH))
    x = np.sin(angles[:, None] + delays[y] + begin) + noise
    classes = [f"{periods} periods" for periods in PERIODS]
    sources = [f"noise {level:.1f}" for level in levels]
    is_test = np.arange(len(y)) >= SOURCES * PER_SOURCE
    return federated(x.astype(np.float32), y, is_test, classes, source, sources)
