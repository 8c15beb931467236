"""What a person sees while a run goes on: a progress bar on a terminal, one line a round elsewhere."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from fl_bench.federation.rounds import Round
from fl_bench.metrics import WRITTEN, Metric, metric_of
from fl_bench.observers.base import Observer


class Console(Observer):
    def __init__(self, title: str, num_rounds: int, metrics: Mapping[str, Metric]) -> None:
        self.terminal = Terminal(highlight=False, soft_wrap=True)
        self.num_rounds = num_rounds
        self.metrics = metrics
        columns = (
            TextColumn(title, table_column=Column(min_width=len(title))),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        )
        self.progress = Progress(*columns, console=self.terminal, expand=True, disable=not self.terminal.is_terminal)
        self.bar = self.progress.add_task(title, total=num_rounds, metrics="starting")
        self.progress.start()  # while the workers are still starting

    def see(self, round: Round) -> None:
        shown = summary(round.row, self.metrics)
        if self.terminal.is_terminal:
            self.progress.update(self.bar, completed=round.number, metrics=shown)
        else:
            self.terminal.print(f"round {round.number}/{self.num_rounds}  {shown}")

    def close(self, status: str) -> None:
        self.progress.stop()


class Teller(Observer):
    """Says in a line how far the run has come, for who shows many runs at once."""

    def __init__(self, say: Callable[[str], None], num_rounds: int, metrics: Mapping[str, Metric]) -> None:
        self.say, self.num_rounds, self.metrics = say, num_rounds, metrics

    def see(self, round: Round) -> None:
        self.say(f"round {round.number}/{self.num_rounds}  {summary(round.row, self.metrics)}")


def summary(row: Mapping[str, Any], metrics: Mapping[str, Metric]) -> str:
    """The metrics of a row of metrics.csv in short, the most telling first: a narrow terminal cuts the others off."""
    names = [
        name
        for prefix in ("test_", "attack_", "validation_", "client_", "unseen_", "train_")
        for name in row
        if name.startswith(prefix) and not name.endswith(WRITTEN)  # how they are spread is for the tables
    ]
    shown = {name: found.shown if (found := metric_of(name, metrics)) else ".4f" for name in names}
    return "  ".join(f"{name}={row[name]:{shown[name]}}" for name in names)
