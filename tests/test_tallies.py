"""Metrics of counts: by hand, as scikit-learn has them, and whatever the parts that they are added up from."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import DETERMINISTIC, Launch, fl_bench, long, table
from sklearn import metrics as sklearn

from fl_bench.federation.exchange import Answer, Status
from fl_bench.metrics import Mean, merge, values
from fl_bench.tallies import KINDS, MOST, STEPS, Tally

RNG = np.random.default_rng(0)
LABELS = RNG.choice(4, 500, p=[0.5, 0.3, 0.15, 0.05])
LOGITS = RNG.normal(size=(500, 4)) * 2 + 1.5 * np.eye(4)[LABELS]
PREDICTED = LOGITS.argmax(axis=1)
CHANCES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def value(kind: str, logits: np.ndarray, labels: np.ndarray) -> float:
    return Tally.of(kind, np.asarray(logits, float), np.asarray(labels)).value


def test_by_hand() -> None:
    # Of class 0 three of four are right, of class 1 one of two: predictions 0 0 0 1, 0 1.
    odds = np.array([2.0, 2.0, 2.0, -1.0, 1.0, -2.0])  # of class 0
    logits, labels = np.stack([odds, np.zeros(6)], axis=1), np.array([0, 0, 0, 0, 1, 1])
    assert value("balanced_accuracy", logits, labels) == (3 / 4 + 1 / 2) / 2
    assert value("macro_f1", logits, labels) == pytest.approx((6 / 8 + 2 / 4) / 2)
    # Of the eight pairs only (-1, 1) is the wrong way round.
    assert value("auc", logits, labels) == 7 / 8
    even = np.zeros((4, 2))  # nothing but ties: class 0 is predicted, with confidence 1/2, and right once in four
    assert value("auc", even, np.array([0, 1, 1, 1])) == 1 / 2
    assert value("calibration_error", even, np.array([0, 1, 1, 1])) == 1 / 4
    assert value("perplexity", even, np.array([0, 1, 1, 1])) == pytest.approx(2, abs=1e-8)


def test_as_scikit_learn_has_them() -> None:
    assert value("balanced_accuracy", LOGITS, LABELS) == pytest.approx(
        sklearn.balanced_accuracy_score(LABELS, PREDICTED), abs=1e-12
    )
    assert value("macro_f1", LOGITS, LABELS) == pytest.approx(
        sklearn.f1_score(LABELS, PREDICTED, average="macro"), abs=1e-12
    )
    grid = np.rint(np.clip(np.log(CHANCES / (1 - CHANCES)), -MOST, MOST) * STEPS)
    on_grid = [sklearn.roc_auc_score(label == LABELS, grid[:, label]) for label in range(4)]
    assert value("auc", LOGITS, LABELS) == pytest.approx(np.mean(on_grid), abs=1e-12)
    off_grid = sklearn.roc_auc_score(LABELS, CHANCES, multi_class="ovr")
    assert value("auc", LOGITS, LABELS) == pytest.approx(off_grid, abs=1e-4)
    assert value("perplexity", LOGITS, LABELS) == pytest.approx(math.exp(sklearn.log_loss(LABELS, CHANCES)), rel=1e-8)


def test_of_two_classes_the_auc_is_that_of_the_second() -> None:
    labels, logits = LABELS % 2, LOGITS[:, :2]
    expected = sklearn.roc_auc_score(labels, np.rint((logits[:, 1] - logits[:, 0]) * STEPS))
    assert value("auc", logits, labels) == pytest.approx(expected, abs=1e-12)


def test_the_calibration_error_in_bins_of_one_fifteenth() -> None:
    confidence, right = CHANCES.max(axis=1), PREDICTED == LABELS
    edges, expected = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert value("calibration_error", LOGITS, LABELS) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_order_nor_grouping_changes_a_bit(kind: str) -> None:
    whole = Tally.of(kind, LOGITS, LABELS)
    order = RNG.permutation(500)
    for parts in (np.split(order, [1, 17, 400]), np.split(order, 50)):
        tallies = [{"m": Tally.of(kind, LOGITS[part], LABELS[part])} for part in parts]
        sums = merge([merge(tallies[:2]), merge(tallies[2:])])
        assert (sums["m"].total, sums["m"].count, sums["m"].value) == (whole.total, 500, whole.value)


def test_they_travel_as_they_are() -> None:
    metrics = {"loss": Mean(2.5, 2)} | {kind: Tally.of(kind, LOGITS[:20], LABELS[:20]) for kind in KINDS}
    answer = Answer(3, Status.EVALUATED, metrics)
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


def test_without_a_meaning_there_is_no_value() -> None:
    one = Tally.of("auc", LOGITS[:3], np.zeros(3, int))
    assert math.isnan(one.value)
    assert values({"auc": one, "loss": Mean(math.nan, 3)}).keys() == {"loss"}  # a loss that is no number is shown


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_model_that_has_diverged_breaks_nothing(bad: float) -> None:
    logits = np.array([[bad, 0.0], [0.0, bad]])
    for kind in KINDS:
        Tally.of(kind, logits, np.array([0, 1])).value  # noqa: B018
    assert value("perplexity", np.full((2, 2), math.nan), np.array([0, 1])) == math.inf


SMALL = ("num_rounds=2", "num_clients=4", "local.steps=2", "data=synthetic", "data.num_samples=400")
ALL = f"evaluate.metrics=[{','.join(KINDS)}]"


def test_all_columns_have_them(launch: Launch) -> None:
    words = ("evaluate.clients=true", "partition.holdout=0.3", "partition.unseen=0.25", "evaluate.validation=0.1")
    folder = launch(*SMALL, *words, ALL)
    rows, clients = table(folder, "metrics"), table(folder, "clients")
    for kind in KINDS:
        for prefix in ("test_", "client_", "validation_", "unseen_"):
            assert all(row[prefix + kind] for row in rows)
        assert rows[-1][f"client_{kind}_worst_decile"]
        assert f"train_{kind}" not in rows[-1]
        assert all(row[f"client_{kind}"] or row[f"unseen_{kind}"] for row in clients if row["round"] == "2")
    for row in rows:
        assert float(row["test_perplexity"]) == pytest.approx(math.exp(float(row["test_loss"])), rel=1e-5)
    assert float(rows[0]["test_auc"]) < float(rows[-1]["test_auc"]) <= 1


def test_nothing_else_changes(launch: Launch) -> None:
    plain, more = (table(launch(*SMALL, *words), "metrics") for words in ((), (ALL,)))
    assert [{name: row[name] for name in plain[0]} for row in more] == plain


def test_a_client_with_one_class_has_an_empty_cell(launch: Launch) -> None:
    words = ("partition=pathological", "partition.classes_per_client=1", "evaluate.clients=true", "num_clients=10")
    folder = launch(*SMALL, *words, "partition.holdout=0.5", ALL)
    rows = table(folder, "clients")
    assert {row.get("client_auc", "") for row in rows if row["client_loss"]} == {""}
    last = table(folder, "metrics")[-1]
    assert float(last["client_auc"]) > 0
    assert "client_auc_min" not in last


def test_a_strategy_of_the_metrics_leaves_out_clients_without_one(launch: Launch) -> None:
    words = ("partition=dirichlet", "partition.alpha=0.1", "partition.holdout=0.3", "evaluate.clients=true")
    strategy = ("strategy=fedavg_custom_metrics", "strategy.metrics=[auc_median]", "num_clients=20")
    folder = launch(*SMALL, *words, *strategy, ALL)
    found = [row["client_auc"] for row in table(folder, "clients") if row["round"] == "2"]
    known = [float(value) for value in found if value]
    assert 0 < len(known) < len(found)
    assert float(table(folder, "metrics")[-1]["client_auc_median"]) == np.median(known)


@long
def test_a_simulation_has_the_same_bytes(tmp_path: Path) -> None:
    words = (*SMALL, "evaluate.clients=true", "partition.holdout=0.3", "partition.unseen=0.25", ALL, "figures=false")
    for engine in ("inline", "simulation"):
        done = fl_bench(*words, f"engine={engine}", f"hydra.run.dir={engine}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for name in (*DETERMINISTIC, "per_class.csv", "confusion.csv"):
        assert (tmp_path / "inline" / name).read_bytes() == (tmp_path / "simulation" / name).read_bytes()


def test_targets_and_early_stopping_know_which_way_they_get_better(launch: Launch) -> None:
    words = ("target_metric=test_calibration_error", "targets=[1.0,0.0]", "early_stop.metric=test_macro_f1")
    folder = launch(*SMALL, *words, "early_stop.patience=1", "num_rounds=30", "local.lr=1e-9", ALL)
    record = json.loads((folder / "run.json").read_text())
    assert record["targets"]["1.0"]["round"] == 0  # below 1: reached
    assert record["targets"]["0.0"] is None
    assert record["stopped_early"]


def test_a_metric_to_stop_by_that_has_no_value_is_said(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.csv").write_text("x,y\n" + "1,a\n2,b\n" * 10)
    (tmp_path / "test.csv").write_text("x,y\n1,a\n")
    words = ("task=tabular", "data=csv", f"data.root={tmp_path}", "data.label=y", "num_clients=2", "num_rounds=1",
             "evaluate.metrics=[auc]", "targets=[0.9]", "early_stop.metric=test_loss")  # fmt: skip
    launch(*words, "target_metric=test_auc", "early_stop.metric=test_auc")
    said = capsys.readouterr().err
    for key in ("target_metric", "early_stop.metric"):
        assert (
            said.count(f"note: {key}=test_auc: has no value in round 0, as nothing there gives it one (no AUC of ") == 1
        )
    launch(*words, "target_metric=test_accuracy")
    assert "has no value" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("evaluate.metrics=[auk]",), "evaluate.metrics=[auk]: auk: did you mean auc?"),
        (("task=dcgan", "evaluate.metrics=[auc]"), "evaluate.metrics=[auc]: are of classifiers, and Dcgan is none"),
    ],
)
def test_what_cannot_be_measured(refused: Callable[..., str], words: tuple[str, ...], line: str) -> None:
    assert line in refused(*words)
