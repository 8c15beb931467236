"""Images and texts in the JSON files of LEAF, whose users are the clients."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData, new_column
from fl_bench.data.characters import Sampling, classes_of, numbers_of
from fl_bench.errors import ConfigError, disk_trouble, note

Read = Callable[[Any, Any], tuple[NDArray[np.uint8], NDArray[np.int64]]]  # a user's x and y, as arrays


class Part(NamedTuple):
    """What one user has in one file."""

    user: str
    x: NDArray[np.uint8]  # [N, pixels], or [N, characters]
    y: NDArray[np.int64]  # [N]


def leaf_images(folder: Path, root: str) -> FederatedData:
    """Grey images [1, side, side] of LEAF (Caldas et al. 2018, arXiv:1812.01097), such as FEMNIST: 62 classes, 28x28.

    A pixel of 1.0 becomes 255. See `_halves` and `_federated`.

    Raises:
        ConfigError: where files are lacking or not of this form, or have texts.
    """
    halves = _halves(root, _pixels)
    sizes = {part.x.shape[1] for parts in halves.values() for part in parts}
    if len(sizes) != 1 or (side := isqrt(min(sizes))) ** 2 != min(sizes):
        raise ConfigError(
            f"data.root={root}: has rows of {sorted(sizes)} numbers; one size is needed, of square images"
        )
    last = max(part.y.max() for parts in halves.values() for part in parts)
    return _federated(folder, root, halves, "x", (1, side, side), tuple(map(str, range(last + 1))))


def leaf_characters(folder: Path, root: str, how: Sampling) -> FederatedData:
    """LEAF's Shakespeare: texts of `length` characters in x, the next character in y; of each user every `stride`-th.

    Column "text" is uint8 [N, length + 1]. See `_halves` and `_federated`.

    Raises:
        ConfigError: where files are lacking or not of this form, or have characters that the alphabet lacks.
    """

    def read(x: Any, y: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        sizes = [{len(value) if isinstance(value, str) else None for value in column} for column in (x, y)]
        if sizes != [{how.length}, {1}]:
            raise ValueError(f"must have texts of task.length={how.length} characters in x, and one character in y")
        flat, strange = numbers_of(
            "".join(text + character for text, character in zip(x, y, strict=True)), how.alphabet
        )
        if strange:
            raise ValueError(f"has {strange[0]!r}, which is not in task.alphabet")
        numbers = flat.reshape(len(x), how.length + 1)
        return numbers, numbers[:, -1].astype(np.int64)

    halves = {
        half: [Part(user, x[::stride], y[::stride]) for user, x, y in parts]
        for (half, parts), stride in zip(_halves(root, read).items(), (how.stride, how.test_stride), strict=True)
    }
    return _federated(folder, root, halves, "text", (how.length + 1,), classes_of(how.alphabet))


def _halves(root: str, read: Read) -> dict[str, list[Part]]:
    """What users have to train and to test, as `read` makes it of one user's x and y.

    `root` has train/*.json and test/*.json as LEAF's preprocess.sh writes them, or data/ with these. In memory are the
    numbers of one file at a time, and all that is made of them.
    """
    top = Path(root, "data") if Path(root, "data").is_dir() else Path(root)
    files = {half: sorted((top / half).glob("*.json")) for half in ("train", "test")}
    for half, found in files.items():
        if not found:
            wish = "holds no train/*.json and test/*.json, which LEAF's preprocess.sh writes"
            raise ConfigError(f"data.root={root}: {wish}; {half}/ is lacking")
    return {half: [part for file in found for part in _parts(root, file, read)] for half, found in files.items()}


def _federated(
    folder: Path,
    root: str,
    halves: Mapping[str, list[Part]],
    name: str,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
) -> FederatedData:
    """Column `name` of rows of this shape, in `folder`, "y" and "source": each user of train/ is one.

    The rows of test/ are the server's test set, whosever they are.
    """
    columns: dict[str, dict[str, NDArray]] = {}
    for half, parts in halves.items():
        if not parts:
            raise ConfigError(f"data.root={root}: {half}/*.json have no user with a sample")
        x = new_column(folder, half, name, (sum(len(part.y) for part in parts), *shape), np.uint8)
        np.concatenate([part.x.reshape(-1, *shape) for part in parts], out=x)
        columns[half] = {name: x, "y": np.concatenate([part.y for part in parts])}
    train, test = ([part.user for part in halves[half]] for half in ("train", "test"))
    users = sorted(set(train))
    numbers = {user: number for number, user in enumerate(users)}
    columns["train"]["source"] = np.repeat([numbers[user] for user in train], [len(part.y) for part in halves["train"]])
    if set(train) != set(test):
        only = len(set(train) - set(test)), len(set(test) - set(train))
        note(f"data.root={root}: {only[0]} users are in train/ only, and {only[1]} in test/ only, who are no clients")
    return FederatedData(columns["train"], columns["test"], classes, sources=tuple(users))


def _parts(root: str, file: Path, read: Read) -> Iterator[Part]:
    """What the users of one file have, but for those who have nothing."""
    where = f"data.root={root}: {file.parent.name}/{file.name}"
    if not file.is_file():  # a pipe would be waited for
        raise ConfigError(f"{where}: is not a file")
    try:
        with file.open() as stream:  # images have few different numbers, each of which is kept once
            content = json.load(stream, parse_float=lru_cache(4096)(float))
        for user in content["users"]:
            x, y = (content["user_data"][user][name] for name in ("x", "y"))
            if len(x) != len(y):
                raise ValueError(f"{user} has {len(x)} examples and {len(y)} labels")
            if len(y):
                try:
                    yield Part(str(user), *read(x, y))
                except ValueError as error:
                    raise ValueError(f"{user} {error}") from error
    except KeyError as error:
        raise ConfigError(f"{where}: has no {error}; LEAF's files have users and user_data with x and y") from error
    except Exception as error:  # at files that are not what they should be, numpy and json raise several kinds
        if disk_trouble(error):
            raise
        raise ConfigError(f"{where}: is not of LEAF's form ({' '.join(str(error).split())})") from error


def _pixels(x: Any, y: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if _has_words(x):
        wish = "data=leaf reads images in numbers, as FEMNIST's, or with task=characters Shakespeare; no names of files"
        raise ValueError(f"has words in x; {wish}")
    if len({len(row) for row in x}) > 1:
        raise ValueError("has rows of different lengths in x")
    pixels, labels = np.array(x, np.float32), np.array(y)
    if pixels.ndim != 2 or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("must have rows of numbers from 0 to 1 in x")
    if labels.ndim != 1 or labels.dtype.kind != "i" or labels.min() < 0:
        raise ValueError("must have whole numbers from 0 in y")
    return np.rint(pixels * 255).astype(np.uint8), labels.astype(np.int64)


def _has_words(x: Any) -> bool:
    """Whether the first number of the first example is a text instead."""
    while isinstance(x, list) and x:
        x = x[0]
    return isinstance(x, str)
