"""A tuning: what is asked for and kept by hand, and small tunings through the command."""

import csv
import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DETERMINISTIC, begin, fl_bench, long
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from fl_bench import cli
from fl_bench.errors import ConfigError, Damaged, FlBenchError
from fl_bench.runs.launch import launch
from fl_bench.studies import launcher, tuned
from fl_bench.studies.space import arms_of, distribution, split
from fl_bench.studies.study import load
from fl_bench.studies.trials import COMPLETE, FAILED, PRUNED, RUNNING, Trial, Tuning, prune
from fl_bench.studies.tuner import Wish

SMALL = (
    "data=synthetic", "data.num_samples=100", "num_clients=2", "engine=inline", "local.steps=1", "sweep.parallel=1",
    "evaluate.validation=0.2",
)  # fmt: skip
RATES = "local.lr=tag(log,interval(0.01,1))"
SPACE: dict[str, BaseDistribution] = {"local.lr": FloatDistribution(0.01, 1, log=True)}
WISH: dict[str, Any] = {
    "trials": 2, "batch": 2, "metric": "validation_loss", "direction": None, "on_test": False, "seeds": [7],
    "prune": "none", "per": ["strategy"],
}  # fmt: skip


def made(*trials: Trial, better: Any = "higher", default: float | None = 0.5) -> Tuning:
    of = {"words": ["num_rounds=9"], "arms": {"strategy=fedprox": ["strategy=fedprox"]}}
    return Tuning(
        of, {"strategy=fedprox": SPACE}, better, {"strategy=fedprox": default}, {"strategy=fedprox": [*trials]}
    )


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open()))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=interval(1,2)", FloatDistribution(1.0, 2.0)),
        ("a=tag(log,interval(0.01,1))", FloatDistribution(0.01, 1.0, log=True)),
        ("a=int(interval(1,10))", IntDistribution(1, 10)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(1,10,2)", IntDistribution(1, 9, step=2)),
        ("a=range(5,1,-2)", IntDistribution(3, 5, step=2)),
        ("a=cosine,constant", CategoricalDistribution(["cosine", "constant"])),
    ],
)
def test_hydras_grammar_says_what_a_key_is_drawn_from(word: str, expected: BaseDistribution) -> None:
    assert distribution(OverridesParser.create().parse_override(word)) == expected


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a=tag(odd,interval(1,2))", "tag odd is unknown"),
        ("a=tag(log,interval(0,1))", "low > 0"),
        ("a=interval(2,1)", "low <= high"),
        ("a=tag(log,choice(1,2))", "log is for intervals"),
    ],
)
def test_a_space_that_cannot_be_names_its_word(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        distribution(OverridesParser.create().parse_override(word))
    assert str(raised.value).startswith(f"{word}: ")


def test_arms_are_the_values_of_some_keys_and_the_rest_is_searched() -> None:
    words = ["seed=1", "strategy=fedavg,fedprox", "model=a,b", "local.lr=0.1,0.2", "strategy.eta=choice(0.3)"]
    found = split(OverridesParser.create().parse_overrides(words), ["strategy", "model"], None)
    assert found.fixed == ["seed=1"]
    assert found.space == {"local.lr": CategoricalDistribution(["0.1", "0.2"])}
    assert found.arms["strategy=fedprox,model=a"] == ["strategy=fedprox", "model=a", "strategy.eta=0.3"]
    assert len(found.arms) == 4


def test_arms_of_words_that_belong_together_cross_with_those_of_keys() -> None:
    words, together = (
        ["model=a,b", "local.lr=0.1,0.2"],
        [["strategy=fedavg"], ["strategy=fedprox", "weighting=uniform"]],
    )
    found = split(OverridesParser.create().parse_overrides(words), ["model"], None, together)
    assert list(found.arms.values()) == [
        ["strategy=fedavg", "model=a"],
        ["strategy=fedavg", "model=b"],
        ["strategy=fedprox", "weighting=uniform", "model=a"],
        ["strategy=fedprox", "weighting=uniform", "model=b"],
    ]


def test_no_point_of_a_finite_space_is_tried_twice_and_then_there_are_no_more() -> None:
    space: dict[str, BaseDistribution] = {"a": CategoricalDistribution(["x", "y"]), "b": IntDistribution(1, 3)}
    tuning = Tuning({}, {"arm": space}, "higher", trials={"arm": []})
    for count in (2, 4, 20):  # in batches, as a search asks
        tuning.ask("arm", count, seed=0)
        for trial in tuning.trials["arm"]:
            trial.state, trial.values = COMPLETE, {1: 0.5}
    points = [(trial.params["a"], trial.params["b"]) for trial in tuning.trials["arm"]]
    assert sorted(points) == [("x", 1), ("x", 2), ("x", 3), ("y", 1), ("y", 2), ("y", 3)]


def test_an_arm_searches_the_keys_that_it_has() -> None:
    words = split(OverridesParser.create().parse_overrides(["s=a,b", "x=1,2", "s.mu=interval(0,1)"]), ["s"], None)
    plain, other = OmegaConf.create({"x": 0, "s": {}}), OmegaConf.create({"x": 0, "s": {"mu": 0.5}})
    assert [[*arm.space] for arm in arms_of(words, [plain, other])] == [["x"], ["x", "s.mu"]]
    with pytest.raises(ConfigError, match=r"s\.mu: no arm has this key"):
        arms_of(words, [plain, plain])
    with pytest.raises(ConfigError, match=r"s=a: there is nothing to search: x, s\.mu"):
        arms_of(words, [OmegaConf.create({}), other])


@pytest.mark.parametrize(
    ("key", "value"),
    [("trials", 0), ("batch", "two"), ("direction", "up"), ("seeds", []), ("seeds", [1, 1]), ("seeds", [-1]),
     ("prune", "hyper"), ("metric", "test_loss"), ("metric", "client_loss")],
)  # fmt: skip
def test_a_wish_that_cannot_be_names_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"hydra.sweeper.{key}="):
        Wish(**WISH | {key: value})


