"""Data, models and traces that are damaged, too large or made to do harm: one line, exit code 2, and nothing runs."""

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Launch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_sources import write_idx, write_mnist

from fl_bench.data import shapes, sources
from fl_bench.errors import ConfigError
from fl_bench.network import devices
from fl_bench.tasks.imdb import Imdb, _make_tiny
from fl_bench.tasks.sam import TINY, Sam

Change = Callable[[Path], Any]
TEXTS = ["a good film", "a bad film , not good", "the plot was fine", "a good plot"] * 10
WEIGHTS = "model.safetensors"


def refusal(read: Callable[[], Any]) -> str:
    """The line with which it is refused."""
    with pytest.raises(ConfigError) as error:
        read()
    return str(error.value)


class Evil:
    """What is run when a pickle of it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


# Images


def png(width: int, height: int) -> bytes:
    """A small file that says it is as large as this."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def grey(file: Path, size: tuple[int, int] = (9, 9), mode: str = "L") -> None:
    Image.new(mode, size).save(file)


def cut_noise(file: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 40), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-500])


IMAGES: dict[str, tuple[Change, str | None]] = {  # what becomes of a.png, and why it is refused, if it is
    "a bomb": (lambda file: file.write_bytes(png(50_000, 50_000)), "decompression bomb"),
    "perhaps a bomb": (lambda file: file.write_bytes(png(10_000, 10_000)), "decompression bomb"),
    "no pixels": (lambda file: file.write_bytes(png(0, 0)), "cannot identify image file"),
    "text": (lambda file: file.write_text("no image"), "cannot identify image file"),
    "a program": (lambda file: file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot identify"),
    "cut off": (cut_noise, "is truncated"),
    "a folder": (lambda file: file.mkdir(), "not a file"),
    "a pipe": (lambda file: os.mkfifo(file), "not a file"),
    "a device": (lambda file: file.symlink_to("/dev/zero"), "not a file"),
    "a link to itself": (lambda file: file.symlink_to(file), "not a file"),
    "a link to nothing": (lambda file: file.symlink_to("/nowhere"), "not a file"),
    "16 bits": (lambda file: Image.fromarray(np.zeros((9, 9), np.uint16)).save(file), "more than 8 bits"),
    "one pixel": (lambda file: grey(file, (1, 1)), None),
    "CMYK": (lambda file: Image.new("CMYK", (9, 9)).save(file, "JPEG"), None),
    "an animation": (
        lambda file: Image.new("P", (9, 9)).save(file, "GIF", append_images=[Image.new("P", (9, 9))]),
        None,
    ),
    "a link to a file": (lambda file: file.symlink_to(file.with_name("0.png")), None),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(tmp_path: Path, name: str) -> None:
    for number in range(4):
        grey(tmp_path / f"{number}.png")
    change, why = IMAGES[name]
    change(tmp_path / "a.png")
    if why is None:
        assert sources.image_folder(str(tmp_path), 8).num_samples == 3
    else:
        line = refusal(lambda: sources.image_folder(str(tmp_path), 8))
        assert line.startswith(f"data.root={tmp_path}: a.png ")
        assert why in line


def test_a_folder_is_not_left_by_links(tmp_path: Path) -> None:
    for number in range(4):
        grey(tmp_path / f"{number}.png")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(sources.image_folder(str(tmp_path), 8).train["x"]) == 2


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_a_root_without_images(tmp_path: Path, make: Change) -> None:
    root = tmp_path / "root"
    make(root)
    for read in (lambda: sources.image_folder(str(root), 8), lambda: list(shapes.from_folder(str(root)))):
        assert refusal(read).startswith(f"data.root={root}: h")


@pytest.mark.parametrize("name", ["a\nb.png", "é.png"])
def test_names_of_all_kinds_are_one_line(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / name).touch()
    launch("task=dcgan", "data=full", "data.dataset=folder", f"data.root={root}", exit_code=2)
    assert capsys.readouterr().err.count("\n") == 1


# Masks


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.ones((5, 4), np.uint8), "(5, 4) of uint8, not (4, 4)"),
        (np.ones((4, 4, 3), np.uint8), "(4, 4, 3) of uint8, not (4, 4)"),
        (np.full((4, 4), np.nan, np.float32), "(4, 4) of float32, not (4, 4) of whole numbers"),
    ],
)
def test_masks(tmp_path: Path, mask: np.ndarray, why: str) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    grey(tmp_path / "images" / "[a].png", (4, 4))
    Image.fromarray(mask).save(tmp_path / "masks" / "[a].tif")
    line = refusal(lambda: list(shapes.from_folder(str(tmp_path))))
    assert line.startswith(f"data.root={tmp_path}: the mask of [a].png is {why}")


