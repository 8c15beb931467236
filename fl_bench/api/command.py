"""The command line from Python: in a fresh interpreter, as a notebook has threads, and must not be forked."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import Any

from fl_bench.errors import ConfigError, FlBenchError, Interrupted, RunError
from fl_bench.studies.arms import written

WRONG = re.compile(
    r"fl-bench: (?!note: )(.*)|\d+/\d+  (.*)  failed in [\d.]+ s  (.*)"
)  # a run; a sweep's cell, and why
ERRORS: Mapping[int, type[FlBenchError]] = {error.exit_code: error for error in (ConfigError, Interrupted)}


def words_of(words: Sequence[str], keys: Mapping[str, Any], is_sweep: bool = False) -> list[str]:
    """The words of the command line; of a sweep's lists each value is one to run with."""

    def value(given: Any) -> str:
        several = is_sweep and isinstance(given, list | tuple | range)
        return ",".join(map(written, given)) if several else written(given)

    return [*words, *(f"{key}={value(given)}" for key, given in keys.items())]


def call(words: Sequence[str]) -> Path:
    """Do what `fl-bench` does with these words, and return the folder that it names last.

    What it says is printed. KeyboardInterrupt interrupts it too, and is raised again when its files are whole; a second
    one kills it. Raises ConfigError or RunError with the line that it ends with, by its exit code, and
    ConfigError where it names no folder.
    """
    without = {"FORCE_COLOR"}  # Jupyter's; it means a terminal
    there = {name: value for name, value in os.environ.items() if name not in without}
    process = Popen(
        [sys.executable, "-m", "fl_bench", *words], env=there, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True,
        errors="replace", process_group=0,  # a terminal and Jupyter interrupt a whole group: it would hear of it twice
    )  # fmt: skip
    assert process.stdout
    try:
        lines = _print(process.stdout)
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        _print(process.stdout)
        raise
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if code:
        wrong = [found[1] or f"{found[3]} ({found[2]})" for found in map(WRONG.fullmatch, lines) if found]
        raise ERRORS.get(code, RunError)((wrong or [f"fl-bench has ended with {code}"])[-1])
    folders = [Path(line).absolute() for line in lines if Path(line).is_dir()]
    if not folders:
        raise ConfigError(f"{' '.join(words)}: has made no run")
    return folders[-1]


def _print(lines: Iterable[str]) -> list[str]:
    """Print the lines as they come, and return them; for a person, a round's line replaces the one before."""
    rewrites = sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel")
    said, shown = [], ""
    for line in map(str.rstrip, lines):
        said.append(line)
        if rewrites and line.startswith("round "):
            before, shown = len(shown), line[: shutil.get_terminal_size().columns - 1]
            print(f"\r{shown:<{before}}", end="", flush=True)
        else:
            print(f"\n{line}" if shown else line, flush=True)
            shown = ""
    return said
