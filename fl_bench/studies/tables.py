"""The tables of a comparison as a terminal, Markdown, LaTeX or a spreadsheet has them."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill, wrap
from typing import Any

import pandas as pd
from rich.filesize import decimal

from fl_bench.errors import plain
from fl_bench.studies.compare import Comparison

WIDTH = 100  # columns of text that is not for a terminal
FIRST = 12  # of which at least this many are for the arm
NONE = "-"
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "|": r"\textbar{}", '"': "''",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells as text: `parts` have each a heading, a setting or none, and rows as long as `header`."""

    header: Sequence[str]
    parts: Sequence[tuple[str, Sequence[Sequence[str]]]]


def tables_of(comparison: Comparison) -> list[Table]:
    """The differences, what they have cost, and the table over settings where there is one."""
    differences, costs, across = comparison.differences, comparison.costs, comparison.across
    virtual = costs["virtual_seconds"].any()
    number = numbers(differences["mean"])
    found = [
        _table(differences, {
            "arm": lambda row: row.arm,
            "n": lambda row: str(row.pairs or row.runs),
            "mean": lambda row: _with_half(number, row.mean, row.half),
            "difference": lambda row: _with_half(number, row.difference, row.difference_half, "+"),
            "p": lambda row: _p(row.p),
            "Holm": lambda row: _p(row.p_holm),
            "flips": lambda row: _p(row.p_flip),
            "won": lambda row: _fixed(row.p_better),
            "d_z": lambda row: _fixed(row.effect),
            "need": lambda row: _fixed(row.needed, 0),
            "verdict": lambda row: row.verdict,
        }),
        _table(costs, {
            "arm": lambda row: f"{row.arm}{' with ' if row.also else ''}{row.also}",
            "target": lambda row: number(row.target, ""),
            "reached": lambda row: NONE if math.isnan(row.target) else f"{row.reached} of {row.runs}",
            "rounds": lambda row: _reached(row.rounds_to, lambda value: f"{value:g}"),
            "steps": lambda row: _reached(row.steps_to, lambda value: f"{value:.0f}"),
            "bytes": lambda row: _reached(row.bytes_to, lambda value: decimal(int(value))),
            "virtual s": lambda row: _reached(row.virtual_seconds_to, lambda value: f"{value:.1f}") if virtual else "",
            "all bytes": lambda row: decimal(int(row.bytes)),
            "wall s": lambda row: f"{row.wall_seconds:.1f}",
        }),
    ]  # fmt: skip
    if len(across):
        found.append(_table(across, {
            "arm": lambda row: row.arm,
            "settings": lambda row: str(row.settings),
            "interquartile mean": lambda row: _bracketed(number, row.middle, row.low, row.high),
            "difference": lambda row: number(row.difference, "+"),
            "p": lambda row: _p(row.p),
            "Holm": lambda row: _p(row.p_holm),
        }))  # fmt: skip
    return found


def _table(frame: pd.DataFrame, columns: dict[str, Callable[[Any], str]]) -> Table:
    """A table of these columns, without those that are empty in all rows."""
    groups = frame.groupby("setting", sort=False) if "setting" in frame else [("", frame)]
    parts = [
        (str(name), [[cell(row) for cell in columns.values()] for row in part.itertuples()]) for name, part in groups
    ]
    told = [any(row[i] not in ("", NONE) for _, rows in parts for row in rows) for i in range(len(columns))]
    keep = [i for i, tells in enumerate(told) if tells]
    names = list(columns)
    return Table([names[i] for i in keep], [(name, [[row[i] for i in keep] for row in rows]) for name, rows in parts])


def numbers(values: pd.Series) -> Callable[[float, str], str]:
    """Writes numbers like these: with four digits of the largest, or NONE."""
    digits = max(0, 3 - math.floor(math.log10(largest))) if (largest := values.abs().max()) else 4
    return lambda value, sign: NONE if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _with_half(number: Callable[[float, str], str], value: float, half: float, sign: str = "") -> str:
    return number(value, sign) + ("" if math.isnan(half) else f" ± {number(half, '')}")


def _bracketed(number: Callable[[float, str], str], value: float, low: float, high: float) -> str:
    return f"{number(value, '')} [{number(low, '')}, {number(high, '')}]"


