"""Boosted trees: literal scores, xgboost itself as the second formulation, whole runs, and what is refused."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xgboost
from conftest import TREES, Launch, compose, digests, forked, long, table
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedXgbBagging
from numpy.typing import NDArray
from safetensors.torch import load_file

from fl_bench import commands
from fl_bench.data.tables import breast_cancer
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.errors import ConfigError
from fl_bench.federation.cohort import Cohort
from fl_bench.models.trees import Forest, forest
from fl_bench.network.schedule import Plan
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute

Floats = NDArray[np.float32]
PLAIN = {"eta": 0.1, "max_depth": 3, "reg_lambda": 1.0}
# What these mean to xgboost, said once more.
BARE = {**PLAIN, "objective": "binary:logistic", "base_score": 0.5, "tree_method": "hist", "nthread": 1}
SMALL = ("task=tabular", "num_clients=4", "num_rounds=4", "evaluate.clients=true", "evaluate.metrics=[auc]",
         "model.subsample=0.8", "model.colsample_bytree=0.5")  # fmt: skip

X = np.repeat(np.array([[0.0], [1.0]], np.float32), 4, axis=0)
BY_X, ALL = np.repeat([0, 1], 4), np.ones(8, np.int64)  # labels


def grown(content: bytes, x: Floats, y: NDArray, trees: int = 1, seed: int = 0, **options: float) -> Forest:
    model = Forest({**PLAIN, **options})
    model.content = torch.tensor(list(content), dtype=torch.uint8)
    model.grow(torch.from_numpy(x), torch.from_numpy(y), trees, seed)
    return model


def bytes_of(model: Forest) -> bytes:
    return model.content.numpy().tobytes()


def scores(content: bytes, x: Floats) -> Floats:
    model = Forest({})
    model.content = torch.tensor(list(content), dtype=torch.uint8)
    first, second = model(torch.from_numpy(x)).T
    assert not first.any()
    return second.numpy()  # type: ignore[no-any-return]


def bagged(content: bytes, newest: Sequence[bytes]) -> bytes:
    """What Flower's server half makes of the clients' trees."""
    server = FedXgbBagging(min_train_nodes=1, min_available_nodes=1)
    InlineGrid()  # of whose run messages are
    sent = ArrayRecord([np.frombuffer(content, np.uint8)])
    asked = list(server.configure_train(1, sent, ConfigRecord(), Cohort(Plan(1, range(len(newest))))))
    contents = [
        RecordDict({"arrays": ArrayRecord([np.frombuffer(t, np.uint8)]), "metrics": MetricRecord({"num-examples": 8})})
        for t in newest
    ]
    replies = [Message(c, reply_to=message) for c, message in zip(contents, asked, strict=True)]
    made, _ = server.aggregate_train(1, replies)
    assert made is not None
    return made["0"].numpy().tobytes()


def test_a_tree_by_hand() -> None:
    """At p = 1/2 a row of label y has the gradient 1/2 - y and the curvature 1/4, and a leaf -eta G / (H + lambda).

    Of 4 rows of label 0 that is -0.1 * 2 / (1 + 1); of 8 rows of label 1, which no question tells apart, 0.1 * 4 / 3.
    """
    two = [bytes_of(grown(b"", X, labels)) for labels in (BY_X, ALL)]
    assert scores(b"", X[[0, -1]]).tolist() == [0, 0]
    assert scores(two[0], X[[0, -1]]) == pytest.approx([-0.1, 0.1])
    assert scores(two[1], X[[0, -1]]) == pytest.approx([0.4 / 3, 0.4 / 3])
    assert scores(bagged(b"", two), X[[0, -1]]) == pytest.approx([0.1 / 3, 0.7 / 3])


def test_bagging_adds_what_xgboost_makes_of_each_clients_rows() -> None:
    """Three clients and rounds, beside trees that xgboost grows on the sum so far as a margin of its own."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(3, 60, 4)).astype(np.float32)
    y = (x[..., 0] * x[..., 1] + draws.normal(size=(3, 60)) > 0).astype(np.int64)
    content, margins = b"", np.zeros((3, 60), np.float32)
    for _ in range(3):
        newest = []
        for client in range(3):
            model = grown(content, x[client], y[client])
            model.prune()
            newest.append(bytes_of(model))
        content = bagged(content, newest)
        alone = [
            xgboost.train(BARE, xgboost.DMatrix(x[k], y[k], base_margin=margins[k]), num_boost_round=1)
            for k in range(3)
        ]
        margins += sum(
            np.stack([tree.predict(xgboost.DMatrix(rows), output_margin=True) for rows in x]) for tree in alone
        )
        for client in range(3):
            assert scores(content, x[client]) == pytest.approx(margins[client], abs=1e-5)
    assert np.abs(margins).max() > 0.3


def test_a_clients_forest_goes_on_as_xgboost_does() -> None:
    data = breast_cancer().train
    one = xgboost.train(BARE, xgboost.DMatrix(data["x"], data["y"]), num_boost_round=4)
    passed_on = bytes_of(grown(bytes_of(grown(b"", data["x"], data["y"])), data["x"], data["y"], trees=3))
    assert passed_on == bytes(one.save_raw("json"))


