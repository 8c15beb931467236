"""Who else is told of a run's numbers: a tracker, and the observer that keeps its trouble away from the run."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_bench.errors import ConfigError, in_one_line, note
from fl_bench.observers.base import Observer
from fl_bench.storage import files, run_json

if TYPE_CHECKING:
    from fl_bench.federation.rounds import Round


class Tracker:
    """Tracks nothing: `tracker=none`. Those that do inherit from it, a file and a yaml each.

    A tracker of your own is a class in any module that can be imported, and a `tracker/NAME.yaml` in a folder given
    as --config-dir: a comment of one line, `_target_: MODULE.CLASS`, and the arguments of __init__ as keys.

    Must:
    - __init__ is quick and imports nothing heavy. What it raises refuses the run before it begins: ConfigError for a
      package that is not there (see `need`), ValueError for a value that cannot be. Later errors cannot end the run.
    - `begin` replaces what an earlier attempt at the run in this folder has left. After a resume all rows are given
      again, from round 0, so that there is neither a gap nor a double.
    - Nothing may change the run: leave the global random generators, signal handlers and the current folder alone.
      When `end` returns, no process or thread of the tracker's own is left.

    May:
    - leave out any method that it has no use for, raise anything in any of them, and keep what it likes in `self`.
    """

    def begin(self, run: Mapping[str, Any], folder: Path) -> None:
        """The run in `folder` begins or goes on; `run` is its run.json: config, seed, versions, hardware, ..."""

    def log(self, round: int, numbers: Mapping[str, float]) -> None:
        """What a round has brought, by the columns of metrics.csv. Round 0 is first; numbers may be NaN or infinite."""

    def end(self, status: str) -> None:
        """No more rounds come. The status is done, failed, invalid or interrupted; a killed run only ends when it is
        exported, as running."""


class Tracking(Observer):
    """Lets a tracker watch a run, of which metrics.csv has these `rows` already.

    Whatever the tracker raises is one note, and the tracker is off from then on.
    """

    def __init__(self, tracker: Tracker, folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        self.tracker: Tracker | None = tracker  # None once it is off
        self.folder = folder
        self.rows = rows

    def begin(self) -> None:
        self._tell(lambda tracker: tracker.begin(run_json.read(self.folder), self.folder))
        for row in self.rows:
            self._log(row)

    def see(self, round: "Round") -> None:
        self._log(round.row)

    def _log(self, row: Mapping[str, Any]) -> None:
        """Give it the numbers of a row of metrics.csv, as it is written or as it is read back."""
        numbers = {name: float(cell) for name, cell in row.items() if name != "round" and _is_number(cell)}
        self._tell(lambda tracker: tracker.log(int(row["round"]), numbers))

    def close(self, status: str) -> None:
        self._tell(lambda tracker: tracker.end(status))

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        if (tracker := self.tracker) is None:
            return
        try:
            what(tracker)
        except (Exception, SystemExit) as error:
            self.tracker = None
            why = in_one_line(error)  # type: ignore[arg-type]  # SystemExit has all that it takes
            note(f"tracker: {type(tracker).__name__} is off from now on, the run is not touched: {why}")
            with suppress(Exception, SystemExit):
                tracker.end("failed")  # so that it can let go of what it holds


def need(package: str) -> None:
    """Refuse the tracker whose package, and extra, is not installed. Looks for it without importing it."""
    if find_spec(package) is None:
        raise ConfigError(f"tracker={package}: needs the package {package}: pip install 'fl-bench[{package}]'")


def title(folder: Path) -> str:
    """What a run is called beside others: the end of its path.

    >>> title(Path("outputs/mnist/fedavg/2026-11-25_12-00-00-000000"))
    'mnist/fedavg/2026-11-25_12-00-00-000000'
    """
    return "/".join(folder.absolute().parts[-3:])


def identity(folder: Path) -> str:
    """Sixteen characters that the run in this folder always has: by them a tracker finds what it replaces."""
    return files.digest(str(folder.absolute()).encode())[:16]


def _is_number(cell: Any) -> bool:
    """Whether a cell says a number: an empty one is of unknown value."""
    try:
        float(cell)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
