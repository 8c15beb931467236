from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Launch, compose

from fl_bench.tasks.base import PRETRAINED
from fl_bench.tasks.imdb import Imdb, _make_tiny

TEXTS = ["a good film", "a bad film , not good", "the plot was fine", "a good plot"] * 10


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    _make_tiny(folder, TEXTS)
    return folder


def test_padding_changes_neither_scores_nor_accuracy(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / PRETRAINED).symlink_to(pretrained)
    task = Imdb(None, 16)
    data = task._tokenized(tmp_path, (TEXTS, [1, 0, 0, 1] * 10), (TEXTS[:4], [1, 0, 0, 1]), str(pretrained))
    data.save(tmp_path)
    opened = type(data).open(tmp_path)
    model = task.model(opened).eval()
    together = torch.from_numpy(opened.test["tokens"][np.arange(4)])
    assert (together == -1).any()
    scores = task.logits(model, {"tokens": together})
    for row in range(4):
        alone = torch.from_numpy(opened.test["tokens"][np.array([row])])
        assert torch.allclose(task.logits(model, {"tokens": alone})[0], scores[row], atol=1e-6)
    labels = scores.argmax(dim=1)
    labels[0] = 1 - labels[0]  # three right, one wrong, whatever the model thinks
    _, metrics = task.objective(model, {"tokens": together, "y": labels})
    assert metrics["accuracy"].value == 0.75


def write_parquet(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for split, count in (("train", 40), ("test", 8)):
        table = pd.DataFrame({"text": TEXTS[:count], "label": ([1, 0, 0, 1] * 10)[:count]})
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")


def test_the_full_data_is_read_from_parquet_and_a_model_folder(
    launch: Launch, pretrained: Path, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "imdb")
    words = ("task=imdb", "data=full", f"data.root={tmp_path / 'imdb'}", f"model.path={pretrained}", "num_clients=2")
    folder = launch(*words, "num_rounds=1", "figures=true")
    assert (folder / "figures" / "sentences.png").exists()


@pytest.mark.parametrize("words", [["data=full", "data.root=/nowhere"], ["model.path=/nowhere"]])
def test_what_cannot_be_reached_names_the_ways_out(
    launch: Launch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    launch("task=imdb", *words, exit_code=2)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(way in line for way in ("data.root=", "model.path=", "data=embedded"))


def test_the_generated_reviews_are_the_default(tmp_path: Path) -> None:
    assert compose("task=imdb").task.path is None
    data = Imdb(None, 256).load_embedded(tmp_path)
    assert (data.num_samples, len(data.test["y"]), data.classes) == (3000, 600, ("negative", "positive"))
    assert max(data.train["tokens"].flat) < 4000