def test_draws_follow_from_the_seed_alone() -> None:
    data = breast_cancer().train
    rows = data["x"][:100], data["y"][:100]

    def tree(seed: int) -> bytes:
        return bytes_of(grown(b"", *rows, seed=seed, subsample=0.5, colsample_bytree=0.5))

    first, other = tree(1), tree(2)
    assert first != other
    assert tree(1) == first


def test_flowers_bagging_still_drops_a_second_tree() -> None:
    """Which is why local.epochs must be 1."""
    two = bytes_of(grown(b"", X, BY_X, trees=2))
    assert xgboost.Booster(model_file=bytearray(two)).num_boosted_rounds() == 2
    assert xgboost.Booster(model_file=bytearray(bagged(two, [two]))).num_boosted_rounds() == 3


def test_other_bytes_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^model: these 5 bytes are no trees of xgboost$"):
        scores(b"hello", X)


@pytest.mark.parametrize("strategy", sorted(TREES))
def test_a_run_is_the_same_packed_or_not_interrupted_or_not(strategy: str, launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, f"strategy={strategy}")
    whole = launch(*words)
    assert digests(launch(*words, "engine.packing=false")) == digests(whole)
    parts = tmp_path / "parts"
    parts.mkdir()
    for rounds, start in ((2, Start.NEW), (4, Start.RESUME)):
        (tmp_path / str(rounds)).mkdir()
        assert execute(compose(*words, f"num_rounds={rounds}"), parts, tmp_path / str(rounds), start) == 0
    assert digests(parts) == digests(whole)


