"""CSV files that a run appends to: rows are on disk as soon as they are written."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from fl_bench.errors import Damaged
from fl_bench.storage import files

# Columns stand in the order of these names and prefixes, then in the order they came.
ORDER = (
    "round",
    "client",
    "status",
    "num_examples",
    "train_",
    "test_",
    "attack_",
    "validation_",
    "client_",
    "unseen_",
    "clients_",
    "aggregated",
    "steps",
    "bytes_",
)

NAMES = ("clients", "metrics", "timing")  # the tables that a checkpoint may know


@dataclass
class Table:
    """What has been written to one file."""

    columns: list[str] = field(default_factory=list)
    num_rows: int = 0
    digest: Any = field(default_factory=xxhash.xxh3_128)  # of its bytes, so far


class Tables:
    """CSV files in one folder. A table grows a column when a row brings one; cells of unknown value stay empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, Table] = {}
        self._texts: dict[str, bytes] = {}  # of files that are to be brought back, until they are

    def write(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to `<name>.csv`. Floats are written so that they read back to the same bits."""
        rows = list(rows)
        table = self._tables.setdefault(name, Table())
        known = table.columns
        if new := [column for column in dict.fromkeys(column for row in rows for column in row) if column not in known]:
            table.columns = sorted(known + new, key=_rank)
            files.write(self._file(name), self._reread(name, table))
        text = _text(table.columns, rows)
        with files.naming(self._file(name)), self._file(name).open("ab") as stream:
            stream.write(text)
        table.digest.update(text)
        table.num_rows += len(rows)

    def rows(self, name: str) -> list[Mapping[str, Any]]:
        """The rows of a table so far, as text; none of a file that an earlier run has left."""
        table = self._tables.get(name, Table())
        return self._first_rows(name, table.num_rows)

    def sync(self) -> None:
        """Wait until all rows are on disk."""
        for name in self._tables:
            files.sync(self._file(name))

    def __getstate__(self) -> dict[str, Any]:
        return {name: [t.columns, t.num_rows, t.digest.hexdigest()] for name, t in self._tables.items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take up the tables as they were; `settle` brings the files back. Raises Damaged where their rows differ."""
        self._tables, self._texts = {}, {}
        for name, (columns, num_rows, digest) in state.items():
            if name not in NAMES:
                raise Damaged(f"{self.folder}: its checkpoint has a table {name!r}, which fl-bench does not write")
            table = self._tables[name] = Table(columns, num_rows)
            try:
                self._texts[name] = self._reread(name, table)
            except FileNotFoundError:
                raise Damaged(f"{self._file(name)}: is missing") from None
            if table.digest.hexdigest() != digest:
                raise Damaged(f"{self._file(name)}: is damaged: its first {num_rows} rows are not those written")

    def settle(self) -> None:
        """Remove later and half-written rows from the files."""
        while self._texts:
            files.write(self._file(name := min(self._texts)), self._texts.pop(name))

    def _reread(self, name: str, table: Table) -> bytes:
        """The file as it is with the table's columns and its first rows."""
        rows = self._first_rows(name, table.num_rows)
        header = [dict(zip(table.columns, table.columns, strict=True))] if table.columns else []
        text = _text(table.columns, [*header, *rows])
        table.digest = xxhash.xxh3_128(text)
        return text

    def _first_rows(self, name: str, count: int) -> list[Mapping[str, Any]]:
        if not count:
            return []
        return list(islice(rows_of(self._file(name)), count))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.csv"


def rows_of(file: Path) -> Iterator[Mapping[str, str]]:
    """The rows of a table as text. Raises Damaged where it is none."""
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        try:
            yield from csv.DictReader(stream)
        except csv.Error as error:
            raise Damaged(f"{file}: is damaged: {error}") from None


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO(newline="")
    csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="ignore").writerows(rows)
    return stream.getvalue().encode(errors="backslashreplace")


def _rank(column: str) -> int:
    matches = (i for i, name in enumerate(ORDER) if column == name or (name.endswith("_") and column.startswith(name)))
    return next(matches, len(ORDER))