def test_an_image_without_objects_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(2):
        grey(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.full((9, 9), number * 700, np.uint16)).save(tmp_path / "masks" / f"{number}.png")
    (scene,) = shapes.from_folder(str(tmp_path))
    assert scene.boxes == [[0, 0, 8, 8]]
    assert "the mask of 0.png has no object; the image is left out" in capsys.readouterr().err


def test_an_image_that_is_too_narrow(tmp_path: Path) -> None:
    scene = shapes.Scene(np.zeros((1, 300, 3), np.uint8), np.ones((1, 300), np.int64), [[0.0, 0.0, 299.0, 0.0]], [0])
    line = refusal(lambda: Sam(None, "all")._load(tmp_path, [scene], [scene], ("object",), str(TINY)))
    assert line == "data: an image of 1 x 300 pixels is too narrow for 64 x 64"


# Data sets of torchvision and of the hub

IDX = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def processed(raw: Path, content: Callable[[Path], bytes]) -> None:
    folder = raw.parent / "processed"
    folder.mkdir()
    for name in ("training.pt", "test.pt"):
        (folder / name).write_bytes(content(raw.parent / "trace"))


MNIST: dict[str, Change] = {
    "small images": lambda raw: write_idx(raw / IDX[0], np.zeros((60, 10, 10))),
    "flat images": lambda raw: write_idx(raw / IDX[0], np.zeros((60, 784))),
    "labels of no class": lambda raw: write_idx(raw / IDX[1], np.full(60, 200)),
    "images of fractions": lambda raw: (raw / IDX[1]).write_bytes(struct.pack(">HBBI", 0, 13, 1, 60) + bytes(240)),
    "a type of no number": lambda raw: (raw / IDX[1]).write_bytes(struct.pack(">HBBI", 0, 10, 1, 60) + bytes(240)),
    "a header that lies": lambda raw: (raw / IDX[0]).write_bytes(
        struct.pack(">HBB3I", 0, 8, 3, 2**31, 28, 28) + bytes(99)
    ),
    "a pipe": lambda raw: pipe(raw / IDX[0]),
    "a pickle": lambda raw: processed(raw, lambda trace: pickle.dumps(Evil(trace), protocol=2)),
}


@pytest.mark.parametrize("name", MNIST)
def test_mnist(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path)
    MNIST[name](tmp_path / "MNIST" / "raw")
    line = refusal(lambda: sources.torchvision_images("MNIST", str(tmp_path), (1, 28, 28)))
    assert line.startswith(f"data.root={tmp_path}: holds no readable MNIST (")
    assert not list(tmp_path.rglob("trace"))


def parquet(file: Path, **columns: Any) -> None:
    pd.DataFrame(columns).to_parquet(file)


REVIEWS: dict[str, tuple[Change, str]] = {  # what becomes of the test split
    "labels of no class": (lambda file: parquet(file, text=["a"], label=[7]), "0 or 1 in column label"),
    "no label": (lambda file: parquet(file, text=["a", "b"], label=[None, 1]), "0 or 1 in column label"),
    "no text": (lambda file: parquet(file, text=[None, "b"], label=[0, 1]), "texts in column text"),
    "no rows": (lambda file: parquet(file, text=pd.Series([], dtype=str), label=pd.Series([], dtype=int)), "got 0"),
    "another column": (lambda file: parquet(file, txt=["a"], label=[1]), "column"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-20]), "Parquet magic bytes not found"),
    "a pipe": (pipe, "Unable to find"),
}


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two splits; what datasets makes of it goes to a cache of this test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("fl_bench.tasks.imdb.use_cache_when_offline", lambda: None)
    root = tmp_path / "reviews"
    root.mkdir()
    for split in ("train", "test"):
        parquet(root / f"{split}.parquet", text=TEXTS, label=[1, 0, 0, 1] * 10)
    return root


