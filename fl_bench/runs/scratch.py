"""The temporary folder of a run."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir

from fl_bench.engines.base import SHORT
from fl_bench.errors import note
from fl_bench.storage.temporary import locked_folder, remove_left

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
        remove_left(place)
    with ExitStack() as stack:
        stack.enter_context(_raising())
        scratch = stack.enter_context(locked_folder(gettempdir()))
        if len(os.fsencode(scratch)) > LONGEST:
            place = next((place for place in SHORT_PLACES if os.access(place, os.W_OK | os.X_OK)), gettempdir())
            (scratch / SHORT).symlink_to(stack.enter_context(locked_folder(place)))
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
