from itertools import chain

import numpy as np

from fl_bench.federation.local import batches

ROWS = np.arange(100, 110)


def collect(**local) -> list[list[int]]:
    options = {"epochs": 1, "steps": None, "batch_size": 4} | local
    return [batch.tolist() for batch in batches(ROWS, options, np.random.default_rng(0))]


def test_an_epoch_sees_every_row_once_and_keeps_the_short_batch() -> None:
    parts = collect()
    assert [len(part) for part in parts] == [4, 4, 2]
    assert sorted(chain(*parts)) == ROWS.tolist()


def test_epochs_are_shuffled_anew() -> None:
    parts = collect(epochs=2)
    assert len(parts) == 6
    first, second = list(chain(*parts[:3])), list(chain(*parts[3:]))
    assert sorted(first) == sorted(second)
    assert first != second


def test_steps_win_over_epochs_and_go_on_into_further_epochs() -> None:
    assert [len(part) for part in collect(steps=5)] == [4, 4, 2, 4, 4]
    assert collect(steps=5)[:3] == collect()
