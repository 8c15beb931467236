"""The tables of a comparison, as somebody reads them."""

import csv
import re
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from conftest import forked, long
from made import make_run
from test_compare import answer, make_study

from fl_bench import cli
from fl_bench.commands.compare import FORMATS
from fl_bench.studies import tables

ODD = "50%_&#{x}~^\\<b>|$"  # of which LaTeX or Markdown would obey each


def test_text_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch(["compare", str(make_study(tmp_path))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["arm", "n", "mean", "difference", "p", "Holm", "flips", "won", "d_z", "need", "verdict"]
    assert lines[2].split() == ["fedavg", "3", "0.6000", "±", "0.2484", *["-"] * 7]
    assert lines[3].startswith("scaffold  3  0.6300 ± 0.2277  +0.0300 ± 0.0497  0.122  0.122  0.250  1.00  1.50     6")
    assert lines[3].endswith("not shown")
    assert max(map(len, lines)) <= 100


@long
def test_a_sweep_of_real_runs(tmp_path: Path) -> None:
    words = ("strategy=fedavg,scaffold", "seed=0,1", "num_rounds=2", "engine=inline", "figures=false")
    assert (
        forked("-m", "sweep.parallel=1", *words, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path).returncode == 0
    )
    done = forked("compare", "sweep", "--metric", "test_loss", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[2:4]] == [["fedavg", "2"], ["scaffold", "2"]]
    assert "test_loss (lower is better) at the last round" in done.stdout
    assert "note:" not in done.stdout


def test_long_names_are_folded(tmp_path: Path) -> None:
    make_study(tmp_path)
    for seed in range(3):
        words = (f"strategy={'a' * 30}", f"seed={seed}", "partition=dirichlet")
        make_run(tmp_path / f"{seed}", [0.1, 0.2, 0.3 + seed / 100], *words)
        make_run(tmp_path / f"f{seed}", [0.1, 0.2, 0.3], "strategy=fedavg", *words[1:])
    lines = tables.text(answer(tmp_path), 100).splitlines()
    assert max(map(len, lines)) <= 100
    assert "partition=dirichlet" in lines
    assert not any(line.startswith("a" * 30) for line in lines)
    assert any(line.startswith("a" * 30) for line in tables.text(answer(tmp_path)).splitlines())  # of a pipe


def test_markdown(tmp_path: Path) -> None:
    text = tables.markdown(answer(make_study(tmp_path)))
    assert "| scaffold | 3 | 0.6300 ± 0.2277 | +0.0300 ± 0.0497 | 0.122 | 0.122 | 0.250 | 1.00 | 1.50 | 6 |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {12, 10}
    assert tables._cell(ODD).count("\\") == ODD.count("\\") + 5


def test_latex_shows_what_it_would_obey(tmp_path: Path) -> None:
    assert tables._tex("a_b -0.5 ± 50% [-1]") == r"a\_b $-$0.5 $\pm$ 50\% [$-$1]"
    make_study(tmp_path)
    for seed in range(2):
        make_run(tmp_path / f"odd{seed}", [0.1, 0.2, 0.3 + seed / 9], "strategy=" + ODD, f"seed={seed}")
    text = tables.latex(answer(tmp_path))
    captions = [r"test\_accuracy of each arm, and how it differs from the baseline", "What the arms cost up to a "]
    for name, caption in zip(("differences", "costs"), captions, strict=True):
        assert re.search(rf"\\caption{{{re.escape(caption)}.*}}\\label{{tab:{name}}}", text)
    assert text.index(r"\end{tabular}") < text.index("p: paired t test")
    assert r"50\%\_\&\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}b\textgreater{}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for line in text.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert line.replace(r"\&", "").count("&") in (10, 8)
    latex = shutil.which("pdflatex")
    if latex is None:
        pytest.skip("no pdflatex here, so nobody has seen it compile")
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}" + text + r"\end{document}"
    )
    done = subprocess.run([latex, "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_csv_has_all_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch(["compare", str(make_study(tmp_path)), "--format", "csv"]) == 0
    base, row = csv.DictReader(StringIO(capsys.readouterr().out))
    assert (base["arm"], base["difference"]) == ("fedavg", "")
    assert float(row["difference"]) == pytest.approx(0.03)
    assert (row["rounds_to"], row["p_flip"]) == ("2.0", "0.25")


def test_the_verb_knows_all_formats() -> None:
    assert tuple(tables.FORMATS) == FORMATS


def test_numbers_of_any_size(tmp_path: Path) -> None:
    for scale, shown in ((1e-5, "0.000003000"), (1e5, "30000")):
        for strategy in ("fedavg", "fedprox"):
            for seed in (0, 1):
                folder = tmp_path / str(scale) / f"{strategy}{seed}"
                make_run(folder, [scale, 0.3 * scale], f"strategy={strategy}", f"seed={seed}")
        assert f" {shown} ± " in tables.text(answer(tmp_path / str(scale)))