def test_a_metric_of_the_test_set_is_to_be_said_twice() -> None:
    assert Wish(**WISH | {"metric": "test_loss", "on_test": True}).metric == "test_loss"


@pytest.mark.parametrize(("better", "stopped"), [("higher", [0, 3]), ("lower", [1, 2])])
def test_a_rung_keeps_the_best_and_the_first_of_equals(better: str, stopped: list[int]) -> None:
    trials = [Trial({}, {1: value}) for value in (0.1, 0.4, 0.3, 0.2)]
    prune(made(better=better), trials, rounds=1, kept=2)
    assert [number for number, trial in enumerate(trials) if trial.state == PRUNED] == stopped
    equals = [Trial({}, {1: 0.5}) for _ in range(3)]
    prune(made(), equals, rounds=1, kept=1)
    assert [trial.state for trial in equals] == [RUNNING, PRUNED, PRUNED]


def test_points_follow_from_the_seed_and_what_was_before() -> None:
    whole, parts = made(), made()
    whole.ask("strategy=fedprox", 14, seed=3)
    for count in (1, 5, 14):
        parts.ask("strategy=fedprox", count, seed=3)
    assert len({trial.params["local.lr"] for trial in whole.trials["strategy=fedprox"]}) == 14
    assert whole.trials == parts.trials
    other = made()
    other.ask("strategy=fedprox", 1, seed=4)
    assert other.trials["strategy=fedprox"] != whole.trials["strategy=fedprox"][:1]


def test_optuna_searches_where_it_was_good() -> None:
    """Twenty trials, then thirty more: these are nearer to the best, 0.1, than draws from all of the interval."""
    tuning = made()
    for end in range(5, 51, 5):
        tuning.ask("strategy=fedprox", end, seed=0)
        for trial in tuning.trials["strategy=fedprox"][end - 5 :]:
            trial.values, trial.state = {9: -abs(trial.params["local.lr"] - 0.1)}, COMPLETE
    distances = [-trial.latest for trial in tuning.trials["strategy=fedprox"]]
    assert sum(distances[20:]) / 30 < sum(distances[:10]) / 10 / 2


def test_a_record_comes_back_whole(tmp_path: Path) -> None:
    tuning = made(Trial({"local.lr": 0.1}, {1: 0.2, 9: 0.4}, COMPLETE), Trial({"local.lr": 0.3}, {}, FAILED))
    tuning.save(tmp_path)
    assert Tuning.load(tmp_path) == tuning
    (tmp_path / "trials.json").write_text('{"of": 1')
    with pytest.raises(Damaged, match=r"trials.json: is damaged"):
        Tuning.load(tmp_path)


