"""What is said at the end of a sweep: its table, and where its report is."""

from collections.abc import Sequence
from pathlib import Path

from fl_bench.errors import FlBenchError, known, note, plain


def sum_up(folder: Path, by: Sequence[str] = ()) -> None:
    """Print the table of the runs below `folder`, and write their report there; a note says why there is none.

    `by` names the keys that make an arm, as for `study.load`.
    """
    from fl_bench.studies.study import load  # pandas: once all cells have ended
    from fl_bench.studies.tables import text

    try:
        study = load([folder], by)
        from fl_bench.studies.report import make  # SciPy and Matplotlib

        answer, (page, *_) = make(study, [folder], by)
        print(plain(text(answer)))
        print(plain(page))
    except (FlBenchError, OSError) as error:  # its runs are whole all the same
        note(f"there is no report of this sweep: {known(error)}")
