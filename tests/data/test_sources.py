"""The real data in the wheels, generated data, and the loaders of data=full on small files in the real formats."""

import hashlib
import inspect
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import Launch

from fl_bench.data import sources
from fl_bench.data.arrays import FederatedData
from fl_bench.errors import ConfigError


def test_the_digits_are_split_by_class() -> None:
    data = sources.digits()
    assert data.train["x"].shape == (4000, 1, 28, 28)
    assert data.train["x"].dtype == np.uint8
    assert np.bincount(data.train["y"]).tolist() == [400] * 10
    assert np.bincount(data.test["y"]).tolist() == [100] * 10
    # a one is a thin stroke, a zero a wide ring
    means = [data.train["x"][data.train["y"] == digit].mean() for digit in (0, 1)]
    assert means[0] > 2 * means[1]


def test_composites_are_the_difference_of_photo_and_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "photo", lambda name: np.full((40, 50, 3), 100, dtype=np.int16))
    data, plain = sources.digits_on_photos(copies=2), sources.digits()
    assert (data.train["x"].shape, data.test["x"].shape) == ((8000, 3, 32, 32), (1000, 3, 32, 32))
    assert (data.train["y"][::2] == plain.train["y"]).all()
    glyph = np.zeros((32, 32), dtype=int)
    glyph[2:30, 2:30] = plain.train["x"][7, 0]
    for channel in data.train["x"][15]:  # the second copy of digit 7
        assert (channel == np.abs(100 - glyph)).all()


def test_composites_are_the_same_every_time_and_show_the_photos() -> None:
    first, second = sources.digits_on_photos(copies=1), sources.digits_on_photos(copies=1)
    assert (first.train["x"] == second.train["x"]).all()
    corners = first.train["x"][:, :, 0, 0]  # no ink there
    assert len(np.unique(corners, axis=0)) > 1000


def test_synthetic_images_are_learnable_and_as_many_as_asked_for(tmp_path: Path) -> None:
    data = sources.synthetic(tmp_path, 5000, (1, 8, 8))
    assert (data.num_samples, len(data.test["y"])) == (5000, 500)
    centres = np.stack([data.train["x"][data.train["y"] == k].mean(axis=0) for k in range(10)])
    distances = ((data.test["x"][:, None] - centres[None]) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == data.test["y"]).mean() > 0.9


def test_arrays_come_back_memory_mapped(tmp_path: Path) -> None:
    sources.synthetic(tmp_path, 50, (1, 8, 8)).save(tmp_path)
    opened = FederatedData.open(tmp_path)
    assert isinstance(opened.train["x"].base, np.memmap)
    assert not opened.train["x"].flags.writeable
    assert opened.classes == tuple(f"template {k}" for k in range(10))
    assert opened.num_samples == 50


