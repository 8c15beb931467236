"""Texts by words or by a tokenizer of transformers, from the package or from a table of one's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Launch, compose, digests, long, table

from fl_bench.data.reviews import generated_split
from fl_bench.data.texts import numbered, vocabulary_of
from fl_bench.models.texts import Bag, fasttext, lstm
from fl_bench.tasks.imdb import _make_tiny

TEXTS = ["a good film", "a bad film , not good", "the plot was fine", "nothing of note"] * 10
TABLE = pd.DataFrame({"body": TEXTS, "stars": [3, 1, 2, 2] * 10, "who": np.repeat(["ann", "bob"], 20), "n": range(40)})
WORDS = ("task=text", "data=csv", "data.text=body", "data.label=stars", "num_clients=2", "num_rounds=1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    TABLE.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


@pytest.fixture(scope="module")
def albert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    _make_tiny(folder, TEXTS)
    return folder


def test_words_have_numbers_by_frequency_and_the_others_have_0() -> None:
    words = vocabulary_of(["B a a", "b, C"], most=3)
    assert words == ["?", "a", "b", ","]
    tokens = numbered(["c b? A", "a"], words, max_length=3)
    assert tokens[np.arange(2)].tolist() == [[0, 2, 0], [1, -1, -1]]


def test_how_many_parameters() -> None:
    def count(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    # four gates, each with two matrices and, in torch, two biases
    assert count(lstm(1000, 2, 64, 64, 1)) == 1000 * 64 + 4 * (64 * 64 + 64 * 64 + 2 * 64) + 64 * 2 + 2 == 97_410
    assert count(fasttext(1000, 2, 64)) == 1000 * 64 + 64 * 2 + 2 == 64_130


def test_a_bag_by_hand() -> None:
    model = Bag(3, 2, 2)
    with torch.no_grad():
        model.words.weight.copy_(torch.tensor([[100.0, 100.0], [1.0, 2.0], [3.0, 6.0]]))
        model.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model.head.bias.copy_(torch.tensor([0.0, 10.0]))
    assert model(torch.tensor([[1, 2, -1], [2, -1, -1]])).tolist() == [[2.0, 14.0], [3.0, 16.0]]


@pytest.mark.parametrize("make", [lambda: lstm(20, 3, 8, 8, 2), lambda: fasttext(20, 3, 8)], ids=["lstm", "fasttext"])
def test_padding_changes_no_score(make: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(0)
    model, text = make(), torch.tensor([[4, 0, 19]])
    padded = torch.tensor([[4, 0, 19, -1, -1], [1, 2, 3, 4, 5]])
    assert torch.allclose(model(padded)[0], model(text)[0], atol=1e-6)
    assert not torch.allclose(model(text), model(torch.tensor([[4, 0, 18]])))


@pytest.mark.parametrize("source", ["data=disk", "data=hub"])
def test_the_same_texts_from_a_data_set_give_the_same_bytes(
    launch: Launch, file: Path, tmp_path: Path, source: str
) -> None:
    given = datasets.Dataset.from_pandas(TABLE)
    if source == "data=disk":
        given.save_to_disk(tmp_path / "saved")
    else:
        (tmp_path / "saved").mkdir()
        given.to_parquet(tmp_path / "saved" / "train.parquet")
    words = ("data.client=who", "partition=natural", "num_clients=auto")
    found = launch(*WORDS, source, f"data.root={tmp_path / 'saved'}", *words)
    assert digests(found) == digests(launch(*WORDS, f"data.root={file}", *words))


def test_a_table_of_ones_own_with_its_clients(launch: Launch, file: Path) -> None:
    folder = launch(*WORDS, f"data.root={file}", "data.client=who", "partition=natural", "figures=true")
    assert {row["source"] for row in table(folder, "sources")} == {"ann", "bob"}
    assert (folder / "figures" / "confusion.png").exists()
    assert sum(int(row["samples"]) for row in table(folder, "partition")) == 36  # a tenth is the test set


def test_flops_by_hand(launch: Launch, tmp_path: Path) -> None:
    """Sixteen texts of four words: in each step four gates, at the end three classes; backward twice as much."""
    TABLE.assign(body="one two three four").to_csv(tmp_path / "same.csv", index=False)
    words = ("model.embedding=8", "model.hidden=4", "local.batch_size=16", f"data.root={tmp_path / 'same.csv'}")
    size = json.loads((launch(*WORDS, *words) / "run.json").read_text())["model"]
    into, again, head = 2 * 16 * 4 * (8 * 16), 2 * 16 * 4 * (4 * 16), 2 * 16 * (4 * 3)
    first = 2 * 16 * (4 * 16)  # the gradient of the state before the first word, which is always 0, is not needed
    assert size == {
        "parameters": 5 * 8 + 4 * (4 * 8 + 4 * 4 + 8) + 15,
        "flops_per_step": 3 * (into + again + head) - first,
    }


@pytest.mark.parametrize(
    ("change", "words", "line"),
    [
        ({}, ["data.text=bod"], "data.text=bod: the table has no such column; did you mean body?"),
        ({}, ["data.text=null"], "data.text=null: must name the column with the texts"),
        ({}, ["data.text=n"], "data.text=n: must be a column of texts, and has int64"),
        ({}, ["data.text=who", "data.client=who"], "data.text=who: must name another column than data.label and"),
        ({"body": ["x"] * 38 + ["  ", " "]}, [], "data.text=body: 2 rows have an empty text; remove them"),
        ({"body": ["x"] * 37 + [None] * 3}, [], "data.text=body: 3 rows have no value there (in CSV also None"),
        ({"stars": 1}, [], "data.label=stars: must have from 2 to 100 different values, the classes, and has 1"),
        ({}, ["data.features=[n]"], "data.features=['n']: task=text reads the column data.text only"),
        ({}, ["task=tabular"], "data.text=body: this task takes no texts; use task=text, or data.features"),
        ({}, ["task.max_length=0"], "task.max_length=0: must be 1 or more"),
        ({}, ["task.class_weights=[1,2]"], "task.class_weights=[1, 2]: must have one for each of the 3 classes"),
        ({}, ["model=blitz"], "model: blitz takes no texts; see docs/models.md"),
        ({}, ["model.hidden=0"], "model.hidden=0: must be 1 or more"),
        (
            {},
            ["+model.norm=group"],
            "model.norm=group: Lstm has no BatchNorm in whose place it could be",
        ),
        ({}, ["model=hf", "model.path=/nowhere"], "model.path=/nowhere: cannot be loaded (there is no such folder); "),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(
    refused: Callable[..., str], tmp_path: Path, change: dict[str, Any], words: list[str], line: str
) -> None:
    TABLE.assign(**change).to_csv(tmp_path / "mine.csv", index=False)
    said = refused(*WORDS, f"data.root={tmp_path / 'mine.csv'}", *words)
    assert f"fl-bench: {line}" in said
    assert len([text for text in said.splitlines() if ": note: " not in text and "preparing" not in text]) == 1


def test_models_of_texts_take_no_images(refused: Callable[..., str]) -> None:
    assert "model: lstm takes no images, series or rows of tables; see docs/models.md" in refused("model=lstm")


@pytest.mark.parametrize("pretrained", [True, pytest.param(False, marks=long)])
def test_a_folder_of_transformers_gets_a_new_head(launch: Launch, file: Path, albert: Path, pretrained: bool) -> None:
    words = ("model=hf", f"model.path={albert}", f"model.pretrained={pretrained}", "task.max_length=16")
    assert compose(*WORDS, "data.root=x", *words).local.lr == (5e-5 if pretrained else 1e-3)
    assert compose("task=text").local.lr == 3e-3
    folder = launch(*WORDS, f"data.root={file}", *words, "local.lr=1e-9", "figures=true", "local.steps=1")
    from safetensors.torch import load_file

    theirs, ours = load_file(albert / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours["body.classifier.weight"].shape == (3, 128)
    name = "albert.embeddings.word_embeddings.weight"
    assert torch.allclose(theirs[name], ours[f"body.{name}"], atol=1e-6) == pretrained
    assert (folder / "figures" / "sentences.png").exists()


def test_hf_says_that_a_layernorm_is_not_touched(refused: Callable[..., str], file: Path, albert: Path) -> None:
    said = refused(*WORDS, f"data.root={file}", "model=hf", f"model.path={albert}", "model.norm=group")
    assert "model.norm=group: TextScores has no BatchNorm in whose place it could be" in said


def test_stacked_clients(launch: Launch, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """A bag is trained as one program; an LSTM one at a time, and a note says why."""
    words = (*WORDS, f"data.root={file}", "local.epochs=2")
    one, many = (launch(*words, "model=fasttext", f"engine.vectorize={k}") for k in ("off", 2))
    assert "one client at a time" not in capsys.readouterr().err
    losses = [float(table(folder, "metrics")[-1]["test_loss"]) for folder in (one, many)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    one, many = (launch(*words, f"engine.vectorize={k}") for k in ("off", 2))
    assert (
        "one client at a time: torch.func says: RuntimeError: Batching rule not implemented" in capsys.readouterr().err
    )
    assert digests(one) == digests(many)


@pytest.mark.parametrize("task", ["text", "imdb"])
def test_class_weights_and_smoothing_are_of_training(launch: Launch, task: str) -> None:
    small = (f"task={task}", "num_clients=2", "num_rounds=1", "local.steps=30", "local.lr=3e-3")
    folder = launch(*small, "task.class_weights=[1,0]", "task.label_smoothing=0.1")
    given = generated_split()
    negative = np.mean(given.y[given.is_test] == 0)
    assert float(table(folder, "metrics")[-1]["test_accuracy"]) == pytest.approx(negative)  # it says so of all
