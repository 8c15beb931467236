"""Data and models that are not what they should be: each is one line; none of them runs, hangs or fills anything."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import compose
from PIL import Image

from fl_bench.build import build
from fl_bench.data import sources
from fl_bench.errors import ConfigError
from fl_bench.network.devices import read
from fl_bench.runs.experiment import prepare
from fl_bench.tasks.base import Task

SMALL = ("num_clients=2", "local.steps=1")


def bomb(file: Path) -> None:
    """A PNG of a few kilobytes that says it is 30,000 pixels wide and high."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


IMAGES: dict[str, Callable[[Path], object]] = {
    "bomb.png": bomb,
    "text.png": lambda file: file.write_text("no image"),
    "empty.png": lambda file: file.touch(),
    "cut.png": lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_is_none_is_one_line(tmp_path: Path, name: str) -> None:
    IMAGES[name](tmp_path / name)
    with pytest.raises(ConfigError, match=rf"data.root=.*{name} is not a readable image") as error:
        sources.image_folder(str(tmp_path), 16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["1", "L", "CMYK", "I;16", "RGBA", "P"])
def test_images_of_every_mode_are_read(tmp_path: Path, kind: str) -> None:
    for number in range(4):
        Image.new(kind, (1, 1)).save(tmp_path / f"{number}{'.jpg' if kind == 'CMYK' else '.png'}")
    assert sources.image_folder(str(tmp_path), 16).train["x"].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("samples", ["1000000000000", "9223372036854775807"])
def test_more_samples_than_there_is_room_for_are_refused_at_once(tmp_path: Path, samples: str) -> None:
    cfg = compose(*SMALL, "data=synthetic", f"data.num_samples={samples}")
    with pytest.raises(ConfigError, match=rf"data.num_samples={samples}: needs .* GB, and there are"):
        prepare(cfg, build(cfg.task, Task), tmp_path)


def weights(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def code(folder: Path) -> None:
    """A model whose config names code beside it."""
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    names = {"AutoModelForSequenceClassification": "evil.Evil", "AutoTokenizer": "evil.Evil", "AutoConfig": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": names}))


MODELS: dict[str, Callable[[Path], object]] = {
    "an empty folder": lambda folder: None,
    "a list": lambda folder: (folder / "config.json").write_text("[]"),
    "no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "pickled weights": weights,
    "code beside it": code,
    "no safetensors": lambda folder: (folder / "model.safetensors").write_text("no"),
}


@pytest.mark.parametrize("task", ["imdb", "sam"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_is_none_is_one_line_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, kind: str
) -> None:
    """Beside what is wrong there is what a whole model has."""
    model, scratch = tmp_path / "model", tmp_path / "scratch"
    model.mkdir()
    scratch.mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if kind in ("pickled weights", "no safetensors"):
        whole = tmp_path / "whole"
        whole.mkdir()
        cfg = compose(f"task={task}", *SMALL)
        prepare(cfg, build(cfg.task, Task), whole)
        for file in (whole / "pretrained").iterdir():
            if not file.name.endswith(".safetensors"):
                (model / file.name).write_bytes(file.read_bytes())
    MODELS[kind](model)
    cfg = compose(f"task={task}", *SMALL, f"model.path={model}")
    with pytest.raises(ConfigError, match=rf"model.path={model}: cannot be loaded") as error:
        prepare(cfg, build(cfg.task, Task), scratch)
    assert "\n" not in str(error.value)
    assert not (model / "ran").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_traces_that_are_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "traces.csv")
    with pytest.raises(ConfigError, match=r"network.traces=.*: is no file"):
        read(tmp_path / "traces.csv", 2)
