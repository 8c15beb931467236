"""Images in the JSON files of LEAF, whose users are the clients."""

import json
from collections.abc import Iterator
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.data.arrays import FederatedData, new_column
from fl_bench.errors import ConfigError, disk_trouble, note


class Part(NamedTuple):
    """What one user has in one file."""

    user: str
    x: NDArray[np.uint8]  # [N, pixels]
    y: NDArray[np.int64]  # [N]


def leaf_images(folder: Path, root: str) -> FederatedData:
    """Grey images [1, side, side] of LEAF (Caldas et al. 2018, arXiv:1812.01097), such as FEMNIST: 62 classes, 28x28.

    `root` has train/*.json and test/*.json as LEAF's preprocess.sh writes them, or data/ with these. Each user of
    train/ is a source; the rows of test/ are the server's test set, whosever they are. A pixel of 1.0 becomes 255. In
    memory are the numbers of one file at a time, and all pixels as bytes.

    Raises:
        ConfigError: where files are lacking or not of this form, or have texts.
    """
    top = Path(root, "data") if Path(root, "data").is_dir() else Path(root)
    files = {half: sorted((top / half).glob("*.json")) for half in ("train", "test")}
    for half, found in files.items():
        if not found:
            wish = "holds no train/*.json and test/*.json, which LEAF's preprocess.sh writes"
            raise ConfigError(f"data.root={root}: {wish}; {half}/ is lacking")
    parts = {half: [part for file in found for part in _parts(root, file)] for half, found in files.items()}
    sizes = {part.x.shape[1] for half in parts.values() for part in half}
    if len(sizes) != 1 or (side := isqrt(min(sizes))) ** 2 != min(sizes):
        raise ConfigError(
            f"data.root={root}: has rows of {sorted(sizes)} numbers; one size is needed, of square images"
        )
    columns: dict[str, dict[str, NDArray]] = {}
    for half, found_parts in parts.items():
        x = new_column(folder, half, "x", (sum(len(part.y) for part in found_parts), 1, side, side), np.uint8)
        np.concatenate([part.x.reshape(-1, 1, side, side) for part in found_parts], out=x)
        columns[half] = {"x": x, "y": np.concatenate([part.y for part in found_parts])}
    train, test = ([part.user for part in parts[half]] for half in ("train", "test"))
    users = sorted(set(train))
    numbers = {user: number for number, user in enumerate(users)}
    columns["train"]["source"] = np.repeat([numbers[user] for user in train], [len(part.y) for part in parts["train"]])
    if set(train) != set(test):
        only = len(set(train) - set(test)), len(set(test) - set(train))
        note(f"data.root={root}: {only[0]} users are in train/ only, and {only[1]} in test/ only, who are no clients")
    last = max(half["y"].max() for half in columns.values())
    return FederatedData(columns["train"], columns["test"], tuple(map(str, range(last + 1))), sources=tuple(users))


def _parts(root: str, file: Path) -> Iterator[Part]:
    """What the users of one file have, but for those who have nothing."""
    where = f"data.root={root}: {file.parent.name}/{file.name}"
    if not file.is_file():  # a pipe would be waited for
        raise ConfigError(f"{where}: is not a file")
    try:
        with file.open() as stream:  # images have few different numbers, each of which is kept once
            content = json.load(stream, parse_float=lru_cache(4096)(float))
        for user in content["users"]:
            data = content["user_data"][user]
            if _has_words(data["x"]):
                wish = (
                    "data=leaf reads images in numbers, as FEMNIST's; LEAF's texts and names of files are not read yet"
                )
                raise ConfigError(f"{where}: {user} has words in x; {wish}")
            if len({len(row) for row in data["x"]}) > 1:
                raise ValueError(f"{user} has rows of different lengths in x")
            x, y = np.array(data["x"], np.float32), np.array(data["y"])
            if len(x) != len(y):
                raise ValueError(f"{user} has {len(x)} examples and {len(y)} labels")
            if not len(y):
                continue
            if x.ndim != 2 or not (x.min() >= 0 and x.max() <= 1):
                raise ValueError(f"{user} must have rows of numbers from 0 to 1 in x")
            if y.ndim != 1 or y.dtype.kind != "i" or y.min() < 0:
                raise ValueError(f"{user} must have whole numbers from 0 in y")
            yield Part(str(user), np.rint(x * 255).astype(np.uint8), y.astype(np.int64))
    except ConfigError:
        raise
    except KeyError as error:
        raise ConfigError(f"{where}: has no {error}; LEAF's files have users and user_data with x and y") from error
    except Exception as error:  # at files that are not what they should be, numpy and json raise several kinds
        if disk_trouble(error):
            raise
        raise ConfigError(f"{where}: is not of LEAF's form ({' '.join(str(error).split())})") from error


def _has_words(x: Any) -> bool:
    """Whether the first number of the first example is a text instead."""
    while isinstance(x, list) and x:
        x = x[0]
    return isinstance(x, str)
