"""The report of a tuning: its final runs, and what tuning gained."""

from pathlib import Path

import pytest
from browser import PATH, opened
from made import make_run
from optuna.distributions import CategoricalDistribution, FloatDistribution

from fl_bench import cli
from fl_bench.errors import ConfigError
from fl_bench.studies.study import load, load_finals
from fl_bench.studies.trials import COMPLETE, FAILED, PRUNED, Trial, Tuning
from fl_bench.studies.tuned_page import best, importance, names

FEDAVG, FEDPROX = "strategy=fedavg", "strategy=fedprox"
LABELS = {FEDAVG: FEDAVG, FEDPROX: FEDPROX}


def a_tuning(folder: Path) -> Tuning:
    """Of two arms, with the runs of two trials, which are better than any other and do not count."""
    lr, mu = FloatDistribution(0.01, 1, log=True), FloatDistribution(0, 1)
    schedule = CategoricalDistribution(["constant", "cosine"])

    def trial(rate: float, name: str, value: float, state: str = COMPLETE, **more: float) -> Trial:
        params = {"local.lr": rate, "local.lr_schedule": name, **{f"strategy.{key}": v for key, v in more.items()}}
        return Trial(params, {9 if state == COMPLETE else 3: value}, state)

    of = {
        "words": ["num_rounds=9", "data=<b>"], "arms": {FEDAVG: [FEDAVG], FEDPROX: [FEDPROX]}, "rounds": 9,
        "seeds": [1000, 1001], "metric": "validation_accuracy",
    }  # fmt: skip
    trials = {
        FEDAVG: [
            trial(0.1, "constant", 0.2, PRUNED), trial(0.2, "cosine", 0.5), trial(0.02, "constant", 0.4),
            trial(0.3, "cosine", 0.75),
        ],
        FEDPROX: [trial(0.1, "cosine", 0.5, mu=0.5), trial(0.5, "cosine", 0.0, FAILED, mu=0.1)],
    }  # fmt: skip
    shared = {"local.lr": lr, "local.lr_schedule": schedule}
    space = {FEDAVG: shared, FEDPROX: shared | {"strategy.mu": mu}}
    tuning = Tuning(of, space, "higher", {FEDAVG: 0.5, FEDPROX: 0.625}, trials)
    make_run(folder / "trial0", [0.1, 0.9], FEDAVG, "seed=1000", "local.lr=0.3")
    make_run(folder / "trial1", [0.1, 0.9], FEDPROX, "seed=1000", "local.lr=0.1")
    tuning.save(folder)
    return tuning


