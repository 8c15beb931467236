"""The words of the command line: `fl-bench key=value ...` runs; other verbs are in commands/."""

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

GONE = (errno.EPIPE, errno.EIO)  # what a pipe says without a reader, and a terminal that was closed


def main() -> None:
    """The console script. All else is imported in here, where Ctrl-C is caught."""
    try:
        signal.signal(signal.SIGTERM, _leave)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in a shell's background
            signal.signal(signal.SIGINT, _leave)
        _open_streams()
        from fl_bench.errors import FlBenchError, known, refuse

        try:
            _disarm_warnings()
            os.environ["MPLBACKEND"] = "Agg"  # figures go to files; a notebook's backend exists in the notebook only
            code = dispatch(sys.argv[1:])
        except (FlBenchError, OSError) as error:
            code = refuse(known(error))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _leave(*_: object) -> None:
    """End at once: OmegaConf swallows a KeyboardInterrupt at times, or makes another error of it.

    What has something to put in order lets signals raise it again (`runs/scratch.py`).
    """
    os._exit(130)


def dispatch(words: Sequence[str]) -> int:
    """Call the verb that these words name, or else `run`; `--config-dir` may come before the verb."""
    from fl_bench import commands

    first = "".join(words[:1])
    before = 2 if first in ("--config-dir", "-cd") else int(first.startswith("--config-dir="))
    verb = "".join(words[before : before + 1])
    if verb and "=" not in verb and not verb.startswith(("-", "~", "+")):
        return commands.call(verb, [*words[:before], *words[before + 1 :]])
    if {"-h", "--help"} & set(words):
        return commands.call("help", words[:before])
    if "--version" in words:
        from importlib.metadata import version

        print(f"fl-bench {version('fl-bench')}")
        return 0
    return commands.call("run", words)


class Output(io.FileIO):
    """stdout or stderr. When its reader has gone away, as in `fl-bench ... | head -1`, the command goes on unheard."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return len(data)


def _open_streams() -> None:
    """Let stdin, stdout and stderr be open: files that are opened later would get the numbers of those that are not."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # not where a test listens
            encoding, errors = (stream.encoding, stream.errors) if stream else ("utf-8", "replace")
            buffer = io.BufferedWriter(Output(number, "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(buffer, encoding, errors, line_buffering=True))


def _disarm_warnings() -> None:
    """Let no warning be an error: libraries warn while they are imported, here and in the workers."""
    import warnings

    from fl_bench.errors import note

    if any(option.startswith("error") for option in sys.warnoptions):
        note("warnings are not made errors (PYTHONWARNINGS, -W): libraries that fl-bench imports have some")
        os.environ.pop("PYTHONWARNINGS", None)
        sys.warnoptions.clear()
        warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
