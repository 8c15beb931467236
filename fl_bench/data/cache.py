"""Prepared data that are kept for other runs, in the folder `data.cache`.

An entry is a folder with the files that `Task.load` and `FederatedData.save` have written, and a digest of each. It is
made beside its place and renamed when it is whole; later nobody writes in it. A run's own folder has links to these
files: who copies that folder, and follows links, has all that a worker reads.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fl_bench import rng
from fl_bench.data.arrays import FederatedData, writing_into
from fl_bench.errors import ConfigError, note
from fl_bench.storage.files import digest_of

MAKING = "making-"  # how the names of folders begin that are no entries yet
DIGESTS = "digests.json"
KINDS = ("_target_", "source")  # keys of words that are no files, though there may be some of that name
DAY_SECONDS = 24 * 3600


def kept(cache: Path, key: str, seed: int, folder: Path, load: Callable[[Path], FederatedData]) -> FederatedData:
    """The data with this key, mapped read-only; what `load` makes of an empty folder, if no run has made it before.

    `folder` gets a link to each file. Data for which torch's generators are used, which must be seeded with `seed`, are
    kept for this seed only.

    Raises:
        ConfigError: where `cache` is no folder and cannot be made one.
        OSError: where there is no room in it.
    """
    cache = cache.expanduser().absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        wish = f"is no folder that can be used or made ({error.strerror})"
        raise ConfigError(f"data.cache={cache}: {wish}") from error
    places = cache / key, cache / f"{key}-{seed}"
    entry = next(filter(_is_whole, places), None) or _made(*places, load)
    shutil.copytree(
        entry,
        folder,
        symlinks=True,
        ignore=shutil.ignore_patterns(DIGESTS),
        copy_function=os.symlink,
        dirs_exist_ok=True,
    )
    return FederatedData.open(folder, writes_again=False)


def key_of(about: Mapping[str, Any]) -> str:
    """A digest of `about`, and of the name, size and time of each file that a text in it names, or that is below."""
    files = {text: sorted(_files(os.path.expanduser(text))) for text in _texts(about)}
    return hashlib.sha256(json.dumps([about, files], sort_keys=True).encode()).hexdigest()[:32]


def _is_whole(entry: Path) -> bool:
    """Whether it is there and undamaged; one that is damaged is removed."""
    if not entry.exists():
        return False
    try:
        if json.loads((entry / DIGESTS).read_text()) == _digests(entry):
            return True
    except (FileNotFoundError, ValueError):
        pass
    note(f"{entry}: is damaged, and is made anew")
    aside = Path(tempfile.mkdtemp(prefix=MAKING, dir=entry.parent))
    with suppress(FileNotFoundError):  # another run has just done so
        entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return False


def _made(plain: Path, of_the_seed: Path, load: Callable[[Path], FederatedData]) -> Path:
    """A new entry, in the first of these places, or in the second if a random number was drawn for it."""
    for left in plain.parent.glob(f"{MAKING}*"):  # by a run that was killed, or is at work
        if time.time() - left.stat().st_mtime > DAY_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    with (
        writing_into(plain.parent),
        tempfile.TemporaryDirectory(prefix=MAKING, dir=plain.parent, ignore_cleanup_errors=True) as name,
    ):
        new = Path(name, "new")
        new.mkdir()
        before = rng.torch_states()
        load(new).save(new)
        entry = plain if rng.torch_states() == before else of_the_seed
        (new / DIGESTS).write_text(json.dumps(_digests(new)))
        try:
            new.rename(entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another run was quicker
                raise
    return entry


def _digests(entry: Path) -> dict[str, str]:
    """By name: a digest of each file's content; of a link, where it leads to. FileNotFoundError at a dead link."""
    return {
        str(file.relative_to(entry)): os.readlink(file) if file.is_symlink() and file.exists() else digest_of(file)
        for file in entry.rglob("*")
        if file.name != DIGESTS and (file.is_symlink() or file.is_file())
    }


def _texts(node: Any) -> Iterator[str]:
    """The texts in a node that may name files; "." and "/" are what separates values."""
    if isinstance(node, Mapping):
        node = [value for key, value in node.items() if key not in KINDS]
    if isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str) and any(map(str.isalnum, node)):
        yield node


def _files(path: str) -> Iterator[tuple[str, int, int]]:
    """The name, size and time of the file, or of all files below the folder; links are followed, a folder once."""
    seen = set()
    found = [(path, [], [path])] if os.path.isfile(path) else os.walk(path, followlinks=True)
    for folder, folders, names in found:
        status = os.stat(folder)
        if (identity := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        below = os.path.relpath(folder, path)
        for name in names:
            with suppress(OSError):  # a dead link; whoever reads it says so
                status = os.stat(os.path.join(folder, name))
                yield os.path.join(below, name), status.st_size, status.st_mtime_ns