def write_idx(file: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST", prefix: str = "", num_classes: int = 10) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("t10k" if name != "EMNIST" else "test", 20)):
        images, labels = rng.integers(256, size=(count, 28, 28)), np.arange(count) % num_classes
        write_idx(root / name / "raw" / f"{prefix}{split}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{prefix}{split}-labels-idx1-ubyte", labels)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_the_mnist_family_is_read_from_a_folder(launch: Launch, tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path, name)
    data = sources.torchvision_images(name, str(tmp_path), (1, 28, 28))
    assert (data.train["x"].shape, data.test["x"].shape) == ((60, 1, 28, 28), (20, 1, 28, 28))
    assert data.train["y"][:11].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    launch("data=full", f"data.root={tmp_path}", f"data.dataset={name}", "num_rounds=1")


def test_sets_whose_halves_are_named_and_whose_images_come_with_channels_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    class Svhn:
        def __init__(self, root: str, split: str, download: bool) -> None:
            assert (root, download) == (str(tmp_path), False)
            count = {"train": 30, "test": 10}[split]
            self.data = np.full((count, 3, 32, 32), count, np.uint8)
            self.labels = np.arange(count) % 10

    monkeypatch.setattr(torchvision.datasets, "SVHN", Svhn)
    data = sources.torchvision_images("SVHN", str(tmp_path))
    assert (data.train["x"].shape, data.test["x"].shape) == ((30, 3, 32, 32), (10, 3, 32, 32))
    assert (data.train["x"].max(), data.test["y"].tolist()) == (30, list(range(10)))
    assert data.classes == tuple("0123456789")


def test_the_data_sets_of_the_table_are_torchvisions_and_take_what_it_says() -> None:
    import torchvision.datasets

    for name, (which, *_) in sources.SETS.items():
        taken = inspect.signature(getattr(torchvision.datasets, name)).parameters
        assert {"root", which, "download"} <= {*taken, *({"train", "root", "download"} if "kwargs" in taken else {})}
    assert (*torchvision.datasets.EMNIST.splits,) == tuple(sources.EMNIST)


def test_the_task_images_reads_them_by_name(launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mnist(tmp_path, "EMNIST", "emnist-letters-", 27)
    words = ("task=images", "data=torchvision", f"data.root={tmp_path}", "num_rounds=1", "local.steps=1")
    launch(*words, "data.dataset=EMNIST", "data.split=letters", "model=lenet5", "num_clients=3")
    for given, line in [
        ("data.dataset=MNISTS", "data.dataset=MNISTS: did you mean MNIST?"),
        ("data.split=letters", "data.split=letters: must be null, or with EMNIST one of byclass, bymerge, "),
        ("data.dataset=STL10", f"data.root={tmp_path}: holds no readable STL10 ("),
    ]:
        capsys.readouterr()
        launch(*words, given, exit_code=2)
        assert f"fl-bench: {line}" in capsys.readouterr().err


def test_emnist_has_47_classes_and_upright_letters(tmp_path: Path) -> None:
    write_mnist(tmp_path, "EMNIST", "emnist-balanced-", 47)
    data = sources.torchvision_images("EMNIST", str(tmp_path), (1, 28, 28))
    assert len(data.classes) == 47
    raw = np.random.default_rng(0).integers(256, size=(60, 28, 28))
    assert (data.train["x"][0, 0] == raw[0].T).all()


def test_cifar10_is_read_from_a_folder(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    lists: dict[str, list[list[str]]] = {"train": [], "test": []}
    for split, names in (("train", [f"data_batch_{k}" for k in range(1, 6)]), ("test", ["test_batch"])):
        for name in names:
            batch = {"data": rng.integers(256, size=(20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}
            (folder / name).write_bytes(pickle.dumps(batch))
            lists[split].append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    real = torchvision.datasets.CIFAR10
    meta = real.meta | {"md5": hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()}
    monkeypatch.setattr(real, "train_list", lists["train"])
    monkeypatch.setattr(real, "test_list", lists["test"])
    monkeypatch.setattr(real, "meta", meta)
    data = sources.torchvision_images("CIFAR10", str(tmp_path), (3, 32, 32))
    assert (data.train["x"].shape, data.classes[3]) == ((100, 3, 32, 32), "class 3")
    launch("task=cifar", "data=full", f"data.root={tmp_path}", "num_rounds=1")


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "labels"])
def test_a_folder_without_readable_data_is_one_line(tmp_path: Path, damage: str) -> None:
    write_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    if damage == "missing":
        images.unlink()
    elif damage == "empty":
        images.write_bytes(b"")
    elif damage == "truncated":
        images.write_bytes(images.read_bytes()[:-100])
    else:
        write_idx(labels, np.zeros(59))
    with pytest.raises(ConfigError) as error:
        sources.torchvision_images("MNIST", str(tmp_path), (1, 28, 28))
    line = str(error.value)
    assert f"data.root={tmp_path}" in line
    assert "data=embedded" in line
    assert "\n" not in line
