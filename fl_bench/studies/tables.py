"""The tables of a comparison as a terminal, Markdown, LaTeX or a spreadsheet has them."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Cells as text: `parts` have each a heading, a setting or none, and rows as long as `header`.

    A paper calls it by its `name`, has the `caption` above it, and below it what the columns are, in `legend`.
    """

    header: Sequence[str]
    parts: Sequence[tuple[str, Sequence[Sequence[str]]]]
    name: str = ""
    caption: str = ""
    legend: Sequence[str] = ()


def tables_of(comparison: Comparison) -> list[Table]:
    """The differences, what they have cost, and the table over settings where there is one."""
    differences, costs, across = comparison.differences, comparison.costs, comparison.across
    virtual = costs["virtual_seconds"].any()
    number = numbers(differences["mean"])
    metric, captions = comparison.metric, comparison.captions
    against = "" if comparison.uncompared else ", and how it differs from the baseline"
    goal = f" up to a {metric} and" if captions["costs"] else ""
    found = [
        _table(differences, "differences", f"{metric} of each arm{against}", captions, {
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
        _table(costs, "costs", f"What the arms cost{goal} in all", captions, {
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
        found.append(_table(across, "across", f"{metric} over all settings", captions, {
            "arm": lambda row: row.arm,
            "settings": lambda row: str(row.settings),
            "interquartile mean": lambda row: _bracketed(number, row.middle, row.low, row.high),
            "mean difference": lambda row: number(row.difference, "+"),
            "p": lambda row: _p(row.p),
            "Holm": lambda row: _p(row.p_holm),
        }))  # fmt: skip
    return found


def _table(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    legends: Mapping[str, Sequence[str]],
    columns: Mapping[str, Callable[[Any], str]],
) -> Table:
    """A table of these columns, without those that are empty in all rows."""
    groups = frame.groupby("setting", sort=False) if "setting" in frame else [("", frame)]
    parts = [
        (str(name), [[cell(row) for cell in columns.values()] for row in part.itertuples()]) for name, part in groups
    ]
    told = [any(row[i] not in ("", NONE) for _, rows in parts for row in rows) for i in range(len(columns))]
    keep = [i for i, tells in enumerate(told) if tells]
    names, kept = list(columns), [(heading, [[row[i] for i in keep] for row in rows]) for heading, rows in parts]
    return Table([names[i] for i in keep], kept, name, caption, legends[name])


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


def text(comparison: Comparison, width: int | None = None) -> str:
    """Plain text of this width, the captions below: arms of long names take more than a line.

    Without a width no word of a name is broken; lines have 100 columns where such words leave room for that.
    """
    tables = tables_of(comparison)
    lines = [line for table in tables for line in (*_text(table, width), "")]
    said = [*_legends(tables), *(f"note: {note}" for note in comparison.notes)]
    return "\n".join(map(plain, [*lines, *(fill(line, width or WIDTH) for line in said), ""]))


def _legends(tables: Sequence[Table]) -> list[str]:
    return [line for table in tables for line in table.legend]


def _text(table: Table, width: int | None) -> Iterator[str]:
    rows = [table.header, *(row for _, rows in table.parts for row in rows)]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    least = FIRST if width else max(len(word) for row in rows for word in row[0].split())
    first = min(first, max(least, (width or WIDTH) - sum(others) - 2 * len(others)))

    def lines(row: Sequence[str]) -> Iterator[str]:
        name, *more = wrap(row[0], first, break_on_hyphens=False)
        cells = [name.ljust(first), *(cell.rjust(size) for cell, size in zip(row[1:], others, strict=True))]
        yield "  ".join(cells).rstrip()
        yield from more

    yield from lines(table.header)
    for heading, part in table.parts:
        yield heading or "-" * (first + sum(others) + 2 * len(others))
        for row in part:
            yield from lines(row)


def markdown(comparison: Comparison) -> str:
    return as_markdown(tables_of(comparison), [f"Note: {note}" for note in comparison.notes])


def as_markdown(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Tables that GitHub shows, and what their columns are."""
    return "\n".join([*_markdown(tables), *(f"{_cell(line)}\n" for line in (*_legends(tables), *notes))])


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
    return as_latex(tables_of(comparison), comparison.notes)


def as_latex(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    r"""A table* environment for each table, for a document with \usepackage{booktabs}; notes are comments."""
    lines = [line for table in tables for line in _latex(table)]
    return "\n".join([*(f"% {plain(note)}".replace("\n", " ") for note in notes), *lines, ""])


def _latex(table: Table) -> Iterator[str]:
    yield r"\begin{table*}"
    yield r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"
    yield rf"\caption{{{_tex(table.caption)}}}\label{{tab:{table.name}}}"
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
    if table.legend:
        yield rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {_tex(' '.join(table.legend))}}}"
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
