"""What a mask that somebody else has drawn says: which pixels are which object; and which source an image is from."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.errors import ConfigError

Meaning = Literal["auto", "values", "components"]
SOURCES = "sources.csv"


class Objects(NamedTuple):
    """The objects of one mask."""

    numbers: NDArray[np.int64]  # [height, width]: the number of the object at each pixel, from 1; 0 is background
    boxes: list[list[float]]  # left, top, right, bottom of each, in pixels, inclusive
    greys: bool  # whether grey values were cut at half
    small: int  # how many were left out


def find_objects(mask: NDArray, meaning: Meaning, min_area: int) -> Objects:
    """The objects in `mask`, whole numbers [height, width], but for those of fewer than `min_area` pixels.

    "values": each value but 0 is an object. "components": what is above half of the greatest value is foreground, and
    each connected part of it an object, pixels that touch at a corner included. "auto": components where there is one
    value besides 0, or where most values nowhere fill 3 x 3 pixels, as those that anti-aliasing and JPEG leave at
    edges; otherwise, and where the values are 1, 2, ... k, each value.
    """
    from skimage.measure import label, regionprops

    mask = mask.astype(np.int64)
    values = np.unique(mask[mask != 0])
    greys = False
    if meaning == "components" or (meaning == "auto" and (len(values) == 1 or _has_soft_edges(mask, values))):
        greys = len(values) > 1
        numbers = label(mask > mask.max() // 2)
    else:
        numbers = np.where(mask == 0, 0, np.searchsorted(values, mask) + 1)
    large = np.bincount(numbers.ravel())[1:] >= min_area
    numbers = np.concatenate([[0], np.where(large, large.cumsum(), 0)])[numbers]
    corners = (found.bbox for found in regionprops(numbers))
    boxes = [[float(side) for side in (left, top, right - 1, bottom - 1)] for top, left, bottom, right in corners]
    return Objects(numbers, boxes, greys, int((~large).sum()))


def _has_soft_edges(mask: NDArray, values: NDArray) -> bool:
    if len(values) == 0 or values[-1] == len(values) < 255:  # 1, 2, ... k
        return False
    from skimage.morphology import dilation, erosion

    square = np.ones((3, 3))
    filled = mask[dilation(mask, square) == erosion(mask, square)]
    return 2 * len(np.intersect1d(values, filled)) < len(values)


def sources(root: str, images: Sequence[Path]) -> Sequence[int | None]:
    """The source of each of `images`, paths below root/images: from root/sources.csv, or the folder it is in.

    Sources are numbered in the order of their names. Without both there are none, and each is None.

    Raises:
        ConfigError: where sources.csv cannot be read, or some images have a source and others have none.
    """
    table = Path(root, SOURCES)
    if table.exists():
        names = _read(root, table)
        found = [names.get(image.as_posix(), "") for image in images]
    else:
        found = [image.parts[0] if len(image.parts) > 1 else "" for image in images]
    lacking = [image for image, name in zip(images, found, strict=True) if not name]
    if lacking and (table.exists() or len(lacking) < len(images)):
        where = SOURCES if table.exists() else "a folder in images/"
        raise ConfigError(f"data.root={root}: {where} gives no source of {lacking[0].as_posix()}, but of other images")
    return [None] * len(found) if lacking else [int(number) for number in np.unique(found, return_inverse=True)[1]]


def _read(root: str, table: Path) -> dict[str, str]:
    where = f"data.root={root}: {SOURCES}"
    if not table.is_file():  # a pipe would be waited for
        raise ConfigError(f"{where}: is not a file")
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream, restval="")
            if not {"file", "source"} <= set(rows.fieldnames or []):
                raise ValueError("must have the columns file and source")
            return {row["file"].strip(): row["source"].strip() for row in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{where}: cannot be read: {' '.join(str(error).split())}") from error
