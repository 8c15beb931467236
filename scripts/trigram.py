"""The accuracy of a trigram model on the test samples of task=characters: what a network is to beat.

    python scripts/trigram.py data=shakespeare

It says what has followed most often on the last two characters in all training samples of all sources; on the last one,
or at all, where the two, or the one, have not been seen.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_bench.build import build
from fl_bench.config.compose import compose_with_choices
from fl_bench.tasks.base import Task


def most_frequent(counts: NDArray[np.int64], otherwise: NDArray[np.int64]) -> NDArray[np.int64]:
    """The column with the most counts in each row [rows], or what `otherwise` [rows] has where there are none."""
    return np.where(counts.any(axis=1), counts.argmax(axis=1), otherwise)


def main() -> None:
    """Print the accuracy."""
    cfg, _ = compose_with_choices(["task=characters", "task.stride=1", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        data = build(cfg.task, Task).load(cfg.data, Path(folder))
    size = len(data.classes)
    counts = np.zeros((size, size, size), np.int64)
    for rows in np.array_split(np.arange(data.num_samples), 100):
        np.add.at(counts, tuple(data.train["text"][rows][:, -3:].T), 1)
    pairs = counts.sum(axis=0)
    of_one = most_frequent(pairs, np.full(size, pairs.sum(axis=0).argmax()))
    of_two = most_frequent(counts.reshape(-1, size), np.tile(of_one, size)).reshape(size, size)
    last = data.test["text"][np.arange(data.num_tests)][:, -3:-1]
    right = of_two[last[:, 0], last[:, 1]] == data.test["y"]
    print(f"trigram: accuracy {right.mean():.4f} on {len(right)} test samples, of {data.num_samples} to train")


if __name__ == "__main__":
    main()
