"""What a classifier's final model does with each class of the test set."""

from collections.abc import Sequence
from pathlib import Path

from numpy.typing import NDArray

from fl_bench.storage import files
from fl_bench.tallies import confusion, sides

COLUMNS = ("class", "count", "predicted", "correct", "accuracy", "precision", "f1")


def write(folder: Path, labels: NDArray, predicted: NDArray, classes: Sequence[str]) -> None:
    """Write confusion.csv and per_class.csv to `folder`; `labels` and `predicted` [N] are numbers of `classes`.

    confusion.csv has a row for each label and prediction that there are. per_class.csv has a row for each class: its
    `accuracy` is the share of its examples that are right, also known as recall, and `precision` the share of its
    predictions. Where there is nothing to divide by, a cell is empty.
    """
    cells = confusion(labels, predicted)
    held, guessed = sides(cells, 0), sides(cells, 1)
    rows = []
    for number, name in enumerate(classes):
        count, said, correct = held[number], guessed[number], cells.get((number, number), 0)
        shares = ((correct, count), (correct, said), (2 * correct, count + said))
        rows.append((name, count, said, correct, *(part / whole if whole else "" for part, whole in shares)))
    named = ((classes[label], classes[guess], number) for (label, guess), number in sorted(cells.items()))
    files.write(folder / "confusion.csv", files.csv_of([("label", "predicted", "count"), *named]))
    files.write(folder / "per_class.csv", files.csv_of([COLUMNS, *rows]))
