"""Every random number comes from (seed, purpose, round, client), so it never depends on who draws it or when."""

import random
from zlib import crc32

import numpy as np


def generator(seed: int, purpose: str, round: int = 0, client: int = 0) -> np.random.Generator:
    """A generator of its own for each purpose, round and client of an experiment."""
    return np.random.default_rng((seed, crc32(purpose.encode()), round, client))


def seed_torch(seed: int, purpose: str, round: int = 0, client: int = 0) -> None:
    """Seed torch's generators, that of each GPU in use too.

    torch.manual_seed would format a traceback each time for the GPUs that are not: a millisecond.
    """
    import torch  # here, as verbs that train nothing draw too, and torch takes a second to import

    value = _integer(seed, purpose, round, client)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)


def seed_globals(seed: int, purpose: str, round: int) -> None:
    """Seed the global generators that Flower's strategies draw from (`random` to sample, `numpy` for DP noise)."""
    value = _integer(seed, purpose, round) % 2**32
    random.seed(value)
    np.random.seed(value)


def _integer(seed: int, purpose: str, round: int, client: int = 0) -> int:
    """A seed in [0, 2**63) for generators that are not NumPy's."""
    return int(generator(seed, purpose, round, client).integers(2**63))
