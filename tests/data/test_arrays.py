import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import environment, long

from fl_bench.data.arrays import FederatedData, Lookup, Ragged, new_column


def test_ragged_rows_are_padded_to_the_longest_asked_for() -> None:
    ragged = Ragged.of([[1, 2, 3], [4], [], [5, 6]])
    assert len(ragged) == 4
    assert ragged[np.array([1, 3])].tolist() == [[4, -1], [5, 6]]
    assert ragged[np.array([0, 2])].tolist() == [[1, 2, 3], [-1, -1, -1]]


def test_lookups_share_values() -> None:
    lookup = Lookup(np.array([[1.0], [2.0]]), np.array([0, 0, 1]))
    assert len(lookup) == 3
    assert lookup[np.array([2, 1])].tolist() == [[2], [1]]


def test_every_kind_of_column_comes_back_memory_mapped(tmp_path: Path) -> None:
    big = new_column(tmp_path, "train", "big", (3,), np.uint8)
    big[:] = [7, 8, 9]
    table = new_column(tmp_path, "train", "image", (2, 1), np.float32, part="table")
    table[:] = [[1], [2]]
    train = {
        "y": np.arange(3),
        "tokens": Ragged.of([[1], [2, 3], []]),
        "image": Lookup(table, np.array([1, 0, 1])),
        "big": big,
    }
    FederatedData(train, {"y": np.arange(2)}, ("a",)).save(tmp_path)
    opened = FederatedData.open(tmp_path)
    assert set(opened.train) == set(train)
    rows = np.array([1, 2])
    assert opened.train["tokens"][rows].tolist() == [[2, 3], [-1, -1]]
    assert opened.train["image"][rows].tolist() == [[1], [2]]
    assert opened.train["big"][rows].tolist() == [8, 9]
    assert isinstance(opened.train["image"].table.base, np.memmap)
    assert (opened.num_samples, opened.classes, opened.folder) == (3, ("a",), tmp_path)


def test_what_was_copied_from_a_file_is_written_and_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    kept, folder = tmp_path / "kept", tmp_path / "run"
    for place in (kept, folder):
        place.mkdir()
    column = new_column(kept, "train", "y", (3,), np.int64)
    column[:] = [1, 2, 3]
    FederatedData({"y": column}, {"y": np.zeros(1)}, ("a",)).save(kept)
    for file in kept.iterdir():
        (folder / file.name).symlink_to(file)
    changed = column.copy()  # still of the type np.memmap, with no file
    changed[:] = [4, 5, 6]
    FederatedData({"y": changed}, {"y": np.ones(1)}, ("b",)).save(folder)
    opened = [FederatedData.open(place) for place in (kept, folder)]
    assert [(data.train["y"].tolist(), data.classes) for data in opened] == [([1, 2, 3], ("a",)), ([4, 5, 6], ("b",))]


FULL_DISK = """
from pathlib import Path
import numpy as np, torch
from fl_bench.data.arrays import FederatedData, new_column
from fl_bench.data.partition import Partition
from fl_bench.data.texts import Texts
from fl_bench.tasks.dcgan import Dcgan
from fl_bench.tasks.imdb import Imdb

folder, many = Path("small"), np.zeros(10**5, dtype=np.int64)
images = {"x": np.zeros((9, 1, 16, 16), np.uint8), "y": np.zeros(9, np.int64)}
texts = Texts(["a word"] * 9, np.zeros(9, np.int64), ("a", "b"), np.arange(9) > 7)
writers = {
    "a column": lambda: FederatedData({"y": many}, {"y": many}, ("a",)).save(folder),
    "a column in pieces": lambda: new_column(folder, "train", "big", many.shape, many.dtype),
    "the partition": lambda: Partition(many, many, many).save(folder),
    "the judge": lambda: Dcgan(16, 1, 1, "both")._judged(folder, FederatedData(images, images, ("a",)), 16),
    "the tokenizer": lambda: Imdb(None, 16)._tokenized(folder, texts, None),
}
(folder / "filling").write_bytes(bytes(60_000))
for name, write in writers.items():
    try:
        write()
    except OSError as error:
        print(name, error.filename, error.strerror, sep=": ")
print(sorted(writers))
"""


@long
def test_a_full_temporary_folder_is_named(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    script = f'mkdir small && mount -t tmpfs -o size=64k none small && "{sys.executable}" -'
    command = ["unshare", "-rm", "bash", "-c", script]
    result = subprocess.run(
        command, input=FULL_DISK, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    *lines, names = result.stdout.splitlines()
    assert str(sorted(line.split(": ")[0] for line in lines)) == names, result.stdout + result.stderr
    assert {line.split(": ", 1)[1] for line in lines} == {"small: No space left on device"}
