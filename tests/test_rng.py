import itertools
import random

import numpy as np

from fl_bench import rng


def test_every_purpose_round_and_client_has_its_own_numbers() -> None:
    keys = itertools.product((0, 1), ("batches", "torch"), (1, 2), (0, 1))
    numbers = [rng.integer(*key) for key in keys]
    assert len(set(numbers)) == len(numbers) == 16
    assert rng.integer(0, "torch", 1, 2) == rng.integer(0, "torch", 1, 2)


def test_the_global_generators_follow_the_seed() -> None:
    def draw(seed: int) -> tuple[float, float]:
        rng.seed_globals(seed, "aggregate", 3)
        return random.random(), np.random.normal()

    assert draw(1) == draw(1) != draw(2)
