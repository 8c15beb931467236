"""What a person sees while a run goes on: a progress bar on a terminal, one line a round elsewhere."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from fl_bench.metrics import WRITTEN


class Reporter:
    """A context in which `show` is called with each round's row."""

    def __init__(self, title: str, num_rounds: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.num_rounds = num_rounds
        columns = (
            TextColumn(title, table_column=Column(min_width=len(title))),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        )
        self.progress = Progress(*columns, console=self.console, expand=True, disable=not self.console.is_terminal)
        self.bar = self.progress.add_task(title, total=num_rounds, metrics="starting")

    def __enter__(self) -> "Reporter":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.progress.stop()

    def show(self, row: Mapping[str, Any]) -> None:
        metrics = summary(row)
        if self.console.is_terminal:
            self.progress.update(self.bar, completed=row["round"], metrics=metrics)
        else:
            self.console.print(f"round {row['round']}/{self.num_rounds}  {metrics}")


def summary(row: Mapping[str, Any]) -> str:
    """The metrics of a row of metrics.csv in short, the most telling first: a narrow terminal cuts the others off."""
    names = [
        name
        for prefix in ("test_", "client_", "train_")
        for name in row
        if name.startswith(prefix) and not name.endswith(WRITTEN)  # how they are spread is for the tables
    ]
    return "  ".join(f"{name}={row[name]:.4f}" for name in names)