def test_tables_by_hand(tmp_path: Path) -> None:
    trials = [
        Trial({"local.lr": 0.1}, {1: 0.2, 9: 0.4}, COMPLETE), Trial({"local.lr": 0.5}, {1: 0.1}, PRUNED),
        Trial({"local.lr": 0.2}, {1: 0.3, 9: 0.75}, COMPLETE), Trial({"local.lr": 0.3}, {1: 0.3, 9: 0.75}, COMPLETE),
    ]  # fmt: skip
    tuning = made(*trials)
    table = tuned.trials(tuning)
    assert list(table) == ["arm", "trial", "state", "value", "local.lr", "round_1", "round_9"]
    assert table["state"].tolist() == ["complete", "pruned", "complete", "complete"]
    (best,) = tuned.best(tuning).to_dict("records")
    assert (best["trial"], best["value"], best["default"], best["gain"], best["local.lr"]) == (2, 0.75, 0.5, 0.25, 0.2)
    assert best["command"] == "fl-bench num_rounds=9 strategy=fedprox local.lr=0.2 seed=0"
    assert tuned.curve(tuning)["best"].tolist() == [0.4, 0.4, 0.75, 0.75]
    (key,) = tuned.importance(tuning).to_dict("records")
    assert (key["key"], key["importance"]) == ("local.lr", 1.0)
    tuned.write(tuning, tmp_path)
    written = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert written == {
        "words": ["num_rounds=9"],
        "arms": {"strategy=fedprox": ["strategy=fedprox", "local.lr=0.2"]},
        "failed": [],
    }


def test_less_is_better_where_the_task_says_so() -> None:
    tuning = made(
        *(Trial({"local.lr": 0.1}, {9: value}, COMPLETE) for value in (3.0, 2.0, 2.5)), better="lower", default=1.0
    )
    (best,) = tuned.best(tuning).to_dict("records")
    assert (best["value"], best["gain"]) == (2.0, -1.0)
    assert tuned.curve(tuning)["best"].tolist() == [3.0, 2.0, 2.0]


def test_an_arm_of_which_all_trials_fail_has_no_best() -> None:
    tuning = made(Trial({"local.lr": 0.1}, {}, FAILED))
    assert tuned.best(tuning).empty
    assert tuned.importance(tuning).empty
    assert tuned.curve(tuning)["best"].isna().all()
    assert tuned.shown(tuning) == ""


def tune(*words: str, folder: str = "t") -> int:
    return cli.dispatch(["tune", f"hydra.sweep.dir={folder}", *SMALL, *words])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@long
def test_a_trial_that_is_promoted_has_the_bytes_of_a_run_never_stopped(here: Path) -> None:
    words = ("num_rounds=9", "local.lr_schedule=cosine", "strategy=fedavg,fedprox", RATES)
    assert tune(*words, "--trials", "3", "--batch", "3", "--prune", "halving", "--metric", "validation_loss") == 0
    table = rows(here / "t" / "trials.csv")
    by_arm = {arm: [row for row in table if row["arm"] == f"strategy={arm}"] for arm in ("fedavg", "fedprox")}
    assert [row["local.lr"] for row in by_arm["fedavg"]] == [row["local.lr"] for row in by_arm["fedprox"]]
    for arm, found in by_arm.items():
        (kept,) = (row for row in found if row["state"] == "complete")
        assert min(found, key=lambda row: float(row["round_1"])) is kept  # of a loss less is better
        assert [row["round_3"] != "" for row in found] == [row is kept for row in found]
        name = f"local.lr={kept['local.lr']},seed=1000,strategy={arm}"
        assert not list((here / "t").glob("*_2"))
        assert json.loads((here / "t" / name / "run.json").read_text())["resumed_at"] == [1, 3]
        plain = [*SMALL, *words[:2], f"strategy={arm}", f"local.lr={kept['local.lr']}", "seed=1000"]
        assert cli.dispatch([*plain, f"hydra.run.dir={arm}", "figures=false"]) == 0
        for file in DETERMINISTIC:
            assert (here / arm / file).read_bytes() == (here / "t" / name / file).read_bytes(), file


@long
def test_a_schedule_that_is_searched_is_as_long_as_the_whole_run_from_the_first_rung(here: Path) -> None:
    words = ("num_rounds=9", "local.lr_schedule=constant,cosine", "strategy=fedavg")
    assert tune(*words, "--trials", "2", "--batch", "2", "--prune", "halving") == 0
    horizons = {
        record["config"]["local"]["lr_schedule"]: record["config"]["local"]["lr_horizon"]
        for record in (json.loads(file.read_text()) for file in (here / "t").glob("local.lr*/run.json"))
    }
    assert horizons["cosine"] == 9


