"""The tables of a run: rows are on disk as soon as they are written."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Columns stand in the order of these names and prefixes, then in the order they came.
ORDER = ("round", "client", "status", "num_examples", "train_", "test_", "client_", "clients_", "aggregated", "bytes_")


class Recorder:
    """CSV files in one folder. A table grows a column when a row brings one; cells of unknown value stay empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._columns: dict[str, list[str]] = {}

    def write(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to `<table>.csv`. Floats are written so that they read back to the same bits."""
        rows = list(rows)
        file = self.folder / f"{table}.csv"
        columns = self._columns.setdefault(table, [])
        if new := [name for name in dict.fromkeys(name for row in rows for name in row) if name not in columns]:
            old = list(csv.DictReader(file.read_text().splitlines())) if columns else []
            columns[:] = sorted(columns + new, key=_rank)
            self._save(file, "w", columns, [dict(zip(columns, columns, strict=True)), *old])
        self._save(file, "a", columns, rows)

    @staticmethod
    def _save(file: Path, mode: str, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
        with file.open(mode, newline="") as stream:
            csv.DictWriter(stream, columns, lineterminator="\n").writerows(rows)


def _rank(column: str) -> int:
    matches = (i for i, name in enumerate(ORDER) if column == name or (name.endswith("_") and column.startswith(name)))
    return next(matches, len(ORDER))
