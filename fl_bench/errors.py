"""The errors a user sees: one line each, and the exit code of the command."""

import errno
import sys
import traceback
from pathlib import Path

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def in_one_line(error: Exception) -> str:
    """What an unexpected exception says, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return " ".join(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})".split())


def disk_trouble(error: Exception) -> str | None:
    """What is wrong with which file, where a disk is full, read-only or failing, or a file damaged; otherwise None."""
    if isinstance(error, Damaged | StorageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename}: {error.strerror}"
    return None


class FlBenchError(Exception):
    """The run ends with `exit_code`, and the message is the one line printed."""

    exit_code = 1
    resumable = False  # whether to say how to go on


def refuse(error: FlBenchError, hint: str = "") -> int:
    """Say in one line what is wrong and what can be done, and return the exit code for it."""
    print("fl-bench: " + " ".join(f"{error}{'; ' if hint else ''}{hint}".split()), file=sys.stderr)
    return error.exit_code


class RunError(FlBenchError):
    """The run failed: the message says where and why."""


AGAIN, AGAIN_SMALLER = 70, 71  # exit codes of a run's process that should be started again; with fewer workers


class WorkerDied(RunError):
    """A worker's process has ended, so what its clients kept in it is gone; a new simulation may go on."""

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
