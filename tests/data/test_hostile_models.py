"""Pretrained models that are damaged or made to do harm: one line, exit code 2, and nothing runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import TEXTS, WEIGHTS, Change, refusal
from safetensors.torch import load_file, save_file

from fl_bench.data.reviews import LABELS
from fl_bench.data.texts import Texts
from fl_bench.tasks.imdb import Imdb, _make_tiny
from fl_bench.tasks.sam import TINY, Sam


def edit(folder: Path, file: str = "config.json", **entries: Any) -> None:
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | entries))


def with_code(folder: Path, **entries: Any) -> None:
    """Code of its own for all that there is of a model; it leaves a trace."""
    trace = str(folder.parent / "trace")
    (folder / "evil.py").write_text(f"open({trace!r}, 'w').close()\nclass Evil: pass\n")
    kinds = {f"Auto{name}": "evil.Evil" for name in ("Config", "Model", "ModelForSequenceClassification", "Processor")}
    edit(folder, auto_map=kinds, **entries)
    for file in ("tokenizer_config.json", "processor_config.json"):
        if (folder / file).exists():
            edit(folder, file, auto_map=kinds | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def other_weights(folder: Path) -> None:
    save_file({"x": torch.zeros(2)}, folder / WEIGHTS, metadata={"format": "pt"})


def swap(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def remove_all(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def remove_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


MODELS: dict[str, tuple[Change, str]] = {
    "a file": (replace_by_file, "cannot be loaded"),
    "empty": (remove_all, "cannot be loaded"),
    "a list": (lambda folder: (folder / "config.json").write_text("[1]"), "must be a mapping, not list"),
    "a binary": (lambda folder: (folder / "config.json").write_bytes(b"\xff\0"), "not a valid JSON file"),
    "pickled weights": (pickled, "no file named model.safetensors"),
    "weights cut off": (cut_off, "incomplete metadata"),
    "no weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "header too small"),
    "other weights": (other_weights, "has no weights for "),
    "other shapes": (lambda folder: edit(folder, intermediate_size=77), "the weights have other shapes"),
    "no memory has this": (lambda folder: edit(folder, hidden_size=10**6), "cannot be loaded"),
    "a hole": (lambda folder: edit(folder, num_hidden_groups=3), "has no weights for albert.encoder"),
    "code": (lambda folder: with_code(folder, model_type="evil"), "contains custom code"),
    "no tokenizer": (remove_tokenizer, "its tokenizer knows no word of the data"),
    "of another task": (lambda folder: swap(folder, TINY), "cannot be loaded"),
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer and weights that fit."""
    monkeypatch.setattr("fl_bench.models.pretrained.use_cache_when_offline", lambda: None)
    torch.manual_seed(0)
    _make_tiny(tmp_path / "model", TEXTS)
    (tmp_path / "scratch").mkdir()
    return tmp_path / "model"


def tokenized(model: Path) -> Any:
    given = Texts(TEXTS + TEXTS, np.array([1, 0, 0, 1] * 20), LABELS, np.arange(80) >= 40)
    return Imdb(None, 16)._tokenized(model.parent / "scratch", given, str(model))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been asked on the terminal."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", questions.append)
    return questions


@pytest.mark.parametrize("name", MODELS)
def test_models(model: Path, asked: list[str], name: str) -> None:
    change, why = MODELS[name]
    change(model)
    line = refusal(lambda: tokenized(model))
    assert line.startswith(f"model.path={model}: ")
    assert why in line
    assert "\n" not in line
    assert not asked
    assert not (model.parent / "trace").exists()


def test_code_beside_a_known_model_is_left_alone(model: Path, asked: list[str]) -> None:
    with_code(model)
    assert tokenized(model).num_samples == 40
    assert not asked
    assert not (model.parent / "trace").exists()


def test_a_tokenizer_and_a_model_that_do_not_fit(model: Path) -> None:
    weights = load_file(model / WEIGHTS)
    words, places = (f"albert.embeddings.{name}_embeddings.weight" for name in ("word", "position"))
    short = weights | {places: weights[places][:3]}
    save_file(short, model / WEIGHTS, metadata={"format": "pt"})
    edit(model, max_position_embeddings=3)
    assert refusal(lambda: tokenized(model)).startswith("task.max_length=16: must be at most 3 with model.path=")
    save_file(weights | {words: weights[words][:5]}, model / WEIGHTS, metadata={"format": "pt"})
    edit(model, max_position_embeddings=512, vocab_size=5)
    assert "its tokenizer knows words that its model does not" in refusal(lambda: tokenized(model))


SAMS: dict[str, tuple[Change, str]] = {
    "of another task": (lambda folder: swap(folder, folder.parent / "model"), "cannot be loaded"),
    "of another task behind its own processor": (
        lambda folder: [shutil.copy(folder.parent / "model" / name, folder) for name in ("config.json", WEIGHTS)],
        "has no weights for ",
    ),
    "other weights": (other_weights, "has no weights for "),
    "weights cut off": (cut_off, "incomplete metadata"),
    "pickled weights": (pickled, "no file named model.safetensors"),
}


@pytest.mark.parametrize("name", SAMS)
def test_models_of_sam(model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "sam"
    shutil.copytree(TINY, folder)
    change, why = SAMS[name]
    change(folder)
    line = refusal(lambda: Sam(None, "all")._load(tmp_path / "scratch", [], [], ("object",), str(folder)))
    assert line.startswith(f"model.path={folder}: ")
    assert why in line
