"""The errors a user sees: one line each, and the exit code of the command."""

import traceback
from pathlib import Path


def in_one_line(error: Exception) -> str:
    """What an unexpected exception says, and where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return " ".join(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})".split())


class FlBenchError(Exception):
    """The run ends with `exit_code`, and the message is the one line printed."""

    exit_code = 1


class RunError(FlBenchError):
    """The run failed: the message says where and why."""


class ConfigError(FlBenchError):
    """The config or the input is wrong: the message names the key, the value and what would be right."""

    exit_code = 2


class Interrupted(FlBenchError):
    """Someone pressed Ctrl-C or sent SIGTERM; what was written so far stays."""

    exit_code = 130
