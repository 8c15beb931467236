from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_bench.data import shapes
from fl_bench.data.masks import Meaning, find_objects, sources
from fl_bench.errors import ConfigError
from fl_bench.tasks.sam import TINY, Sam

TWO = np.zeros((20, 30), dtype=np.uint8)  # two lesions, 5 x 8 and 6 x 10
TWO[2:7, 3:11] = TWO[10:16, 15:25] = 255
BOXES = [[3, 2, 10, 6], [15, 10, 24, 15]]


def soft(mask: np.ndarray) -> np.ndarray:
    """The mask at four times its size, shrunk again to two and a half: its edges are grey."""
    height, width = mask.shape
    large = Image.fromarray(mask.repeat(4, axis=0).repeat(4, axis=1))
    return np.asarray(large.resize((width * 5 // 2, height * 5 // 2), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("meaning", ["auto", "components"])
def test_two_lesions_of_one_value_are_two_objects(value: int, meaning: Meaning) -> None:
    found = find_objects(TWO // 255 * value, meaning, 1)
    assert (found.boxes, found.greys, found.small) == (BOXES, False, 0)
    assert np.bincount(found.numbers.ravel()).tolist() == [500, 40, 60]


def test_a_value_is_an_object_where_one_asks_for_values() -> None:
    assert find_objects(TWO, "values", 1).boxes == [[3, 2, 24, 15]]
    assert find_objects(TWO > 0, "auto", 1).boxes == BOXES  # a mask of bits


def test_whole_numbers_from_1_stay_objects_however_thin() -> None:
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[0], mask[2], mask[4, :3] = 1, 2, 3
    assert find_objects(mask, "auto", 1).boxes == [[0, 0, 7, 0], [0, 2, 7, 2], [0, 4, 2, 4]]
    # without the 1 they are taken for soft edges: 3 is the greatest, and 2 is above half of it
    mask[mask == 1] = 0
    assert find_objects(mask, "auto", 1).boxes == [[0, 2, 7, 2], [0, 4, 2, 4]]


def test_values_of_areas_stay_objects_though_they_touch() -> None:
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:4, :4], mask[:4, 4:] = 60, 240
    found = find_objects(mask, "auto", 1)
    assert (found.boxes, found.greys) == ([[0, 0, 3, 3], [4, 0, 7, 3]], False)


def test_soft_edges_are_cut_at_half() -> None:
    row = np.array([0, 60, 130, 255, 255, 255, 255, 200, 126, 10], dtype=np.uint8)
    mask = np.minimum.outer(row, row)
    found = find_objects(mask, "auto", 1)  # above 127: from 130 to 200
    assert (found.boxes, found.greys) == ([[2, 2, 7, 7]], True)
    assert int(found.numbers.sum()) == 36


def test_an_antialiased_mask_and_a_jpeg_have_the_objects_of_the_sharp_one(tmp_path: Path) -> None:
    mask = soft(TWO)
    assert len(np.unique(mask)) > 5
    found = find_objects(mask, "auto", 1)
    assert np.abs(np.array(found.boxes) - 2.5 * np.array(BOXES)).max() <= 2
    Image.fromarray(TWO).save(tmp_path / "mask.jpg", quality=70)
    mask = np.asarray(Image.open(tmp_path / "mask.jpg"))
    assert len(np.unique(mask)) > 5
    assert find_objects(mask, "auto", 9).boxes == BOXES


def test_small_objects_are_left_out_and_the_others_numbered_anew() -> None:
    found = find_objects(TWO, "auto", 41)
    assert (found.boxes, found.small) == (BOXES[1:], 1)
    assert np.bincount(found.numbers.ravel()).tolist() == [540, 60]
    assert find_objects(TWO, "auto", 100).boxes == []


def test_an_empty_mask_has_none() -> None:
    for meaning in ("auto", "values", "components"):
        found = find_objects(np.zeros((1, 2), dtype=np.uint8), meaning, 1)
        assert (found.boxes, found.numbers.tolist(), found.small) == ([], [[0, 0]], 0)


def write(root: Path, name: str, mask: np.ndarray = TWO) -> None:
    for part, array in (("images", np.zeros((*mask.shape, 3), dtype=np.uint8)), ("masks", mask)):
        file = root / part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)


def test_the_notes_say_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path, name, soft(TWO))
    assert [len(scene.boxes) for scene in shapes.from_folder(str(tmp_path), min_area=300)] == [1, 1]
    lines = capsys.readouterr().err.splitlines()
    start = f"fl-bench: note: data.root={tmp_path}: 2"
    assert lines == [
        f"{start} masks have soft edges, and are cut at half; or say task.objects=values",
        f"{start} objects of fewer than task.min_area=300 pixels are left out",
    ]


def test_folders_are_sources(tmp_path: Path) -> None:
    for name in ("south/1.png", "north/1.png", "north/old/2.png"):
        write(tmp_path, name)
    assert [scene.source for scene in shapes.from_folder(str(tmp_path))] == [0, 0, 1]  # north, north, south


def test_a_table_of_sources_goes_before_folders(tmp_path: Path) -> None:
    (tmp_path / "sources.csv").write_text("source,file\nzurich,a/1.png\nbern,a/2.png\nzurich,3.png\nbern,gone.png\n")
    assert sources(str(tmp_path), [Path("3.png"), Path("a/1.png"), Path("a/2.png")]) == [1, 1, 0]


def test_without_folders_and_table_there_are_none(tmp_path: Path) -> None:
    assert sources(str(tmp_path), [Path("1.png"), Path("2.png")]) == [None, None]


@pytest.mark.parametrize(
    ("table", "files", "why"),
    [
        (None, ["1.png", "a/2.png"], "a folder in images/ gives no source of 1.png, but of other images"),
        ("file,source\n1.png,a\n", ["1.png", "2.png"], "sources.csv gives no source of 2.png"),
        ("file,source\n1.png\n", ["1.png"], "sources.csv gives no source of 1.png"),
        ("file,hospital\n", ["1.png"], "sources.csv: cannot be read: must have the columns file and source"),
        ("", ["1.png"], "sources.csv: cannot be read: must have the columns file and source"),
        (b"file,source\n\xff,\n", ["1.png"], "sources.csv: cannot be read: 'utf-8' codec"),
        (b"file,source\n" + b"x" * 200_000, ["1.png"], "sources.csv: cannot be read: field larger"),
    ],
)
def test_sources_that_cannot_be_are_one_line(
    tmp_path: Path, table: str | bytes | None, files: list[str], why: str
) -> None:
    if table is not None:
        (tmp_path / "sources.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    with pytest.raises(ConfigError) as error:
        sources(str(tmp_path), [Path(file) for file in files])
    assert str(error.value).startswith(f"data.root={tmp_path}: {why}")
    assert "\n" not in str(error.value)


def load(root: Path, folder: Path) -> tuple[list[int], list[int]]:
    """The sources of the rows to train and to test."""
    folder.mkdir()
    data = Sam(str(TINY), "all").load_full(folder, str(root), None)
    assert list(data.train) == list(data.test)
    return data.train["source"].tolist(), data.test["source"].tolist()


def test_the_test_set_is_a_source_of_its_own(tmp_path: Path) -> None:
    for source in "abc":
        for number in range(2):
            write(tmp_path / "root", f"{source}/{number}.png")
    train, test = load(tmp_path / "root", tmp_path / "data")
    assert (len(train), len(test)) == (8, 4)  # two objects in each image
    assert len(set(test)) == 1
    assert set(train) == {0, 1, 2} - set(test)


def test_one_source_cannot_be_split(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "root", f"a/{number}.png")
    with pytest.raises(ConfigError, match="in at least two images, of two sources"):
        load(tmp_path / "root", tmp_path / "data")


def test_images_of_no_source_have_no_such_column(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, f"{number}.png")
    (tmp_path / "data").mkdir()
    data = Sam(str(TINY), "all").load_full(tmp_path / "data", str(tmp_path), None)
    assert list(data.train) == list(data.test) == ["pixels", "box", "mask", "y"]