def _p(value: float) -> str:
    return NONE if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _fixed(value: float, digits: int = 2) -> str:
    return NONE if math.isnan(value) else f"{value:.{digits}f}"


def _reached(value: float, said: Callable[[float], str]) -> str:
    return NONE if math.isnan(value) else "never" if math.isinf(value) else said(value)


def text(comparison: Comparison, width: int = WIDTH) -> str:
    """Plain text of this width, the captions below: arms of long names take more than a line."""
    lines = [line for table in tables_of(comparison) for line in (*_text(table, width), "")]
    notes = (f"note: {note}" for note in comparison.notes)
    return "\n".join(map(plain, [*lines, *(fill(line, width) for line in (*comparison.captions, *notes)), ""]))


def _text(table: Table, width: int) -> Iterator[str]:
    rows = [table.header, *(row for _, rows in table.parts for row in rows)]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    first = min(first, max(FIRST, width - sum(others) - 2 * len(others)))

    def lines(row: Sequence[str]) -> Iterator[str]:
        name, *more = wrap(row[0], first) or [""]
        cells = [name.ljust(first), *(cell.rjust(size) for cell, size in zip(row[1:], others, strict=True))]
        yield "  ".join(cells).rstrip()
        yield from more

    yield from lines(table.header)
    for heading, part in table.parts:
        yield heading or "-" * (first + sum(others) + 2 * len(others))
        for row in part:
            yield from lines(row)


def markdown(comparison: Comparison) -> str:
    notes = [f"Note: {note}" for note in comparison.notes]
    return as_markdown(tables_of(comparison), [*comparison.captions, *notes])


def as_markdown(tables: Sequence[Table], captions: Sequence[str]) -> str:
    """Tables that GitHub shows, and the captions."""
    return "\n".join([*_markdown(tables), *(f"{_cell(line)}\n" for line in captions)])


def _markdown(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        yield _row(table.header)
        yield _row(["---", *["---:"] * (len(table.header) - 1)])
        for heading, rows in table.parts:
            if heading:
                yield _row([f"**{_cell(heading)}**", *[""] * (len(table.header) - 1)])
            yield from (_row(map(_cell, row)) for row in rows)
        yield ""


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(words: str) -> str:
    return re.sub(r"([\\|<>*`\[\]_])", r"\\\1", plain(words).replace("\n", " "))


def latex(comparison: Comparison) -> str:
    return as_latex(tables_of(comparison), comparison.captions, comparison.notes)


def as_latex(tables: Sequence[Table], captions: Sequence[str], notes: Sequence[str] = ()) -> str:
    r"""A table* environment for each table, for a document with \usepackage{booktabs}; notes are comments."""
    lines = [line for table in tables for line in _latex(table)]
    lines.insert(2, rf"\caption{{{' '.join(map(_tex, captions))}}}")
    return "\n".join([*(f"% {plain(note)}".replace("\n", " ") for note in notes), *lines, ""])


def _latex(table: Table) -> Iterator[str]:
    yield r"\begin{table*}"
    yield r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"
    yield rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}"
    yield r"\toprule"
    yield _tex_row(table.header)
    for heading, rows in table.parts:
        yield r"\midrule"
        if heading:
            yield rf"\multicolumn{{{len(table.header)}}}{{l}}{{{_tex(heading)}}} \\"
        yield from map(_tex_row, rows)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield r"\end{table*}"


def _tex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_tex, cells))} \\\\"


def _tex(words: str) -> str:
    """The words as LaTeX shows them: what it would obey, and what its plain fonts lack, stands escaped."""
    line = plain(words).replace("\n", " ")
    return re.sub(r"(?:^|(?<=[ \[]))-(?=\d)", "$-$", "".join(TEX.get(c, c) for c in line))


def csv(comparison: Comparison) -> str:
    """Both tables as one, a line for each setting, arm and target, in unrounded numbers."""
    shared = ["setting", "arm", "also", "runs"]
    return comparison.differences.merge(comparison.costs, on=shared).to_csv(index=False, lineterminator="\n")


FORMATS: dict[str, Callable[[Comparison], str]] = {"text": text, "markdown": markdown, "latex": latex, "csv": csv}
