"""Everything in this process: for the debugger, for CI, and for runs so small that starting Ray is most of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fl_bench.engines.base import Connect, Engine


@dataclass
class Inline(Engine):
    """One worker, this process. Ctrl-C raises KeyboardInterrupt by itself here."""

    @contextmanager
    def workers(self, scratch: Path) -> Iterator[Connect]:
        from fl_bench.engines.inline_grid import InlineGrid

        yield InlineGrid
