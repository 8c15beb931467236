"""What is said at the end of a sweep: its table, and where its report is."""

import shlex
from pathlib import Path

from fl_bench.errors import FlBenchError, known, note, plain


def sum_up(folder: Path) -> None:
    """Print the table of the runs below `folder`, and write their report there; a note says why there is none."""
    from fl_bench.studies import report  # pandas, SciPy and Matplotlib: once all cells have ended
    from fl_bench.studies.compare import compare
    from fl_bench.studies.study import load
    from fl_bench.studies.tables import text
    from fl_bench.studies.values import values

    try:
        study = load([folder])
        answer = compare(study)
        numbers, _ = values(study, answer.metric, "final")
        page, *_ = report.write(study, answer, numbers, folder, shlex.join(["fl-bench", "report", str(folder)]))
        print(plain(text(answer)))
        print(plain(page))
    except (FlBenchError, OSError) as error:  # its runs are whole all the same
        note(f"there is no report of this sweep: {known(error)}")
