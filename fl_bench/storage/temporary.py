"""Temporary folders. Those that killed runs have left are removed by the next run."""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fl_bench.errors import SCRATCH

LOCK, MARK = "fl-bench.lock", b"a temporary folder of fl-bench, removed when nobody holds this lock\n"


@contextmanager
def locked_folder(place: str) -> Iterator[Path]:
    with TemporaryDirectory(prefix=SCRATCH, dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / "unlocked").open("wb") as stream:  # the run's own process inherits it
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(MARK)
            stream.flush()
            (folder / "unlocked").rename(folder / LOCK)
            yield folder


def remove_left(place: str) -> None:
    """Remove from this folder what runs that are over have left in it."""
    for folder in Path(place).glob(f"{SCRATCH}*"):
        _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    """Remove it if a run of this user has made it, and is over. Whatever else has such a name is somebody's."""
    try:
        if not (stat.S_ISDIR((found := folder.lstat()).st_mode) and found.st_uid == os.geteuid()):
            return
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO would wait
    except OSError:  # there is none, or it is just going
        return
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and os.read(descriptor, 99) == MARK:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # somebody has the lock
        pass
    finally:
        os.close(descriptor)
