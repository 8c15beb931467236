"""docs/flower-differences.md says what its script measures, of every strategy that it should, and its words run."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, forked, long
from flwr.serverapp import strategy as flower

script = importlib.import_module("make_differences")

PAGE = (ROOT / "docs" / "flower-differences.md").read_text()
OURS = re.compile(r"_target_: (fl_bench\.strategies\.\w+)\.(\w+)")
OFTEN = ("krum", "fedadam")  # make test-all runs the words of all of them
SMALL = (
    "engine=inline",
    "num_rounds=2",
    "data=synthetic",
    "data.num_samples=400",
    "figures=false",
    "hydra.run.dir=run",
)


@pytest.mark.parametrize("number", range(len(script.DIFFERENCES)))
def test_a_row_is_what_is_measured(number: int) -> None:
    difference = script.DIFFERENCES[number]
    if difference.everywhere:
        assert script.markdown(script.HEADER, [difference.row()])[-1] in PAGE
    else:  # a run, or other numbers on other machines
        row = difference._replace(measured=lambda: "").row()
        assert re.search(r"^\| " + r" \| ".join([*map(re.escape, row[:2]), r"[^|]+", re.escape(row[3])]), PAGE, re.M)


def test_there_is_a_row_and_there_are_words_for_every_strategy_that_is_not_flowers() -> None:
    rows = {name for difference in script.DIFFERENCES for name in difference.strategies}
    assert rows == set(script.WORDS)
    for file in sorted((ROOT / "conf" / "strategy").glob("*.yaml")):
        for module, name in OURS.findall(file.read_text()):
            about = importlib.import_module(module).__doc__ or ""
            if "Flower's" in about or hasattr(flower, name):
                assert f"`{file.stem}`" in PAGE


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in OFTEN else long) for name in script.WORDS])
def test_the_words_for_flowers_own_run(name: str, tmp_path: Path) -> None:
    files = dict(re.findall(r'^```yaml title="(.+?)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE))
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert f"    fl-bench {script.WORDS[name]}\n" in f"{PAGE}\n"
    done = forked(*shlex.split(script.WORDS[name]), *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 4  # its header, and rounds 0 to 2
