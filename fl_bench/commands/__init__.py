"""The verbs of the command line, a module each, whose docstring is the verb's help.

A verb has `arguments(parser)`, which says what words it takes, and `command(given)`, which returns the exit code. Each
module here without a leading underscore is one. Other packages add theirs as entry points of the group
`fl_bench.commands`, which name a module or an object with the same two functions.
"""

import argparse
import importlib
import pkgutil
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NoReturn

from fl_bench.build import nearest
from fl_bench.errors import ConfigError, FlBenchError, RunError, in_one_line


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help says more")


def ours() -> list[str]:
    """The verbs of this package."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def theirs() -> dict[str, EntryPoint]:
    """The verbs of other packages."""
    return {point.name: point for point in entry_points(group=__name__)}


def find(word: str) -> Any:
    """The verb of this name."""
    if word in ours():
        return importlib.import_module(f"{__name__}.{word}")
    outside = theirs()
    if word not in outside:
        raise ConfigError(f"{word}: is neither a verb nor key=value; {nearest(word, [*ours(), *outside])}")
    try:
        return outside[word].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{word}: {outside[word].value} cannot be imported: {error}") from error


def parser_of(word: str) -> Parser:
    """What the verb of this name takes."""
    verb = find(word)
    parser = Parser(f"fl-bench {word}", description=verb.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verb.arguments(parser)
    return parser


def call(word: str, words: Sequence[str], **more: Any) -> int:
    """Let the verb of this name do what these words say, and return the exit code; it is given `more` besides."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ConfigError("the current folder is gone: go to one that exists") from error
    verb, given = find(word), parser_of(word).parse_intermixed_args(words, argparse.Namespace(**more))
    try:
        return int(verb.command(given))
    except Exception as error:
        if word in ours() or isinstance(error, OSError | FlBenchError):
            raise
        raise RunError(f"{word}: {in_one_line(error)}") from error
