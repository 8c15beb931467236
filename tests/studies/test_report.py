"""What `fl-bench report` writes: a page that does what its buttons say, one table, and figures for papers."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from browser import PATH, Page, opened
from made import make_run, write
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from fl_bench import cli
from fl_bench.storage import run_json
from fl_bench.studies import drawn, plots

EVIL = "</script><script>window.bad=1</script><b>\"'&"
CURVES = {
    "fedavg": [[0.1, 0.4, 0.5], [0.1, 0.5, 0.6], [0.1, 0.6, 0.7]],
    "scaffold": [[0.1, 0.6, 0.8], [0.1, 0.7, 0.9], [0.1, 0.8, 0.9]],
    EVIL: [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.4]],
}


def a_study(folder: Path) -> Path:
    """Three arms of three seeds, with what clients measured, who holds what, and a picture; and a run that failed."""
    for number, (strategy, curves) in enumerate(CURVES.items()):
        for seed, curve in enumerate(curves):
            run = make_run(folder / f"{number}_{seed}", curve, f"strategy={strategy}", f"seed={seed}")
            clients = [(2, client, value) for client, value in enumerate((0.2, 0.4, 0.9))]
            write(run, "clients", [("round", "client", "client_accuracy"), (1, 0, 0.0), *clients])
            write(run, "partition", [("client", "label", "samples"), (0, "cat", 3), (1, "<i>dog", 4), (1, "cat", 1)])
            (run / "figures").mkdir()
            Image.new("RGB", (900, 300), "teal").save(run / "figures" / "predictions.png")
            run_json.save(run, run_json.read(run) | {"files": run_json.seals(run)})
    make_run(folder / "broken", [0.1], "seed=9", status="failed", error="<script>no</script>")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = a_study(tmp_path_factory.mktemp("study"))
    assert cli.dispatch(["report", str(folder)]) == 0
    return folder


def test_one_table_has_every_round_with_its_overrides_and_costs(study: Path) -> None:
    table, same = pd.read_csv(study / "study.csv"), pd.read_parquet(study / "study.parquet")
    assert len(table) == len(same) == 9 * 3
    row = table[(table["strategy"] == "scaffold") & (table["seed"] == 1) & (table["round"] == 2)].iloc[0]
    assert (row["test_accuracy"], row["bytes"], row["wall_seconds"], row["arm"]) == (0.9, 400, 30, "scaffold")
    np.testing.assert_array_equal(table["test_accuracy"], same["test_accuracy"])


def test_a_report_again_has_the_same_bytes(study: Path) -> None:
    files = [file for file in (study, *study.glob("report")) for file in file.glob("*.*") if file.is_file()]
    before = {file.name: file.read_bytes() for file in files}
    assert len(before) == 11
    assert cli.dispatch(["report", str(study)]) == 0
    assert {file.name: file.read_bytes() for file in files} == before


def test_words_of_users_are_no_html(study: Path) -> None:
    text = (study / "report.html").read_text()
    assert text.count("<script") == 2
    assert "<script>no" not in text
    assert "<i>dog" not in text
    assert "https:" not in text
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address


def test_the_page_of_fifty_runs_stays_small(tmp_path: Path) -> None:
    for number in range(50):
        generator = np.random.default_rng(number)
        run = make_run(
            tmp_path / str(number),
            generator.random(101).tolist(),
            f"strategy={'ab'[number % 2]}",
            f"seed={number // 2}",
        )
        table = pd.read_csv(run / "metrics.csv")
        more = {f"client_accuracy_{name}": generator.random(101) for name in "abcdefghijklmnopqrst"}
        table.assign(**more).to_csv(run / "metrics.csv", index=False)
        run_json.save(run, run_json.read(run) | {"files": run_json.seals(run)})
    assert cli.dispatch(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size < 2e6


def the_page_opens_without_a_word_in_the_console(study: Path, page: Page) -> None:
    assert page.js("window.bad") is None
    assert page.js("[...document.querySelectorAll('#legend button')].map(b => b.textContent)") == list(CURVES)
    assert page.js("document.querySelectorAll('#curves .curve').length") == 3
    assert page.js("document.querySelectorAll('#curves .band').length") == 3
    assert page.js("document.querySelectorAll('#clients .curve').length") == 3
    assert page.js("[...document.querySelectorAll('img')].map(i => i.naturalWidth)") == [720, 720, 720]
    titles = "[...document.querySelectorAll('#partitions title')].map(t => t.textContent)"
    assert page.js(titles) == ["client 0, <i>dog: 0", "client 1, <i>dog: 4", "client 0, cat: 3", "client 1, cat: 1"]
    assert "broken" in page.js("document.getElementById('skipped').textContent")


def choose(page: Page, select: str, value: str) -> None:
    page.js(f"{select}.value = '{value}'; {select}.dispatchEvent(new Event('change'))")


def curves_switch_metric_axis_and_what_is_shown_of_seeds(study: Path, page: Page) -> None:
    label = "document.querySelector('#curves svg').getAttribute('aria-label')"
    before = page.js("document.querySelector('#curves .curve').getAttribute('d')")
    assert page.js(label) == "test_accuracy over round"
    choose(page, "axis", "bytes")
    assert page.js(label) == "test_accuracy over bytes both ways"
    choose(page, "axis", "steps")
    assert page.js(label) == "test_accuracy over steps of all clients"
    choose(page, "axis", "wall_seconds")
    assert page.js("document.querySelector('#curves svg').textContent").count("30 s") == 1
    choose(page, "band", "runs")
    assert page.js("document.querySelectorAll('#curves .curve').length") == 9
    choose(page, "band", "interval")
    choose(page, "axis", "round")
    assert page.js("document.querySelector('#curves .curve').getAttribute('d')") != before  # intervals need more room
    assert page.js("points(runsOf(0, 0))[2].high") == pytest.approx(0.6 + 4.3027 * 0.1 / 3**0.5, rel=1e-4)


def an_arm_is_hidden_and_shown(study: Path, page: Page) -> None:
    page.js("document.querySelectorAll('#legend button')[1].click()")
    assert page.js("[...document.querySelectorAll('#curves .curve')].map(c => c.dataset.arm)") == ["0", "2"]
    assert page.js("document.querySelectorAll('#runs tbody tr:not([hidden])').length") == 6
    assert page.js("document.querySelectorAll('#legend button')[1].getAttribute('aria-pressed')") == "false"
    page.js("document.querySelectorAll('#legend button')[1].click()")
    assert page.js("document.querySelectorAll('#curves .curve').length") == 3


def column(page: Page, table: str, number: int) -> Any:
    return page.js(f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{number}].textContent)")


def tables_sort_by_number_and_by_word(study: Path, page: Page) -> None:
    names = page.js("[...document.querySelectorAll('#runs th')].map(h => h.textContent)")
    assert names == ["arm", "seed", "test_accuracy", "rounds", "bytes", "wall s", "folder", "changes"]
    page.js("document.querySelectorAll('#runs th button')[2].click()")
    assert column(page, "runs", 2) == ["0.3", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "0.9"]
    page.js("document.querySelectorAll('#runs th button')[2].click()")
    assert column(page, "runs", 2)[0] == "0.9"
    assert page.js("document.querySelectorAll('#runs th')[2].ariaSort") == "descending"
    page.js("document.querySelectorAll('#runs th button')[0].click()")
    assert column(page, "runs", 0) == [EVIL] * 3 + ["fedavg"] * 3 + ["scaffold"] * 3


def cells_have_the_values_that_they_show(study: Path, page: Page) -> None:
    cells = ["<0.001", "+0.0748 ± 0.0804", "-3", "3.5 MB", "400 bytes", "3 of 4", "0.77 [0.74, 0.78]", "1,023 bytes"]
    values = [0.001, 0.0748, -3, 3.5e6, 400, 3, 0.77, 1023]
    assert page.js(f"{json.dumps(cells)}.map(valueOf)") == pytest.approx(values)
    assert page.js("valueOf('never') === Infinity && isNaN(valueOf('-')) && isNaN(valueOf(''))")


def values_show_under_the_pointer_and_by_keys(study: Path, page: Page) -> None:
    page.js("document.querySelector('#curves svg').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")
    tip = "document.querySelector('.tip').textContent"
    assert page.js(tip).startswith("round 1fedavg0.50000.4000 to 0.6000scaffold0.70000.6000 to 0.8000")
    page.js("document.querySelector('#curves svg').scrollIntoView()")
    left, width, top = page.js(
        "(b => [b.left, b.width, b.top])(document.querySelector('#curves svg').getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + width - 15, y=top + 100)
    assert page.js(tip).startswith("round 2fedavg0.60000.5000 to 0.7000")
    inside = "(t, f) => t.left >= f.left && t.right <= f.right && t.top >= f.top && t.bottom <= f.bottom"
    boxes = [f"document.querySelector('#curves {name}').getBoundingClientRect()" for name in (".tip", "figure")]
    assert page.js(f"({inside})({', '.join(boxes)})")


def no_column_is_cut_off(study: Path, page: Page) -> None:
    assert page.js("document.querySelectorAll('#runs tbody tr')[8].cells[0].classList.contains('long')")  # of EVIL
    page.js("document.querySelectorAll('#runs td.text').forEach(cell => cell.append('strategy.mu=0.1, '.repeat(9)))")
    page.js("document.querySelectorAll('#runs td.text').forEach(cell => cell.classList.add('long'))")
    assert page.js("(wide => wide.scrollWidth - wide.clientWidth)(document.querySelector('#runs').parentElement)") == 0


def equal_arms_are_both_seen(study: Path, page: Page) -> None:
    assert page.js("document.querySelectorAll('#pareto .hollow').length") == 3
    assert page.js("getComputedStyle(document.querySelector('#pareto .hollow')).fill") == "none"


def the_page_is_as_wide_as_a_narrow_window(study: Path, page: Page) -> None:
    page.open(study / "report.html", 400)
    assert page.js("document.documentElement.scrollWidth") == 400
    assert page.js("document.querySelector('#curves svg').getBoundingClientRect().width") > 300


CHECKS = (
    the_page_opens_without_a_word_in_the_console,
    curves_switch_metric_axis_and_what_is_shown_of_seeds,
    an_arm_is_hidden_and_shown,
    tables_sort_by_number_and_by_word,
    cells_have_the_values_that_they_show,
    values_show_under_the_pointer_and_by_keys,
    no_column_is_cut_off,
    equal_arms_are_both_seen,
    the_page_is_as_wide_as_a_narrow_window,
)


@pytest.mark.skipif(PATH is None, reason="no Chromium is there")
def test_a_browser_does_what_the_page_says(study: Path, tmp_path: Path) -> None:
    with opened(tmp_path) as page:  # one for all checks: it takes a second to start
        for check in CHECKS:
            page.open(study / "report.html")
            check(study, page)
            assert page.errors == [], check.__name__


def test_figures_fit_a_column_and_have_their_fonts(study: Path) -> None:
    names = {f"{name}.{kind}" for name in ("curves_round", "curves_traffic", "pareto") for kind in ("pdf", "png")}
    assert {file.name for file in (study / "report").iterdir()} == {"table.md", "table.tex"} | names
    text = (study / "report" / "curves_round.pdf").read_bytes()
    assert re.search(rb"/MediaBox \[ 0 0 237\.6 ", text)  # 3.3 inches of 72 points
    assert b"/FontFile2" in text  # TrueType, embedded
    assert b"/Type3" not in text
    assert b"CreationDate" not in text


def test_means_are_of_rounds_that_all_runs_have() -> None:
    rounds = pd.DataFrame({"run": [0, 0, 1, 1, 1], "round": [0, 1, 0, 1, 2], "m": [1.0, 2.0, 3.0, 6.0, 9.0]})
    table = plots.means(rounds, "m", "round")
    assert table["mean"].tolist() == [2.0, 4.0]
    assert (table["low"].tolist(), table["high"].tolist()) == ([1.0, 2.0], [3.0, 6.0])


def figure_of(axes_of: Callable[[Axes], None], arms: Sequence[str]) -> tuple[Figure, Axes, Legend]:
    """A figure of a report as it is written, and what is in it."""
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plots._figure()
        axes_of(axes)
        plots.legend(figure, arms, plots.BANDS)
        figure.draw_without_rendering()  # a layout that does not fit is a warning, and that an error
    return figure, axes, figure.legends[0]


NINE = [f"arm {number}" for number in range(9)]
LONG = [*NINE[:8], "a very long name of an arm with many=1 keys=2 and=3 then=4 more=5 " * 3 + "x" * 200]


@pytest.mark.parametrize("arms", [NINE, LONG], ids=["short", "long"])
def test_a_legend_of_many_arms_is_below_the_figure_and_names_all(arms: list[str]) -> None:
    rows = [(arm, run, r, 0.1 * r + run / 100) for arm in arms for run in (0, 1) for r in range(3)]
    rounds = pd.DataFrame(rows, columns=["arm", "run", "round", "m"]).assign(bytes=7)
    figure, axes, legend = figure_of(lambda axes: plots.curves(axes, rounds, "m", "round", "round", arms), arms)
    below, whole = legend.get_window_extent(), figure.bbox
    assert (drawn := axes.get_tightbbox()) is not None
    assert below.y1 < drawn.y0
    assert whole.x0 <= below.x0 < below.x1 <= whole.x1
    assert whole.y0 <= below.y0
    named = [text.get_text().split() for text in legend.get_texts()]
    assert sorted("".join(words) for words in named) == sorted("".join(arm.split()) for arm in arms)
    assert axes.get_window_extent().height > 100  # of dots, 100 to the inch
    assert legend.get_title().get_text() == "Lines: means of runs. Bands: lowest to highest run."
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_arms_have_one_order_and_equal_ones_are_both_seen() -> None:
    runs = pd.DataFrame({"arm": ["b", "a", "c"], "bytes": [400] * 3, "value": [0.5, 0.5, 0.7]})
    _, axes, legend = figure_of(lambda axes: plots._pareto(axes, runs, "m", "higher", ["b", "a", "c"]), ["b", "a", "c"])
    assert [text.get_text() for text in legend.get_texts()] == ["b", "a", "c"]
    marks = [mark for mark in axes.collections if isinstance(mark, PathCollection)]
    means = [mark for mark in marks if max(mark.get_sizes()) > 30]
    assert [len(mark.get_facecolor()) for mark in means] == [0, 0, 0]  # hollow


def test_names_of_figures_are_for_latex() -> None:
    settings = ["", "partition.alpha=0.1", "partition.alpha=0_1", "x" * 400]
    assert plots._suffixes(settings) == ["", "_partition_alpha_0_1", "_partition_alpha_0_1_2", f"_{'x' * 99}"]


def test_long_runs_are_thinned_and_the_last_round_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fl_bench.studies.study import load

    study = load([make_run(tmp_path / "run", [i / 100 for i in range(101)])])
    monkeypatch.setattr(drawn, "NUMBERS", 100)
    found = drawn.curves(study, "test_accuracy", pd.Series([1.0]), ["fedavg"], [""])
    assert found["thinned"] == "Every 7th measured round; study.csv has all."
    assert found["runs"][0]["x"]["round"] == [*range(0, 99, 7), 100]


@pytest.mark.parametrize("count", [1, 3])
def test_seeds_of_one_arm_have_a_report(tmp_path: Path, count: int) -> None:
    for seed, curve in enumerate(CURVES["fedavg"][:count]):
        make_run(tmp_path / f"{seed}", curve, "strategy=fedavg", f"seed={seed}")
    assert cli.dispatch(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "How good, and at what cost?" in text
    assert "nothing is compared: there is only one arm, fedavg" in text
    assert "p: paired t test" not in text
    assert "| arm | n | mean |" in (tmp_path / "report" / "table.md").read_text()


def test_out_must_be_a_folder(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from fl_bench.errors import ConfigError

    for out in (study / "study.csv", study / "study.csv" / "b", Path("/proc/x")):
        with pytest.raises(ConfigError, match=f"^--out {out}: must be a folder that can be written: "):
            cli.dispatch(["report", str(study), "--out", str(out)])


def test_what_is_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch(["report", str(a_study(tmp_path))]) == 0
    assert f"note: {tmp_path / 'broken'}: left out: failed: " in capsys.readouterr().err