@long
@pytest.mark.parametrize("strategy", sorted(TREES))
def test_the_simulation_gives_the_same_bytes(strategy: str, launch: Launch, tmp_path: Path) -> None:
    words = (*SMALL, f"strategy={strategy}")
    done = forked(*words, "figures=false", "hydra.run.dir=run", "engine=simulation", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run") == digests(launch(*words))


def test_bagging_gets_a_tree_of_each_client_and_counts_its_bytes(launch: Launch) -> None:
    run = launch(*SMALL, "strategy=fedxgb_bagging")
    content = bytes(load_file(run / "model.safetensors")["content"].numpy())
    assert xgboost.Booster(model_file=bytearray(content)).num_boosted_rounds() == 4 * 4
    clients = [row for row in table(run, "clients") if row["status"] == "ok"]
    assert [row["steps"] for row in clients] == ["1"] * 16
    by_round = [[row for row in clients if row["round"] == str(number)] for number in range(1, 5)]
    assert {row["bytes_down"] for row in by_round[0]} == {"0"}
    down = [int(of_round[0]["bytes_down"]) for of_round in by_round]
    assert down == sorted({*down})  # the forest grows, and each client is sent the whole of it
    assert all(200 < int(row["bytes_up"]) < 3000 for row in clients)
    assert [int(row["bytes_up"]) for row in table(run, "metrics")[1:]] == [
        sum(int(row["bytes_up"]) for row in of_round) for of_round in by_round
    ]


def test_cyclic_passes_one_forest_on(launch: Launch) -> None:
    run = launch(*SMALL, "strategy=fedxgb_cyclic", "local.epochs=3", "num_rounds=5")
    content = bytes(load_file(run / "model.safetensors")["content"].numpy())
    assert xgboost.Booster(model_file=bytearray(content)).num_boosted_rounds() == 5 * 3
    rows = [row for row in table(run, "clients") if row["steps"] != "0"]
    assert [row["client"] for row in rows] == ["0", "1", "2", "3", "0"]
    assert {row["steps"] for row in rows} == {"3"}
    down, up = ([int(row[f"bytes_{way}"]) for row in rows] for way in ("down", "up"))
    assert down == [0, *up[:-1]]
    assert up[-1] == len(content)
    evaluated = [row["client"] for row in table(run, "clients") if row["round"] == "5" and row["client_loss"]]
    assert evaluated == ["0", "1", "2", "3"]  # of which Flower's asks one


def test_one_client_is_xgboost(launch: Launch) -> None:
    run = launch("task=tabular", "strategy=fedxgb_cyclic", "num_clients=1", "num_rounds=6", "partition.holdout=0")
    data = breast_cancer()
    options = {**BARE, "max_depth": 6}
    alone = xgboost.train(options, xgboost.DMatrix(data.train["x"], data.train["y"]), num_boost_round=6)
    margins = alone.predict(xgboost.DMatrix(data.test["x"]), output_margin=True)
    assert scores(bytes(load_file(run / "model.safetensors")["content"].numpy()), data.test["x"]) == pytest.approx(
        margins, abs=1e-5
    )
    last = table(run, "metrics")[-1]
    signs = np.where(data.test["y"] == 1, 1, -1)
    assert float(last["test_loss"]) == pytest.approx(np.log1p(np.exp(-signs * margins)).mean(), abs=1e-6)
    assert float(last["test_accuracy"]) == pytest.approx(((margins > 0) == (signs > 0)).mean())


def test_a_forest_can_be_measured_and_gone_on_from(launch: Launch, tmp_path: Path) -> None:
    run = launch(*SMALL, "strategy=fedxgb_bagging")
    assert commands.call("evaluate", [str(run), "--clients", "--out", str(tmp_path / "out.csv")]) == 0
    said, measured = table(run, "metrics")[-1], table(tmp_path, "out")[0]
    named = [name for name in said if name.startswith(("test_", "client_"))]
    assert "test_auc" in named
    assert {name: measured[name] for name in named} == {name: said[name] for name in named}
    more = launch(*SMALL, "strategy=fedxgb_cyclic", f"model.init={run}", "num_rounds=1")
    assert table(more, "metrics")[0]["test_loss"] == said["test_loss"]
    content = bytes(load_file(more / "model.safetensors")["content"].numpy())
    assert len(json.loads(content)["learner"]["gradient_booster"]["model"]["trees"]) == 17
    with pytest.raises(ConfigError, match=r"^model=trees: an audit looks at updates of numbers, and trees are none$"):
        commands.call("audit", [str(run)])


GROWN = ("task=tabular", "model=trees", "strategy=fedxgb_bagging")
VECTORS = "works on vectors of numbers, and model=trees is none; use "
REFUSED = {  # before there is data or torch
    "strategy=fedavg": "strategy.needs_each_client=False: model=trees has no mean; use strategy=fedxgb_bagging or ",
    "attack=sign_flip": f"attack._target_=fl_bench.attacks.alone.SignFlip: {VECTORS}attack=none",
    "robust=norm_bound": f"robust._target_=fl_bench.robust.clipping.NormBound: {VECTORS}robust=none",
    "privacy=local": f"privacy._target_=fl_bench.privacy.local.LocalNoise: {VECTORS}privacy=none",
    "compression=fp16": f"compression.up._target_=fl_bench.compression.fp16.Half: {VECTORS}compression=none",
    "compression/down=fp16": f"compression.down._target_=fl_bench.compression.fp16.Half: {VECTORS}compression/down=",
    "secure_aggregation=masks": "secure_aggregation=masks: must be none with model=trees",
    "weighting=uniform": "weighting=uniform: must be examples with model=trees",
    "network=heterogeneous": "network.bytes_per_second_up=1000000.0: must be inf with model=trees",
    "evaluate.adapt_steps=1": "evaluate.adapt_steps=1: must be 0 with model=trees",
    "task.label_smoothing=0.1": "task.label_smoothing=0.1: must be 0.0 with model=trees",
}
UNFIT = {  # when the parts are there
    "model=mlp": "strategy: Bagging does not train this model: model=trees and strategy=fedxgb_bagging or ",
    "strategy=qfedavg": "strategy: StartingLoss does not train this model: ",
    "task=mnist": "model: trees take rows of tables, and these examples are [1, 28, 28]; see docs/models.md",
    "local.steps=1": "local.steps=1: must be null: local.epochs are the trees of a turn",
    "local.epochs=2": "local.epochs=2: must be 1: of each client Flower's bagging takes one tree a round, and drops",
}


def instead(word: str) -> list[str]:
    """The words of a run with trees, but for this one."""
    return [*(other for other in GROWN if other.partition("=")[0] != word.partition("=")[0]), word]


@pytest.mark.parametrize("word", REFUSED)
def test_what_works_on_vectors_is_refused(word: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(*instead(word))
    assert str(error.value).startswith(REFUSED[word])


@pytest.mark.parametrize("word", UNFIT)
def test_what_does_not_fit_is_refused_before_the_run(word: str, refused: Callable[..., str]) -> None:
    assert f"fl-bench: {UNFIT[word]}" in refused(*instead(word))


@pytest.mark.parametrize("word", ["clients_per_round=2", "min_clients=2"])
def test_one_client_a_round_is_not_several(word: str, refused: Callable[..., str]) -> None:
    assert f"fl-bench: {word}: " in refused("task=tabular", "strategy=fedxgb_cyclic", word)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"num_classes": 3}, "trees tell two classes apart, and there are 3; use model=mlp strategy=fedavg"),
        ({"eta": 0.0}, "eta=0.0: must be above 0 and at most 1"),
        ({"subsample": 1.5}, "subsample=1.5: must be above 0 and at most 1"),
        ({"max_depth": 0}, "max_depth=0: must be 1 or more"),
        ({"reg_lambda": -1.0}, "reg_lambda=-1.0: must be a number from 0"),
    ],
    ids=str,
)
def test_options_out_of_range(wrong: dict[str, Any], line: str) -> None:
    given: dict[str, Any] = {"shape": (4,), "num_classes": 2, "subsample": 1.0, "colsample_bytree": 1.0}
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        forest(**{**given, **PLAIN, **wrong})
