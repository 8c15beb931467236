"""Temporary folders. Those that killed runs have left are removed by the next run."""

import fcntl
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from fl_bench.engines.base import SHORT
from fl_bench.errors import SCRATCH, note

LOCK, MARK = "fl-bench.lock", b"a temporary folder of fl-bench, removed when nobody holds this lock\n"
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
LONGEST = 35  # a socket's path has 103 bytes (Linux: 107), and Ray's are up to 68 longer than that of its folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder; where its path is too long for sockets, the link `SHORT` in it leads to another.

    As long as there is one, Ctrl-C and SIGTERM raise KeyboardInterrupt.
    """
    wanted = os.environ.get("TMPDIR")
    if wanted and os.path.abspath(wanted) != gettempdir():
        note(f"TMPDIR={wanted}: cannot be written; temporary files lie in {gettempdir()}")
    for place in {gettempdir(), *SHORT_PLACES}:
        for folder in Path(place).glob(f"{SCRATCH}*"):
            _remove_if_left(folder)
    with ExitStack() as stack:
        stack.enter_context(_raising())
        scratch = stack.enter_context(_locked_folder(gettempdir()))
        if len(os.fsencode(scratch)) > LONGEST:
            place = next((place for place in SHORT_PLACES if os.access(place, os.W_OK | os.X_OK)), gettempdir())
            (scratch / SHORT).symlink_to(stack.enter_context(_locked_folder(place)))
        yield scratch


@contextmanager
def _raising() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}  # not where it is ignored
    for number in handlers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _locked_folder(place: str) -> Iterator[Path]:
    with TemporaryDirectory(prefix=SCRATCH, dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / "unlocked").open("wb") as stream:  # the run's own process inherits it
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(MARK)
            stream.flush()
            (folder / "unlocked").rename(folder / LOCK)
            yield folder


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