@long
def test_a_tuning_that_is_stopped_goes_on_as_if_nothing_had_happened(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("num_rounds=3", "strategy=fedavg", RATES, "--trials", "4", "--batch", "2", "--prune", "median")
    assert tune(*words, folder="whole") == 0
    begun, plain = [], launch

    def stops(*args: Any) -> int:
        begun.append(args)
        return 130 if len(begun) in stop else plain(*args)

    monkeypatch.setattr(launcher, "launch", stops)
    stop = [1, 5, 8]  # in the arm's own run, in the second rung, in the second batch
    assert [tune(*words, "resume=true") for _ in range(4)] == [130, 130, 130, 0]
    for name in ("trials.json", "trials.csv", "best.csv", "best.yaml"):
        assert (here / "t" / name).read_bytes() == (here / "whole" / name).read_bytes(), name
    assert not list((here / "t").glob("*_2"))  # who stays goes on in the same folder
    runs, count = sorted(path.name for path in (here / "t").glob("*/run.json")), len(begun)
    assert tune(*words, "resume=true") == 0
    assert (sorted(path.name for path in (here / "t").glob("*/run.json")), len(begun)) == (runs, count)
    before = rows(here / "t" / "trials.csv")
    assert tune(*words, "--trials", "6", "resume=true") == 0
    assert rows(here / "t" / "trials.csv")[:4] == before
    assert len(rows(here / "t" / "trials.csv")) == 6


@long
def test_the_best_of_each_arm_is_run_with_other_seeds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("num_rounds=1", "strategy=fedavg,fedprox", "local.lr=0.1,0.2", "strategy.mu=interval(0.1,0.2)")
    assert tune(*words, "--trials", "1", "--final-seeds", "2", "--seeds", "7") == 0
    table = rows(here / "t" / "trials.csv")
    assert [row["state"] for row in table] == ["complete", "complete"]
    assert {row["strategy.mu"] != "" for row in table if row["arm"] == "strategy=fedprox"} == {True}
    study = load([here / "t" / "final"])
    assert sorted(zip(study.runs["strategy"], study.runs["seed"], strict=True)) == [
        ("fedavg", 0), ("fedavg", 1), ("fedprox", 0), ("fedprox", 1),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert said.count("report.html") == 1
    page = (here / "t" / "report.html").read_text()
    assert "<h2>Tuning</h2>" in page
    assert "fl-bench report t</pre>" in page
    assert not (here / "t" / "final" / "report.html").exists()
    assert "fl-bench data=synthetic" in said
    assert f"strategy=fedprox local.lr={table[1]['local.lr']} strategy.mu={table[1]['strategy.mu']} seed=0" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1", RATES], "seed: hydra.sweeper.seeds (--seeds) has the seeds of a tuning"),
        (["overwrite=true", RATES], "overwrite: a tuning is not replaced"),
        ([RATES, "--metric", "test_loss"], "hydra.sweeper.metric=test_loss (--metric): is not of validation"),
        (
            [RATES, "--metric", "validation_nope", "num_rounds=1"],
            "hydra.sweeper.metric=validation_nope: must be one of",
        ),
        ([RATES, "--final-seeds", "5", "--seeds", "9,3"], "--final-seeds 5: seed 3 is one of tuning"),
        ([RATES, "--trials", "0"], "hydra.sweeper.trials=0 (--trials): must be a number from 1"),
        ([RATES, "--seeds", "]"], "hydra.sweeper.seeds=[]]: cannot be read"),
        ([RATES, "hydra.sweeper.seeds=3"], "hydra.sweeper.seeds=3 (--seeds): must be a list of numbers from 0"),
        ([RATES, "--final-seeds=-1"], "--final-seeds -1: must be 0 or more"),
        (["local.lr=interval(-1,1)"], "local.lr=-1.0: must be a positive number"),
        (["strategy=fedavg,fedprox", "strategy.mu=0.1,1", "local.lr=1,0"], "local.lr=0.0: must be a positive number"),
        ([RATES, "--prune", "hyper"], "hydra.sweeper.prune=hyper (--prune): must be one of none, halving, median"),
        pytest.param(
            ["local.lr=interval(1e9,2e9)", "num_rounds=1", "--trials", "1"],
            "all: all its trials have failed",
            marks=long,
        ),
        (["local.nope=interval(0,1)"], "local.nope: no arm has this key"),
        ([], "all: there is nothing to search: no key has an interval or several values"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        text = str(tune(*words))
    except FlBenchError as error:
        text = str(error)
    assert said in text + capsys.readouterr().err
    assert "Error in call" not in text
    assert not (here / "t" / "trials.json").exists() or "num_rounds=1" in words


def test_a_folder_has_one_tuning(here: Path) -> None:
    words = ("num_rounds=1", "strategy=fedavg")
    assert tune(*words, "local.lr=0.1,0.2", "--trials", "1") == 0
    assert "No final run counts yet" in (here / "t" / "report.html").read_text()
    with pytest.raises(ConfigError, match=r"^hydra.sweep.dir=t: holds a tuning; resume=true goes on with it$"):
        tune(*words, "local.lr=0.1,0.2", "--trials", "1")
    with pytest.raises(ConfigError, match=r"hydra.sweep.dir=t: has a tuning with space"):
        tune(*words, "local.lr=0.1,0.3", "--trials", "1", "resume=true")
    with pytest.raises(ConfigError, match=r"hydra.sweep.dir=t: holds a tuning; choose another"):
        cli.dispatch(["-m", *SMALL, *words, "seed=0,1", "hydra.sweep.dir=t", "overwrite=true"])


def stopped_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run of this number, from 1, be one that Ctrl-C stops."""
    begun, plain = [], launch

    def stops(cfg: Any, folder: Path, start: Any, origin: Any) -> int:
        begun.append(folder)
        if len(begun) == number:
            print("to go on:", origin.sweep)
            return 130
        return plain(cfg, folder, start, origin)

    monkeypatch.setattr(launcher, "launch", stops)


@long
def test_a_tuning_that_is_stopped_before_anything_is_known_has_its_words(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("strategy=fedavg", RATES, "--trials", "1")
    stopped_at(1, monkeypatch)
    assert tune("num_rounds=2", *words) == 130
    assert cli.dispatch(["report", "t"]) == 0
    with pytest.raises(ConfigError, match=r"has a tuning with words .*; choose another$"):
        tune("num_rounds=1", *words, "resume=true")
    assert tune("num_rounds=2", *words, "resume=true") == 0


@pytest.mark.parametrize("number", [1, 3])
@long
def test_what_to_type_after_an_interruption_has_the_final_runs(
    number: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first run, and in a final one; the command finds the folder by itself, that of a study too."""
    (here / "own" / "study").mkdir(parents=True)
    (here / "own" / "study" / "mine.yaml").write_text("words: {num_rounds: 1}\narms: [{strategy: fedavg}]\n")
    stopped_at(number, monkeypatch)
    words = ["--config-dir", "own", "study=mine", *SMALL, RATES, "--trials", "1", "--final-seeds", "2"]
    assert cli.dispatch(["tune", *words]) == 130
    (command,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("to go on: "))
    again = shlex.split(command.removeprefix("to go on: "))
    assert again[:2] == ["fl-bench", "tune"]
    assert sorted([*again[2:]]) == sorted([*words, "resume=true"])
    assert cli.dispatch(again[1:]) == 0
    (folder,) = (here / "outputs" / "multirun").iterdir()
    assert len(list(folder.glob("final/*/run.json"))) == 2


@long
def test_trials_run_side_by_side_and_a_killed_tuning_goes_on(tmp_path: Path) -> None:
    small = [word for word in SMALL if not word.startswith(("engine=", "sweep.parallel="))]
    words = [
        "tune",
        *small,
        "sweep.parallel=2",
        "num_rounds=3",
        "strategy=fedavg",
        RATES,
        "--trials",
        "3",
        "--prune",
        "halving",
    ]
    whole = fl_bench(*words, "hydra.sweep.dir=whole", cwd=tmp_path, timeout=300)
    assert whole.returncode == 0, whole.stderr
    process = begin(*words, "hydra.sweep.dir=t", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (tmp_path / "t" / "trials.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = fl_bench(*words, "hydra.sweep.dir=t", "resume=true", cwd=tmp_path, timeout=300)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "t" / "trials.json").read_bytes() == (tmp_path / "whole" / "trials.json").read_bytes()


@long
def test_an_arm_of_which_all_trials_fail_is_named_and_the_others_have_their_final_runs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = (
        "local.steps=4",
        "strategy=fedprox",
        "strategy.mu=0.1,1e12",
    )  # the second throws every client out of what can be added
    assert tune(*arms, "--per", "strategy.mu", RATES, "num_rounds=1", "--trials", "1", "--final-seeds", "1") == 1
    said = capsys.readouterr().err
    assert "strategy.mu=1000000000000.0: all its trials have failed, so that it has no best, and no final runs" in said
    assert [path.name for path in (here / "t" / "final").glob("*=*")] != []
    assert yaml.safe_load((here / "t" / "best.yaml").read_text())["failed"] == ["strategy.mu=1000000000000.0"]
