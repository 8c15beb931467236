"""What is said at the end of a sweep: its table, and where its report is."""

from collections.abc import Sequence
from pathlib import Path

from fl_bench.errors import FlBenchError, known, note, plain
from fl_bench.studies.sweep import FINAL, TUNING


def sum_up(folder: Path, by: Sequence[str] = ()) -> None:
    """Print the table of the runs below `folder`, and write their report there; a note says why there is none.

    `by` names the keys that make an arm, as for `study.load`. The report of the final runs of a tuning is that of the
    tuning, in its folder; what its arms name may be a condition, and so makes none.
    """
    from fl_bench.studies.study import load_finals  # pandas: once all cells have ended
    from fl_bench.studies.tables import text

    if folder.name == FINAL and (folder.parent / TUNING).is_file():
        folder, by = folder.parent, ()
    try:
        study = load_finals([folder], by)
        from fl_bench.studies.report import make  # SciPy and Matplotlib

        answer, (page, *_) = make(study, [folder], by)
        if answer:
            print(plain(text(answer)))
        print(plain(page))
    except (FlBenchError, OSError) as error:  # its runs are whole all the same
        note(f"there is no report of this sweep: {known(error)}")