def its_final_runs(folder: Path) -> None:
    for seed in (0, 1):
        make_run(folder / "final" / f"a{seed}", [0.1, 0.5], FEDPROX, "local.lr=0.1", f"seed={seed}")
        make_run(folder / "final" / f"b{seed}", [0.1, 0.6], FEDAVG, "local.lr=0.3", f"seed={seed}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    a_tuning(tmp_path / "t")
    return tmp_path / "t"


def test_trials_are_no_runs_of_a_study(folder: Path) -> None:
    why = "the trials of a tuning; its runs that count are in final/"
    with pytest.raises(ConfigError, match=f"there is no finished run below: none of 1 counts; the first: {why}"):
        load([folder])
    assert load_finals([folder]) is None
    its_final_runs(folder)
    for given in (folder, folder.parent):
        study = load([given])
        assert sorted(zip(study.runs["arm"], study.runs["seed"], strict=True)) == [
            ("fedavg", 0), ("fedavg", 1), ("fedprox", 0), ("fedprox", 1),
        ]  # fmt: skip
        assert [(run.folder, run.why) for run in study.skipped] == [(str(folder), why)]
    assert load([folder / "trial0"]).runs["seed"].tolist() == [1000]  # who names one has it


def test_what_was_gained_by_hand(tmp_path: Path) -> None:
    tuning = a_tuning(tmp_path)
    table = best(tuning, {FEDAVG: "fedavg", FEDPROX: "fedprox"})
    assert table is not None
    assert table.header == [
        "arm", "value", "default", "gain", "local.lr", "local.lr_schedule", "strategy.mu", "complete",
    ]  # fmt: skip
    assert table.parts == [("", [
        ["fedavg", "0.7500", "0.5000", "+0.2500", "0.3", "cosine", "-", "3 of 4"],
        ["fedprox", "0.5000", "0.6250", "-0.1250", "0.1", "cosine", "0.5", "1 of 2"],
    ])]  # fmt: skip
    shares = importance(tuning, LABELS)
    assert shares is not None
    ((_, ((arm, *of),)),) = shares.parts
    assert arm == FEDAVG
    assert sum(map(float, of)) == pytest.approx(1, abs=0.02)
    tuning.defaults[FEDAVG] = None
    for trials in tuning.trials.values():
        trials[:] = [trial for trial in trials if trial.state != COMPLETE]
    assert best(tuning, LABELS) is importance(tuning, LABELS) is None


def test_arms_have_the_names_of_their_final_runs(tmp_path: Path) -> None:
    tuning = a_tuning(tmp_path)
    runs = [["seed=0", FEDPROX, "local.lr=0.1"], [FEDAVG, "seed=0"]]
    assert names(tuning, ["fedprox", "fedavg"], runs) == {FEDAVG: "fedavg", FEDPROX: "fedprox"}
    assert names(tuning, ["fedprox"], runs[:1]) == {FEDAVG: FEDAVG, FEDPROX: "fedprox"}
    assert names(tuning, ["all", "all"], runs) == LABELS  # both are one arm to the study


def test_a_tuning_of_which_nothing_is_complete_has_a_page(folder: Path) -> None:
    tuning = Tuning.load(folder)
    for trials in tuning.trials.values():
        trials[:] = trials[:1]
        trials[0].state = PRUNED
    tuning.save(folder)
    assert cli.dispatch(["report", str(folder)]) == 0
    assert "No final run counts yet" in (folder / "report.html").read_text()
    assert not list((folder / "report").iterdir())


def test_the_report_of_a_tuning_has_its_final_runs_and_what_was_gained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.dispatch(["report", str(folder)]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == ["report.html", "tuning.md", "tuning.tex"]
    alone = (folder / "report.html").read_text()
    its_final_runs(folder)
    assert cli.dispatch(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert ("Which is better" in alone, "Which is better" in text) == (False, True)
    for page in (alone, text):
        assert "<h2>Tuning</h2>" in page
        assert "fl-bench num_rounds=9 &#39;data=&lt;b&gt;&#39; strategy=fedavg local.lr=0.3" in page
    row = "| strategy=fedavg | 0.7500 | 0.5000 | +0.2500 | 0.3 | cosine | - | 3 of 4 |"
    assert row in (folder / "report" / "tuning.md").read_text()
    assert r"strategy=fedavg & 0.7500 & 0.5000 & +0.2500 & 0.3" in (folder / "report" / "tuning.tex").read_text()
    assert {"study.csv", "study.parquet"} < {file.name for file in folder.iterdir()}


@pytest.mark.skipif(PATH is None, reason="no Chromium is there")
def test_a_browser_draws_a_tuning_with_and_without_final_runs(folder: Path, tmp_path: Path) -> None:
    titles = "[...document.querySelectorAll('.tuning h3')].map(h => h.textContent)"
    marks = "[...document.querySelectorAll('.tuning figure')].map(f => f.querySelectorAll('.mark').length)"
    arms = "[...document.querySelectorAll('#legend button')].map(b => b.textContent)"
    cells = "[...document.querySelectorAll('#tuning1 tbody tr:not([hidden])')].map(r => r.cells[0].textContent)"
    ticks = "[...document.querySelectorAll('.tuning figure')[1].querySelectorAll('text')].map(t => t.textContent)"
    with opened(tmp_path / "browser") as page:
        for final in (False, True):
            if final:
                its_final_runs(folder)
            assert cli.dispatch(["report", str(folder)]) == 0
            page.open(folder / "report.html")
            named = ["fedprox", "fedavg"] if final else [FEDAVG, FEDPROX]
            assert page.js(arms) == named
            assert page.js(titles) == ["best so far", "local.lr", "local.lr_schedule", "strategy.mu"]
            assert page.js(marks) == [0, 4, 4, 1]  # three complete trials of fedavg, one of fedprox
            assert page.js("document.querySelectorAll('.tuning .curve').length") == 4  # and how both are by default
            assert {"0.01", "0.1", "1"} <= set(page.js(ticks))  # decades of the interval
            assert page.js("document.querySelectorAll('#curves .curve').length") == (2 if final else 0)
            first = named.index("fedavg" if final else FEDAVG)
            page.js(f"document.querySelectorAll('#legend button')[{first}].click()")
            assert page.js(marks) == [0, 1, 1, 1]
            assert page.js(cells) == [named[1 - first]]
            assert page.errors == []
