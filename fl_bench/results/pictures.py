"""Pictures that tasks draw of what their model does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fl_bench import tallies
from fl_bench.data.arrays import FederatedData
from fl_bench.results.figures import save


def predictions(folder: Path, data: FederatedData, predicted: NDArray) -> None:
    """A grid of test images, evenly chosen, with their labels and, in red where it is wrong, the prediction."""
    images, columns = data.test["x"], 8
    channels, height, width = images.shape[1:]
    side = max(height, width)
    room = -(-side // 5)  # for words
    tile = side + room
    sheet = np.full((5 * tile, columns * tile, channels), 255, np.uint8)  # an Axes for each image would take seconds
    figure = Figure(figsize=(10, 6.5))
    axes = figure.add_axes((0, 0.03, 1, 0.97))
    axes.axis("off")
    for place, row in enumerate(np.linspace(0, len(predicted) - 1, min(40, len(predicted))).astype(int)):
        bottom, left = (place // columns + 1) * tile, place % columns * tile + (tile - width) // 2
        sheet[bottom - height : bottom, left : left + width] = images[row].transpose(1, 2, 0)
        label, guess = data.classes[data.test["y"][row]], data.classes[predicted[row]]
        words, colour = (label, "black") if guess == label else (f"{label}, not {guess}", "red")
        axes.text(left + width / 2, bottom - height - room / 3, words, fontsize=8, color=colour, ha="center")
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    save(figure, folder, "predictions")


def confusion(folder: Path, data: FederatedData, predicted: NDArray) -> None:
    """Label against prediction, as shares of the label."""
    num_classes = len(data.classes)
    counts = np.zeros((num_classes, num_classes), np.int64)
    for cell, number in tallies.confusion(data.test["y"], predicted).items():
        counts[cell] = number
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the label")
    axes.set_xticks(range(num_classes), data.classes, rotation=45, ha="right")
    axes.set_yticks(range(num_classes), data.classes)
    for (label, guess), count in np.ndenumerate(counts):
        if count:
            axes.text(
                guess,
                label,
                str(count),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shares[label, guess] > 0.5 else "black",
            )
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    save(figure, folder, "confusion")


def sentences(folder: Path, data: FederatedData, rows: NDArray, texts: list[str], predicted: NDArray) -> None:
    """These test sentences with label and, in red where it is wrong, the prediction."""
    figure, axes, (top, *heights) = _lines(11, len(rows) + 1)
    for left, head in ((0.01, "label, not prediction"), (0.2, "test sentence")):
        axes.text(left, top, head, fontsize=9, color="grey")
    for height, row, text in zip(heights, rows, texts, strict=True):
        label, guess = data.classes[data.test["y"][row]], data.classes[predicted[row]]
        colour = "black" if guess == label else "red"
        axes.text(0.01, height, label if guess == label else f"{label}, not {guess}", color=colour, fontsize=9)
        axes.text(0.2, height, _short(text, 110), fontsize=9, color=colour)
    save(figure, folder, "sentences")


def answers(folder: Path, lines: Sequence[Sequence[str]]) -> None:
    """What is asked, the right answer and, in red where it is another, the model's answer; a line for each."""
    heads = ("asked", "the right answer", "the model's, at most as long")
    figure, axes, (top, *heights) = _lines(12, len(lines) + 1)
    for left, head in zip(places := (0.01, 0.5, 0.75), heads, strict=True):
        axes.text(left, top, head, fontsize=9, color="grey")
    for height, (asked, right, made) in zip(heights, lines, strict=True):
        told = (asked, 80, "black"), (right, 40, "black"), (made, 40, "black" if made == right else "red")
        for left, (text, most, colour) in zip(places, told, strict=True):
            shown = _short(" ".join(text.split()), most)
            axes.text(left, height, shown, fontsize=9, color=colour, parse_math=False)
    save(figure, folder, "answers")


def _lines(width: float, count: int) -> tuple[Figure, Axes, list[float]]:
    """An empty page for so many lines, and how high each of them stands."""
    figure = Figure(figsize=(width, 0.36 * count + 0.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    return figure, axes, [1 - (line + 0.8) / (count + 0.6) for line in range(count)]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
