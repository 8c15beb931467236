"""Images of one's own, in folders, and what is wrong with them in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Launch, table
from hostile import Change, refusal
from PIL import Image

from fl_bench.data.labelled import image_folders


def paint(file: Path, value: int, mode: str = "L", size: tuple[int, int] = (8, 8)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(file)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """20 grey images of cats, of the values 0 to 19, and 20 of dogs, of the values 100 to 119."""
    for number in range(20):
        paint(tmp_path / "animals" / "cat" / f"{number:02}.png", number)
        paint(tmp_path / "animals" / "dog" / "deeper" / f"{number:02}.png", 100 + number)
    return tmp_path / "animals"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_a_folder_is_a_class_and_every_tenth_image_a_test(
    animals: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_folders(scratch, str(animals), client=False, size=None)
    assert (data.classes, data.train["x"].shape, data.test["x"].shape) == (("cat", "dog"), (36, 1, 8, 8), (4, 1, 8, 8))
    assert np.bincount(data.test["y"]).tolist() == [2, 2]
    for columns in (data.train, data.test):
        assert ((columns["x"][:, 0, 0, 0] >= 100) == columns["y"]).all()
    both = np.concatenate([data.train["x"], data.test["x"]])[:, 0, 3, 3]
    assert sorted(both.tolist()) == [*range(20), *range(100, 120)]
    assert f"data.root={animals}: has no test set of its own: every tenth row is taken" in capsys.readouterr().err


def test_a_folder_test_is_the_test_set(tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for half, value in (("train", 10), ("test", 20), ("validation", 30)):
        for kind in ("a", "b"):
            paint(tmp_path / half / kind / "1.PNG", value)
    data = image_folders(scratch, str(tmp_path), client=False, size=None)
    assert (np.unique(data.train["x"]).tolist(), np.unique(data.test["x"]).tolist()) == ([10], [20])
    assert capsys.readouterr().err == ""


def test_a_class_may_be_called_train(tmp_path: Path, scratch: Path) -> None:
    for number in range(10):
        paint(tmp_path / "train" / f"{number}.png", 1)
        paint(tmp_path / "bus" / f"{number}.png", 2)
    assert image_folders(scratch, str(tmp_path), client=False, size=None).classes == ("bus", "train")


def test_a_folder_above_says_whose_an_image_is(tmp_path: Path, scratch: Path) -> None:
    for person, count in (("zoe", 10), ("adam", 20)):
        for number in range(count):
            paint(tmp_path / person / "ab"[number % 2] / f"{number}.png", number)
    data = image_folders(scratch, str(tmp_path), client=True, size=None)
    assert (data.classes, data.sources) == (("a", "b"), ("adam", "zoe"))
    assert np.bincount(data.train["source"]).tolist() == [18, 9]


def test_clients_are_not_taken_for_classes(tmp_path: Path, scratch: Path) -> None:
    for person in ("zoe", "adam"):
        for number in range(20):
            paint(tmp_path / "people" / person / "ab"[number % 2] / f"{number}.png", number)
    said = refusal(lambda: image_folders(scratch, str(tmp_path / "people"), client=False, size=None))
    wish = "data.client=folder if adam is a client; if it is a class, put its images into one folder"
    assert said == f"data.root={tmp_path}/people: its folders hold equal ones, such as adam/a and zoe/a; add {wish}"
    for kind in ("cat", "dog"):  # as Tiny ImageNet has it
        for number in range(10):
            paint(tmp_path / "pets" / kind / "images" / f"{number}.png", number)
    assert image_folders(scratch, str(tmp_path / "pets"), client=False, size=None).classes == ("cat", "dog")


def test_a_folder_without_an_image_is_no_class_and_that_is_said(
    animals: Path, scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (animals / "eel").mkdir()
    assert image_folders(scratch, str(animals), client=False, size=None).classes == ("cat", "dog")
    assert f"note: data.root={animals}: no image is in a folder eel, so that it is no class" in capsys.readouterr().err
    for person in ("zoe", "adam"):
        for number in range(20):
            paint(tmp_path / "people" / person / "ab"[number % 2] / f"{number}.png", number)
    (tmp_path / "people" / "zoe" / "c").mkdir()
    (tmp_path / "people" / "eve" / "a").mkdir(parents=True)
    data = image_folders(scratch, str(tmp_path / "people"), client=True, size=None)
    assert (data.classes, data.sources) == (("a", "b"), ("adam", "zoe"))
    said = capsys.readouterr().err
    assert "no image is in a folder c, so that it is no class" in said
    assert "no image is in a folder eve, so that it is no client" in said


def test_one_image_of_colour_makes_all_of_three_channels(animals: Path, scratch: Path) -> None:
    paint(animals / "cat" / "20.png", 7, "RGB")
    data = image_folders(scratch, str(animals), client=False, size=None)
    whole = np.concatenate([data.train["x"], data.test["x"]])[:, :, 0, 0]
    assert whole.shape == (41, 3)
    assert [7, 0, 255] in whole.tolist()
    assert [119, 119, 119] in whole.tolist()


def test_sizes_are_made_one_by_a_cut_in_the_middle(animals: Path, scratch: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(animals / "cat" / "20.png")
    data = image_folders(scratch, str(animals), client=False, size=4)
    whole = np.concatenate([data.train["x"], data.test["x"]])
    assert whole.shape == (41, 1, 4, 4)
    assert (whole[:, 0] == 200).all(axis=(1, 2)).sum() == 1  # nothing of its sides is left


def cut_off(file: Path) -> None:
    paint(file, 1)
    file.write_bytes(file.read_bytes()[:-30])


BAD: dict[str, tuple[Change, str]] = {
    "another size": (
        lambda file: paint(file, 1, size=(9, 7)),
        "cat/x.png is 9x7 and cat/00.png is 8x8; give data.size=N, to which all are cut and resized",
    ),
    "no image": (lambda file: file.write_text("text"), "cat/x.png is not a readable image (cannot identify"),
    "cut off": (cut_off, "cat/x.png is not a readable"),
    "16 bits": (
        lambda file: Image.fromarray(np.zeros((8, 8), np.uint16)).save(file),
        "cat/x.png has more than 8 bits a pixel",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_an_image_is_one_line_that_names_it(animals: Path, scratch: Path, name: str) -> None:
    change, line = BAD[name]
    change(animals / "cat" / "x.png")
    said = refusal(lambda: image_folders(scratch, str(animals), client=False, size=None))
    assert said.startswith(f"data.root={animals}: {line}")


def test_folders_without_images(tmp_path: Path, animals: Path, scratch: Path) -> None:
    def said(root: Path, client: bool = False) -> str:
        return refusal(lambda: image_folders(scratch, str(root), client, size=None))

    nowhere = tmp_path / "nowhere"
    assert said(nowhere) == f"data.root={nowhere}: has no images in folders CLASS, nor in train/CLASS"
    assert said(animals / "cat", True).endswith("has no images in folders CLIENT/CLASS, nor in train/CLIENT/CLASS")
    (tmp_path / "few").mkdir()
    paint(tmp_path / "few" / "a" / "1.png", 1)
    assert (
        said(tmp_path / "few")
        == f"data.root={tmp_path / 'few'}: has 1 rows; some must be left to train, and some to test"
    )
    paint(tmp_path / "both" / "train" / "cat" / "1.png", 1)
    paint(tmp_path / "both" / "test" / "cats" / "1.png", 1)
    assert said(tmp_path / "both").endswith("only the test set has the class cats; give more rows")


def test_the_task_images_reads_them(launch: Launch, refused: Callable[..., str], tmp_path: Path) -> None:
    for person in ("adam", "zoe"):
        for number in range(20):
            paint(tmp_path / "mine" / person / "ab"[number % 2] / f"{number}.png", 100 * (number % 2), size=(28, 28))
    words = ("task=images", "data=folder", f"data.root={tmp_path / 'mine'}", "model=lenet5", "partition=natural")
    few = ("num_clients=2", "num_rounds=1", "local.steps=1", "data.client=folder")
    rows = table(launch(*words, *few), "sources")
    assert [(row["client"], row["source"], row["samples"]) for row in rows] == [("0", "adam", "18"), ("1", "zoe", "18")]
    assert "data.client=person: should be 'folder'" in refused(*words, "data.client=person")
    assert "data.size=0: must be 1 or more, or null" in refused(*words, *few, "data.size=0")


def test_one_class_alone_is_refused(animals: Path, refused: Callable[..., str]) -> None:
    shutil.rmtree(animals / "dog")
    said = refused("task=images", "model=logistic", "data=folder", f"data.root={animals}", "num_clients=2")
    assert "fl-bench: data: has the class cat only; two or more can be told apart\n" in said
