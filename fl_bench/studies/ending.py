"""What is said at the end of a sweep: its table, and where its report is."""

from pathlib import Path

from fl_bench.errors import FlBenchError, known, note, plain


def sum_up(folder: Path) -> None:
    """Print the table of the runs below `folder`, and write their report there; a note says why there is none."""
    from fl_bench.studies.study import load  # pandas: once all cells have ended
    from fl_bench.studies.tables import text

    try:
        study = load([folder])
        from fl_bench.studies.report import make  # SciPy and Matplotlib

        answer, (page, *_) = make(study, [folder])
        print(plain(text(answer)))
        print(plain(page))
    except (FlBenchError, OSError) as error:  # its runs are whole all the same
        note(f"there is no report of this sweep: {known(error)}")
