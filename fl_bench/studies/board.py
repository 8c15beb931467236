"""What a person sees of a sweep: a table of its cells on a terminal, one line for each that has ended elsewhere."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fl_bench.errors import note, plain

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
ORDER = (RUNNING, FAILED, DONE, WAITING)  # of rows: where a terminal has too few lines, the last ones are not seen
COLOURS = {WAITING: "dim", RUNNING: "", DONE: "green", FAILED: "red"}


class Board:
    """The cells by their names, with what each is at; a context, in which the terminal shows them."""

    def __init__(self, names: Sequence[str], parallel: int) -> None:
        self.names, self.parallel = [plain(name) for name in names], parallel
        self.state = [WAITING] * len(names)
        self.said = [""] * len(names)
        self.noted: set[str] = set()
        self.seconds: list[float] = []  # that each of the cells took which have ended
        self.began: dict[int, float] = {}
        self.console = Console(highlight=False, soft_wrap=True)
        self.live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.stop()

    def begin(self, cell: int) -> None:
        self.state[cell], self.said[cell], self.began[cell] = RUNNING, "starting", time.monotonic()

    def tell(self, said: Mapping[int, str]) -> None:
        """How far cells have come."""
        for cell, text in said.items():
            self.said[cell] = plain(text)

    def note(self, text: str) -> None:
        """Say once what several cells say."""
        if text not in self.noted:
            self.noted.add(text)
            note(text)

    def end(self, cell: int, state: str, text: str) -> None:
        """A cell is over: with its metrics, or with why."""
        seconds = time.monotonic() - self.began.get(cell, time.monotonic())
        self.seconds.append(seconds)
        self.state[cell], self.said[cell] = state, plain(text)
        count = len(self.seconds)
        self.console.print(
            f"{count}/{len(self.names)}  {self.names[cell]}  {state} in {seconds:.1f} s  {plain(text)}", markup=False
        )

    def _table(self) -> Table:
        left = len(self.names) - len(self.seconds)
        running = sum(time.monotonic() - self.began[n] for n, state in enumerate(self.state) if state == RUNNING)
        eta = ""
        if self.seconds and left:
            each = sum(self.seconds) / len(self.seconds)
            seconds = max(0.0, left * each - running) / max(1, min(self.parallel, left))
            eta = f", about {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
        table = Table(title=f"{len(self.seconds)} of {len(self.names)} done{eta}", title_justify="left", box=None)
        for column in ("", "cell", ""):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        rows = sorted(range(len(self.names)), key=lambda number: ORDER.index(self.state[number]))
        for number in rows[: max(3, self.console.height - 4)]:
            state = self.state[number]
            table.add_row(
                f"[{COLOURS[state]}]{state}[/]" if COLOURS[state] else state, self.names[number], self.said[number]
            )
        return table
