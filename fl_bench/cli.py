"""The words of the command line: `fl-bench key=value ...` runs; other verbs are in commands/."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

from fl_bench import commands
from fl_bench.errors import FlBenchError, known, refuse


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    try:
        try:
            code = dispatch(sys.argv[1:])
        finally:
            sys.stdout.flush()  # not at the very end, where nobody catches that the reader has gone
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (FlBenchError, OSError) as error:
        code = refuse(known(error))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def dispatch(words: Sequence[str]) -> int:
    """Call the verb that these words name, or else `run`; `--config-dir` may come before the verb."""
    first = "".join(words[:1])
    before = 2 if first in ("--config-dir", "-cd") else int(first.startswith("--config-dir="))
    verb = "".join(words[before : before + 1])
    if verb and "=" not in verb and not verb.startswith(("-", "~", "+")):
        return commands.call(verb, [*words[:before], *words[before + 1 :]])
    if {"-h", "--help"} & set(words):
        return commands.call("help", words[:before])
    if "--version" in words:
        print(f"fl-bench {version('fl-bench')}")
        return 0
    return commands.call("run", words)
