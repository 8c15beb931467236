"""Images of one's own, in files or in the rows of a table, each with its class and perhaps with whose it is."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData, new_column
from fl_bench.data.facts import Facts
from fl_bench.data.images import converted, opened
from fl_bench.data.sources import SUFFIXES
from fl_bench.data.tables import test_rows
from fl_bench.errors import ConfigError, note

GREY = ("1", "L", "LA")  # modes of PIL without colours
TESTS = ("test", "validation", "val")  # where there is one of these, it is the test set
Named = Iterable[tuple[str, Path | bytes]]  # images and what errors call them; it is gone through twice


def image_folders(folder: Path, root: str, client: bool, size: int | None, facts: Facts | None = None) -> FederatedData:
    """The images in root/CLASS, or in root/train/CLASS and root/test/CLASS; with `client`, in .../CLIENT/CLASS.

    torchvision's ImageFolder reads the same, but knows no clients. Links to files are followed, and so are links to the
    folder of a class. See `labelled_images` for the rest.

    Raises:
        ConfigError: where no such folder has an image, or an image is not as it must be.
    """
    where, top = f"data.root={root}", Path(root)
    halves = [half for half in (top / "train", *(top / name for name in TESTS)) if _folders(half)][:2]
    if not halves or halves[0].name != "train":
        halves = [top]
    if not client:
        _refuse_clients(where, _folders(halves[0]))
    places = [
        (kind, owner, half)
        for half in halves
        for owner in (_folders(half) if client else [half])
        for kind in _folders(owner)
    ]
    found = [
        (file, kind.name, owner.name, half.name != "train" and half != top)
        for kind, owner, half in places
        for file in sorted(kind.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not found:
        layout = "CLIENT/CLASS" if client else "CLASS"
        raise ConfigError(f"{where}: has no images in folders {layout}, nor in train/{layout}")
    files, kinds, owners, tested = zip(*found, strict=True)
    lacking = [("class", name) for name in sorted({kind.name for kind, *_ in places} - {*kinds})]
    lacking += [("client", name) for name in sorted({owner.name for _, owner, _ in places} - {*owners}) if client]
    for what, name in lacking:
        note(f"{where}: no image is in a folder {name}, so that it is no {what}")
    names, y = np.unique(kinds, return_inverse=True)
    classes: list[str] = names.tolist()
    if facts is not None:
        y, classes = facts.labels(classes, where)[y], facts.classes
    sources, source = np.unique(owners, return_inverse=True)
    is_test = np.array(tested) if len(halves) == 2 else None
    images = [(str(file.relative_to(top)), file) for file in files]
    whose, owner_names = (source, sources.tolist()) if client else (None, [])
    data = labelled_images(where, folder, images, size, y, is_test, classes, whose, owner_names, facts)
    Facts(classes=classes, colours=data.train["x"].shape[1] == 3).write(folder)
    return data


def labelled_images(
    where: str,
    folder: Path,
    images: Named,
    size: int | None,
    y: NDArray,
    is_test: NDArray[np.bool_] | None,
    classes: Sequence[str],
    source: NDArray | None = None,
    sources: Sequence[str] = (),
    facts: Facts | None = None,
) -> FederatedData:
    """Images with labels `y` [N] and who each is from, `source` [N]; written to `folder` one by one.

    They are of one size, or cut to a square in the middle and made `size` x `size`. Where all are grey they have one
    channel, otherwise all have three. Without `is_test` [N], every tenth is for the test set (see `test_rows`). With
    `facts` these say whether there are colours, and the images are a part of all: without `is_test` none is to test.

    Raises:
        ConfigError: beginning with `where`, if an image cannot be read, or is of another size.
    """
    if size is not None and size < 1:
        raise ConfigError(f"data.size={size}: must be 1 or more, or null")
    if facts is None:
        is_test = test_rows(where, y, source, classes, is_test)
    is_test = np.zeros(len(y), bool) if is_test is None else is_test
    mode, (width, height) = _form(where, images, size)
    if facts is not None:
        if facts.colours is not True and mode == "RGB":
            raise ConfigError(f"data.facts: does not state that there are colours, and in {where} there are")
        mode = "RGB" if facts.colours else mode
    shape = (3 if mode == "RGB" else 1, height, width)
    columns = [
        {"x": new_column(folder, split, "x", (len(rows), *shape), np.uint8), "y": y[rows].astype(np.int64)}
        for split, rows in (("train", np.flatnonzero(~is_test)), ("test", np.flatnonzero(is_test)))
    ]
    places = np.where(is_test, np.cumsum(is_test), np.cumsum(~is_test)) - 1
    for (name, image), half, place in zip(images, is_test.astype(int), places, strict=True):
        columns[half]["x"][place] = _pixels(where, name, image, mode, size)
    if source is not None:
        columns[0]["source"] = source[~is_test].astype(np.int64)
    return FederatedData(columns[0], columns[1], tuple(classes), sources=tuple(sources))


def _refuse_clients(where: str, kinds: Sequence[Path]) -> None:
    """Raise ConfigError where these folders have no images but folders in them, two or more of equal names.

    They are then those of clients, with a folder for each class. One of an equal name may be what holds the images.
    """
    if any(path.suffix.lower() in SUFFIXES for kind in kinds for path in kind.iterdir()):
        return
    homes: dict[str, list[str]] = {}
    for kind in kinds:
        for inside in _folders(kind):
            homes.setdefault(inside.name, []).append(kind.name)
    if len(equal := [name for name, of in sorted(homes.items()) if len(of) > 1]) > 1:
        name, (first, second, *_) = equal[0], homes[equal[0]]
        wish = f"add data.client=folder if {first} is a client; if it is a class, put its images into one folder"
        raise ConfigError(f"{where}: its folders hold equal ones, such as {first}/{name} and {second}/{name}; {wish}")


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones; none where there is no such folder."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if path.is_dir() and not path.name.startswith(".")]


def _form(where: str, images: Named, size: int | None) -> tuple[str, tuple[int, int]]:
    """The mode that all images get, and their width and height, from what their headers say."""
    colours, first = False, None
    for name, source in images:
        with opened(where, name, source) as image:
            colours |= image.mode not in GREY
            first = first or (name, image.size)
            if size is None and image.size != first[1]:
                sizes = [f"{width}x{height}" for width, height in (image.size, first[1])]
                wish = "give data.size=N, to which all are cut and resized"
                raise ConfigError(f"{where}: {name} is {sizes[0]} and {first[0]} is {sizes[1]}; {wish}")
    assert first is not None  # whoever calls has seen that there are images
    return "RGB" if colours else "L", first[1] if size is None else (size, size)


def _pixels(where: str, name: str, source: Path | bytes, mode: str, size: int | None) -> NDArray[np.uint8]:
    """One image as [channels, height, width]."""
    from PIL import ImageOps

    with opened(where, name, source) as opening:
        image = converted(where, name, opening, mode)
        pixels = np.asarray(image if size is None else ImageOps.fit(image, (size, size)))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
