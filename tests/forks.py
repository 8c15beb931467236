"""The body of a process in which a test runs the command without importing everything again."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def command(words: Sequence[str], cwd: Path, environment: Mapping[str, str], outputs: Sequence[Path]) -> None:
    """As the console script would, in a session of its own."""
    _begin(cwd, environment, outputs)
    sys.path.insert(0, str(cwd))
    sys.argv = ["fl-bench", *words]

    from fl_bench.cli import main

    main()


def program(words: Sequence[str], cwd: Path, environment: Mapping[str, str], outputs: Sequence[Path]) -> None:
    """Another program of the same Python's, in a session of its own."""
    _begin(cwd, environment, outputs)
    os.execv(Path(sys.executable).with_name(words[0]), list(words))


def _begin(cwd: Path, environment: Mapping[str, str], outputs: Sequence[Path]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
