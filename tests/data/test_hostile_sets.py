"""Data sets, traces and sizes that are damaged, too large or made to do harm: one line, and nothing runs."""

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hostile import TEXTS, Change, Evil, refusal
from test_sources import write_idx, write_mnist

from fl_bench.data import sources
from fl_bench.network import devices
from fl_bench.tasks.imdb import Imdb

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
