"""Images and masks that are damaged, too large or made to do harm: one line, exit code 2, and nothing runs."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import Launch
from hostile import Change, refusal
from PIL import Image

from fl_bench.data import shapes, sources
from fl_bench.tasks.sam import TINY, Sam


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
