"""The published settings compose as published, run on files of the real format, and say how far a run compares."""

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from omegaconf import OmegaConf

from fl_bench.build import build
from fl_bench.config.compose import compose_with_choices, options
from fl_bench.config.origin import Origin
from fl_bench.config.rules import validate
from fl_bench.errors import ConfigError
from fl_bench.metrics import Metric
from fl_bench.runs.execute import execute
from fl_bench.runs.prepare import prepare
from fl_bench.runs.published import compare, said
from fl_bench.tasks.base import Task

NAMES = [name for name in options("experiment") if name.startswith("published/")]
TEXTS = "texts"  # the folder of LEAF's form that has no images
ACCURACY = {"accuracy": Metric("accuracy", better="higher")}
ROWS = [
    {"round": "1", "test_accuracy": "0.5", "client_accuracy": "0.3"},
    {"round": "2", "test_accuracy": "0.7", "client_accuracy": "0.2"},
    {"round": "3", "test_accuracy": "0.6", "client_accuracy": ""},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Generated images in the files of CIFAR-10 and CIFAR-100, four of each class to train and one to test."""
    folder, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> list[str]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(content))
        return [Path(name).name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def part(name: str, labels: str, classes: int, copies: int) -> list[str]:
        images = rng.integers(256, size=(classes * copies, 3072), dtype=np.uint8)
        return write(name, {"data": images, labels: [*range(classes)] * copies})

    ten, hundred = "cifar-10-batches-py", "cifar-100-python"
    metas = [
        write(f"{ten}/batches.meta", {"label_names": [f"class {k}" for k in range(10)]}),
        write(f"{hundred}/meta", {"fine_label_names": [f"class {k}" for k in range(100)]}),
    ]
    batches = [part(f"{ten}/data_batch_{k}", "labels", 10, 4) for k in range(1, 6)]
    lists = [
        (batches, [part(f"{ten}/test_batch", "labels", 10, 1)]),
        ([part(f"{hundred}/train", "fine_labels", 100, 4)], [part(f"{hundred}/test", "fine_labels", 100, 1)]),
    ]
    with pytest.MonkeyPatch.context() as patch:  # torchvision looks at the digests of the real files
        for real, (train, test), meta in zip(
            (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100), lists, metas, strict=True
        ):
            patch.setattr(real, "train_list", train)
            patch.setattr(real, "test_list", test)
            patch.setattr(real, "meta", real.meta | {"md5": meta[1]})
        write_leaf(folder, rng.random(784).tolist(), [*range(4)])
        write_leaf(folder / TEXTS, "To be " * 13 + "or", [*" not"])
        yield folder


def write_leaf(folder: Path, x: Any, labels: list[Any]) -> None:
    """Examples in the JSON of LEAF, 50 of each of four users to train and one to test, each user with its label."""
    for half, copies in (("train", 50), ("test", 1)):
        users = {f"user {y}": {"x": [x] * copies, "y": [y] * copies} for y in labels}
        (folder / half).mkdir(parents=True)
        content = {"users": list(users), "num_samples": [copies] * 4, "user_data": users}
        (folder / half / "all_data.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", NAMES)
def test_each_published_number_is_that_of_its_words(name: str) -> None:
    words = [f"experiment={name}", "data.root=files"]
    cfg, choices = compose_with_choices(words)
    validate(cfg)
    assert cfg.expected.rounds == cfg.num_rounds
    shapes = {tuple(word.partition("=")[0] for word in row.where): row for row in cfg.expected.results}
    assert len({tuple(row.where) for row in cfg.expected.results}) == len(cfg.expected.results)
    for row in shapes.values():  # one row for each set of keys, since Hydra takes its time
        where = [*words, *row.where]
        cell, chosen = compose_with_choices(where)
        validate(cell)
        found = compare(cell, Origin(chosen, where), ROWS, None, ACCURACY)
        assert found is not None
        assert found["published"] == row.value, where
    changed = Origin(choices, [*words, "local.batch_size=7"])
    found = compare(cfg, changed, ROWS, None, ACCURACY)
    assert found is not None
    assert found["published"] is None


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_finds_its_data_and_its_model(name: str, root: Path, tmp_path: Path) -> None:
    words = (f"experiment={name}", "num_clients=4", "clients_per_round=2", "engine=inline")
    folder = root / TEXTS if name.endswith("shakespeare") else root
    cfg, _ = compose_with_choices([*words, f"data.root={folder}"])
    trainer = prepare(cfg, build(cfg.task, Task), tmp_path)
    assert trainer.data.num_samples == (400 if cfg.data.get("dataset") == "CIFAR100" else 200)
    assert trainer.partition.train_sizes.sum() > 0


@pytest.mark.parametrize(("rounds", "line"), [
    ([], "after 50 rounds (Doe 2020); this run has 2 rounds, so its number says nothing of it"),
    (["expected.rounds=2"], "after 2 rounds (Doe 2020); here: {}, of the round that is the last"),
])  # fmt: skip
def test_two_rounds_on_generated_files(
    rounds: list[str], line: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=published/niid_cifar10", "partition=pathological", "partition.classes_per_client=1"]
    cut = [f"data.root={root}", "num_rounds=2", "engine=inline", "figures=false", *rounds, "expected.source=Doe 2020"]
    cfg, choices = compose_with_choices([*words, *cut, "local.epochs=1"])
    folder = tmp_path / "run"
    for made in (folder, tmp_path / "scratch"):
        made.mkdir()
    assert execute(cfg, folder, tmp_path / "scratch", origin=Origin(choices, [*words, *cut])) == 0
    record = json.loads((folder / "run.json").read_text())
    last = record["final"]["test_accuracy"]
    assert capsys.readouterr().out.splitlines()[-1] == f"published: test_accuracy=0.1 {line.format(f'{last:.4f}')}"
    assert (record["published"]["published"], record["published"]["here"]) == (0.1, last)
    assert record["published"]["rounds_here"] == 2


@pytest.mark.parametrize(
    ("metric", "at", "here"),
    [
        ("test_accuracy", "last", 0.6),
        ("test_accuracy", "best", 0.7),
        ("test_accuracy", "validation", 0.5),
        ("client_accuracy", "last", 0.2),  # of the last round that has it
        ("client_accuracy", "best", 0.3),
        ("test_mae", "best", None),
    ],
)
def test_the_number_of_a_run_is_of_the_round_that_the_published_one_is_of(
    metric: str, at: str, here: float | None
) -> None:
    expected = {"source": "Doe 2020", "metric": metric, "rounds": 3, "at": at, "results": [{"value": 0.9, "where": []}]}
    cfg = OmegaConf.create({"expected": expected})
    found = compare(cfg, Origin({}, ["seed=3", "hydra.run.dir=x", "figures=false"]), ROWS, ROWS[0], ACCURACY)
    assert found is not None
    assert (found["published"], found["here"]) == (0.9, here)
    if here is None:
        assert said(found).endswith("; this run has no test_mae to put beside it")


@pytest.mark.parametrize("word", ["+expected.when=now", "expected.at=first", "expected.results=[0.7]"])
def test_what_is_expected_is_looked_at_before_the_run(word: str) -> None:
    cfg, _ = compose_with_choices(["experiment=published/pfl_cifar10", word])
    with pytest.raises(ConfigError, match=r"^expected=.*: must have source, metric, rounds, at "):
        validate(cfg)


def test_where_nothing_is_published_nothing_is_said() -> None:
    assert compare(OmegaConf.create({"expected": None}), Origin({}, []), ROWS, None, ACCURACY) is None
    assert said({"metric": "m", "at": "last", "rounds": 1, "source": "Doe", "published": None, "here": 0.1}) == (
        "published: no m for this setting (Doe)"
    )