def load(root: Path | None, dataset: str | None = None) -> Any:
    return Imdb(None, 16).load_full(Path(), None if root is None else str(root), dataset)


@pytest.mark.parametrize("name", REVIEWS)
def test_reviews(reviews: Path, name: str) -> None:
    change, why = REVIEWS[name]
    change(reviews / "test.parquet")
    line = refusal(lambda: load(reviews))
    assert line.startswith(f"data.root={reviews}: holds no readable stanfordnlp/imdb (")
    assert why in line


def test_code_and_pickles_beside_the_data_are_not_run(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trace = tmp_path / "pandas", tmp_path / "trace"
    folder.mkdir()
    (folder / "pandas.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    assert "scripts are no longer supported" in refusal(lambda: load(folder))
    (folder / "pandas.py").unlink()
    for place in (folder, tmp_path):
        for split in ("train", "test"):
            (place / f"{split}.pkl").write_bytes(pickle.dumps(Evil(trace)))
    monkeypatch.chdir(tmp_path)
    refusal(lambda: load(Path("pandas")))  # a format of datasets has this name, and reads pickles in this folder
    assert refusal(lambda: load(None, "pandas")).startswith("data.dataset=pandas: must be owner/name")
    assert not trace.exists()


# Models


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
    "other shapes": (lambda folder: edit(folder, hidden_size=10**6), "the weights have other shapes"),
    "a hole": (lambda folder: edit(folder, num_hidden_groups=3), "has no weights for albert.encoder"),
    "code": (lambda folder: with_code(folder, model_type="evil"), "contains custom code"),
    "no tokenizer": (remove_tokenizer, "its tokenizer knows no word of the data"),
    "of another task": (lambda folder: swap(folder, TINY), "cannot be loaded"),
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer and weights that fit."""
    monkeypatch.setattr("fl_bench.tasks.imdb.use_cache_when_offline", lambda: None)
    torch.manual_seed(0)
    _make_tiny(tmp_path / "model", TEXTS)
    (tmp_path / "scratch").mkdir()
    return tmp_path / "model"


def tokenized(model: Path) -> Any:
    split = (TEXTS, [1, 0, 0, 1] * 10)
    return Imdb(None, 16)._tokenized(model.parent / "scratch", split, split, str(model))


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


# Traces and sizes


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "not a file"),
        (os.mkdir, "not a file"),
        (lambda file: file.symlink_to("/dev/zero"), "not a file"),
        (lambda file: file.write_bytes(b"\x80\x81"), "can't decode byte 0x80"),
        (lambda file: file.write_bytes(b"client\0\n0\0\n"), "has no column client"),
    ],
)
def test_traces(tmp_path: Path, make: Change, why: str) -> None:
    file = tmp_path / "traces.csv"
    make(file)
    line = refusal(lambda: devices.read(file, 2))
    assert line.startswith(f"network.traces={file}: ")
    assert why in line


@pytest.mark.parametrize("count", [10**12, 10**400])
def test_more_samples_than_the_disk_has_room_for(tmp_path: Path, count: int) -> None:
    line = refusal(lambda: sources.synthetic(tmp_path, count, (1, 28, 28)))
    assert line.startswith(f"data.num_samples={count}: needs ")
    assert line.endswith(f" free in {tmp_path}; TMPDIR=FOLDER chooses another folder")


def test_more_samples_than_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**18, 0, 10**18))
    line = refusal(lambda: sources.synthetic(tmp_path, 10**12, (1, 28, 28)))
    assert line.startswith("data.num_samples=1000000000000: needs ")
    assert line.endswith(" of memory")
