"""Features from columns, by hand."""

import numpy as np
import pandas as pd
import pytest

from fl_bench.data.tables import breast_cancer, every_nth, features_of
from fl_bench.errors import ConfigError

TRAIN_BUT_LAST = np.array([False, False, False, True])


def test_numbers_are_scaled_by_the_training_rows() -> None:
    # 2, 6 and 4 have mean 4 and variance 8/3
    x = features_of(pd.DataFrame({"a": [2, 6, 4, 100]}), TRAIN_BUT_LAST)
    assert x[:, 0] == pytest.approx([-2 / 1.6329932, 2 / 1.6329932, 0, 96 / 1.6329932])
    assert x.dtype == np.float32


def test_words_become_columns_and_an_unknown_one_none() -> None:
    x = features_of(pd.DataFrame({"a": ["red", "blue", "red", "green"]}), TRAIN_BUT_LAST)
    assert x.tolist() == [[0, 1], [1, 0], [0, 1], [0, 0]]


def test_what_is_missing_is_the_mean_or_the_most_frequent_and_marked() -> None:
    table = pd.DataFrame({"a": [1.0, np.nan, 3.0, np.nan], "b": [None, "x", "x", "y"], "c": [True, None, True, False]})
    x = features_of(table, np.array([False, False, False, False]))
    assert x.tolist() == [  # a, a missing, b = x, b = y, b missing, c = False, c = True, c missing
        [-1, 0, 1, 0, 1, 0, 1, 0],
        [0, 1, 1, 0, 0, 0, 1, 1],
        [1, 0, 1, 0, 0, 0, 1, 0],
        [0, 1, 0, 1, 0, 1, 0, 0],
    ]


def test_a_constant_column_is_zero_and_an_empty_one_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"same": [5, 5, 5, 5], "empty": [np.nan, np.nan, np.nan, 1.0]})
    assert features_of(table, TRAIN_BUT_LAST).tolist() == [[0], [0], [0], [0]]
    assert "the column empty has no value in the training rows" in capsys.readouterr().err


def test_what_cannot_be_features_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data: the column name has 51 different texts, and at most 50"):
        features_of(pd.DataFrame({"name": [f"n{k}" for k in range(51)]}), np.zeros(51, dtype=bool))
    with pytest.raises(ConfigError, match=r"data: the column a has infinite numbers"):
        features_of(pd.DataFrame({"a": [1, 2, 3, np.inf]}), TRAIN_BUT_LAST)


def test_each_client_and_each_class_gives_its_share_to_test() -> None:
    clients, labels = np.repeat(["a", "b"], 100), np.tile(np.repeat([0, 1], [20, 30]), 4)
    chosen = every_nth([clients, labels], nth=10)
    counts = pd.crosstab(clients[chosen], labels[chosen])
    assert counts.to_numpy().tolist() == [[4, 6], [4, 6]]


def test_the_tumours_of_scikit_learn_are_these() -> None:
    data = breast_cancer()
    assert (len(data.train["y"]), len(data.test["y"]), data.train["x"].shape[1]) == (456, 113, 30)
    counts = np.bincount(data.train["y"]) + np.bincount(data.test["y"])
    assert dict(zip(data.classes, counts.tolist(), strict=True)) == {"malignant": 212, "benign": 357}
