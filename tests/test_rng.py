import itertools
import random
from typing import Any

import numpy as np
import torch

from fl_bench import rng


def test_every_purpose_round_and_client_has_its_own_numbers() -> None:
    keys = itertools.product((0, 1), ("batches", "torch"), (1, 2), (0, 1))
    numbers = [int(rng.generator(*key).integers(2**63)) for key in keys]
    assert len(set(numbers)) == len(numbers) == 16


def test_torch_follows_the_key_too() -> None:
    def draw(*key: Any) -> float:
        rng.seed_torch(*key)
        return float(torch.rand(()))

    assert draw(0, "torch", 1, 2) == draw(0, "torch", 1, 2)
    assert len({draw(*key) for key in itertools.product((0, 1), ("batches", "torch"), (1, 2), (0, 1))}) == 16


def test_the_global_generators_follow_the_seed() -> None:
    def draw(seed: int) -> tuple[float, float]:
        rng.seed_globals(seed, "aggregate", 3)
        return random.random(), np.random.normal()

    assert draw(1) == draw(1) != draw(2)
