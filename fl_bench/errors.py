"""The errors a user sees: one line each, and the exit code of the command."""

import errno
import os
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the disk's fault, not the writer's
DISK = (*FULL, errno.EACCES, errno.EIO)
SCRATCH = "fl-bench-"  # how the names of temporary folders begin


def in_one_line(error: BaseException) -> str:
    """What an unexpected exception says, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = textwrap.shorten(f"{type(error).__name__}: {error}", 1000, placeholder=" ...")
    return f"{text} ({Path(where.filename).name}:{where.lineno})"


def disk_trouble(error: BaseException, kinds: Sequence[int] = FULL) -> str | None:
    """What is wrong with which file, where the disk is full or read-only, or a file damaged; otherwise None."""
    if isinstance(error, Damaged | StorageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in kinds:
        is_temporary = str(error.filename).startswith(os.path.join(gettempdir(), SCRATCH))
        hint = "; let TMPDIR name a folder with more room" if is_temporary else ""
        return f"{error.filename}: {error.strerror}{hint}" if error.filename else str(error.strerror)
    return None


class FlBenchError(Exception):
    """The run ends with `exit_code`, and the message is the one line printed."""

    exit_code = 1
    resumable = False  # whether to say how to go on


def known(error: BaseException) -> FlBenchError:
    """What has ended a run, as one of the errors with a line and an exit code."""
    if isinstance(error, FlBenchError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("stopped by Ctrl-C")
    trouble = disk_trouble(error, DISK)
    return StorageError(trouble) if trouble else RunError(in_one_line(error))


@contextmanager
def no_exit() -> Iterator[None]:
    """Makes of sys.exit, in somebody's strategy or task, a failure like any other."""
    try:
        yield
    except SystemExit as error:
        raise RunError(in_one_line(error)) from error


def refuse(error: FlBenchError, hint: str = "") -> int:
    """Say in one line what is wrong and what can be done, and return the exit code for it."""
    text = " ".join(f"{error}{'; ' if hint else ''}{hint}".split())
    print(f"fl-bench: {plain(text)}", file=sys.stderr)
    return error.exit_code


def note(text: str) -> None:
    """Say on stderr what the user should know; the run goes on."""
    print(f"fl-bench: note: {plain(text)}", file=sys.stderr)


def plain(text: object) -> str:
    """The text as a terminal can show it: what it would obey, such as an escape in a name, stands as its code."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


class RunError(FlBenchError):
    """The run failed: the message says where and why."""


AGAIN, AGAIN_SMALLER = 70, 71  # exit codes of a run's process that should be started again; with fewer workers


class WorkerDied(RunError):
    """A worker's process has ended, and its clients' work of this round with it; a new simulation may go on."""

    resumable = True

    def __init__(self, text: str, out_of_memory: bool) -> None:
        super().__init__(text)
        self.out_of_memory = out_of_memory


class StorageError(RunError):
    """A file of the run cannot be written or read: the message names it."""

    resumable = True


class Damaged(RunError):
    """A file of a run is not what was written: the message names it."""


class ConfigError(FlBenchError):
    """The config or the input is wrong: the message names the key, the value and what would be right."""

    exit_code = 2


class Interrupted(FlBenchError):
    """Someone pressed Ctrl-C or sent SIGTERM; what was written so far stays."""

    exit_code = 130
    resumable = True
