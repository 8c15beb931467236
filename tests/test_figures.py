"""Figures: what is on their axes, the run's name in the corner, and the PDF beside the PNG."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from fl_bench.data.arrays import FederatedData
from fl_bench.results import figures, pictures
from fl_bench.results.figures import save
from fl_bench.storage.folder import clear


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures by name, in place of their files."""
    kept: dict[str, Figure] = {}
    for module in (figures, pictures):
        monkeypatch.setattr(module, "save", lambda figure, folder, name: kept.update({name: figure}))
    return kept


def make_run(folder: Path, metrics: str, partition: str | None, num_clients: int, classes: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    if partition is not None:
        (folder / "partition.csv").write_text(f"client,label,samples\n{partition}")
    figures.draw(folder, num_clients, classes)


def test_images_stand_in_a_grid_under_their_words(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    images = np.arange(42, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 5, 10), np.uint8)
    data = FederatedData({}, {"x": images, "y": np.zeros(42, np.int64)}, ("a", "b"))
    pictures.predictions(tmp_path, data, (np.arange(42) == 41).astype(np.int64))
    axes = drawn["predictions"].axes[0]
    sheet = axes.images[0].get_array()
    assert sheet is not None
    assert sheet.shape[:2] == (60, 96)  # tiles of 12, room for a word over an image of at most 10
    assert [int(sheet[y, x].item()) for y, x in ((7, 1), (11, 10), (6, 1), (7, 13), (59, 94))] == [0, 0, 255, 1, 41]
    assert [(text.get_text(), text.get_color()) for text in axes.texts[-2:]] == [("a", "black"), ("a, not b", "red")]


NOBODY = "round,test_loss,clients_sampled,clients_ok,clients_dropped\n0,1.0,,,\n1,1.0,4,1,3\n2,1.0,4,4,0\n"
NAMES = ("worst", "NA", "2", "best", "nobody's")


def test_the_partition_has_a_place_for_each_client_and_the_labels_in_their_order(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    held = "1,best,5\n3,NA,2\n3,2,7\n4,worst,1\n"  # clients 0, 2 and 5 hold nothing
    make_run(tmp_path / "run", NOBODY, held, 6, NAMES)
    (axes,) = drawn["partition"].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2", "3", "4", "5"]
    assert axes.get_legend_handles_labels()[1] == ["worst", "NA", "2", "best"]
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [
        [0, 0, 0, 0, 1, 0], [0, 0, 0, 2, 0, 0], [0, 0, 0, 7, 0, 0], [0, 5, 0, 0, 0, 0],
    ]  # fmt: skip


def test_what_clients_hold_is_not_drawn_where_only_their_sites_know(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    make_run(tmp_path / "run", NOBODY, None, 6, NAMES)
    assert drawn.keys() == {"curves", "participation"}


def test_of_many_clients_those_without_samples_count(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    make_run(tmp_path / "run", NOBODY, "0,best,3\n0,NA,3\n7,best,2\n", 60, NAMES)
    (axes,) = drawn["partition"].axes
    assert axes.get_title() == "60 clients, on average 0.1 labels each"  # 3 / 60 = 0.05
    assert [bar.get_bbox().height for bar in axes.patches if isinstance(bar, Rectangle)] == [58, 0, 1, 0, 0, 0, 1]


def test_participation_goes_in_steps_and_each_round_is_as_wide(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    make_run(tmp_path / "run", NOBODY, "0,best,3\n", 1, NAMES)
    (axes,) = drawn["participation"].axes
    areas = [np.array(area.get_paths()[0].vertices) for area in axes.collections]
    assert len(areas) == 2
    for area in areas:
        across, up = np.abs(np.diff(area, axis=0)).T
        assert not (across * up).any()  # no slope
        assert (area[:, 0].min(), area[:, 0].max()) == (0.5, 2.5)
    assert {(1.5, 1.0), (1.5, 4.0)} <= set(map(tuple, areas[0].tolist()))  # who answered: 1, then 4


def test_each_figure_is_written_twice_with_the_name_of_its_run(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    run = tmp_path / "$x_1^$" / "試験\a" / "2026"
    make_run(run, NOBODY, "0,best,3\n", 1, NAMES)
    columns = {"x": np.zeros((3, 1, 4, 4), np.uint8), "y": np.array([0, 1, 1])}
    data, guesses = FederatedData(columns, columns, ("costs $3", "or $4")), np.array([0, 0, 1])
    pictures.predictions(run / "figures", data, guesses)
    pictures.confusion(run / "figures", data, guesses)
    pictures.sentences(run / "figures", data, np.arange(3), ["It costs $3 or $\\x", "試験", "good"], guesses)
    assert drawn.keys() == {"curves", "participation", "partition", "predictions", "confusion", "sentences"}
    for name, figure in drawn.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            save(figure, run / "figures", name)
        (text,) = (text for text in figure.findobj(Text) if text.get_text().endswith("2026"))
        assert (text.get_text(), text.get_color()) == (r"$x_1^$/試験\x07/2026", "grey")
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        pdf = (run / "figures" / f"{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF")
        assert b"/Creator" in pdf  # where it would say when it was made, too
        assert b"CreationDate" not in pdf
    assert len(list((run / "figures").iterdir())) == 12
    (run / "figures" / "mine.pdf").touch()
    (run / "figures" / "round_0001.pdf").touch()
    clear(run)
    assert {file.name for file in (run / "figures").iterdir()} == {"mine.pdf", "round_0001.pdf"}


def test_a_figure_is_drawn_once_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, drawings = Figure.draw, list[Figure]()

    def counted(self: Figure, renderer: Any) -> None:
        drawings.append(self)
        draw(self, renderer)

    monkeypatch.setattr(Figure, "draw", counted)
    make_run(tmp_path / "run", NOBODY, "0,best,3\n", 1, NAMES)
    assert len(drawings) == len(list((tmp_path / "run" / "figures").iterdir())) == 6


def test_equal_runs_have_equal_bytes(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        make_run(tmp_path / "run", NOBODY, "0,best,3\n", 1, NAMES)
        contents.append({file.name: file.read_bytes() for file in (tmp_path / "run" / "figures").iterdir()})
        shutil.rmtree(tmp_path / "run")
    assert contents[0] == contents[1]
