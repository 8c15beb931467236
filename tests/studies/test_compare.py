"""From folders of runs to the answer."""

import math
from pathlib import Path

import pytest
from made import make_run

from fl_bench.errors import ConfigError
from fl_bench.studies import tables
from fl_bench.studies.compare import Comparison, compare, summary
from fl_bench.studies.study import load
from fl_bench.studies.tables import text

ACCURACIES = {"fedavg": [0.70, 0.60, 0.50], "scaffold": [0.73, 0.61, 0.55]}  # by seed; differences 0.03, 0.01, 0.05


def make_study(folder: Path) -> Path:
    for strategy, ends in ACCURACIES.items():
        for seed, end in enumerate(ends):
            make_run(folder / f"{strategy}{seed}", [0.1, end - 0.1, end], f"strategy={strategy}", f"seed={seed}")
    return folder


def answer(folder: Path, *given: str, **more: float) -> Comparison:
    return compare(load([folder]), *given, **more)  # type: ignore[arg-type]


def test_differences_by_hand(tmp_path: Path) -> None:
    found = answer(make_study(tmp_path))
    assert (found.metric, found.baselines) == ("test_accuracy", {"": "fedavg"})
    base, row = found.differences.itertuples()
    assert (base.arm, base.runs, base.pairs, base.verdict) == ("fedavg", 3, 0, "")
    assert base.mean == pytest.approx(0.6)
    assert base.half == pytest.approx(4.302653 * 0.1 / 3**0.5)  # t of 2 degrees of freedom, from a table
    assert (row.arm, row.runs, row.pairs, row.p_better) == ("scaffold", 3, 3, 1)
    assert row.difference == pytest.approx(0.03)
    assert row.difference_half == pytest.approx(4.302653 * 0.02 / 3**0.5)
    t = 0.03 / (0.02 / 3**0.5)
    assert row.p_holm == row.p  # type: ignore[operator]
    assert row.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))  # p of Student's t, 2 degrees of freedom
    assert (row.p_flip, row.verdict) == (0.25, "not shown")
    assert row.effect == pytest.approx(1.5)
    assert row.needed == 6
    assert found.notes == []
    assert found.across.empty


def test_costs_up_to_where_the_baseline_ends(tmp_path: Path) -> None:
    found = answer(make_study(tmp_path))
    base, row = found.costs.itertuples()
    assert base.target == pytest.approx(0.6)
    # fedavg's 0.70 gets there in round 1, 0.60 in round 2, 0.50 never; scaffold's in 1, 2 and never.
    assert (base.reached, base.rounds_to, base.steps_to, base.bytes_to, base.virtual_seconds_to) == (2, 2, 24, 400, 1.0)
    assert (row.reached, row.rounds_to, row.steps, row.bytes, row.wall_seconds) == (2, 2, 24, 400, 30)
    high = answer(tmp_path, target=0.72).costs
    assert high["reached"].tolist() == [0, 1]
    assert high["rounds_to"].tolist() == [math.inf, math.inf]


def test_steps_to_a_target_are_empty_where_a_run_did_not_count_them(tmp_path: Path) -> None:
    for seed in range(3):
        for strategy, steps in {"fedavg": 12, "ditto": 24, "apfl": 24 if seed else ""}.items():
            make_run(tmp_path / f"{strategy}{seed}", [0.1, 0.6], f"strategy={strategy}", f"seed={seed}", steps=steps)
    found = answer(tmp_path, None, "fedavg", target=0.5)  # type: ignore[arg-type]
    assert dict(zip(found.costs["arm"], found.costs["steps_to"].fillna(-1), strict=True)) == {
        "fedavg": 12, "ditto": 24, "apfl": -1,
    }  # fmt: skip
    costs = text(found).splitlines()[6:]
    assert [costs[0].split()[:5], costs[2].split()[:7]] == [
        ["arm", "target", "reached", "rounds", "steps"], ["fedavg", "0.5000", "3", "of", "3", "1", "12"],
    ]  # fmt: skip
    assert {line.split()[0]: line.split()[6] for line in costs[2:5]} == {"fedavg": "12", "ditto": "24", "apfl": "-"}


def test_targets_of_the_config(tmp_path: Path) -> None:
    for i, strategy in enumerate(ACCURACIES):
        words = (f"strategy={strategy}", "targets=[0.3,0.2]")
        make_run(tmp_path / f"{i}", [0.1, 0.2, 0.3], *words)
        make_run(tmp_path / f"{i}b", [0.1, 0.2, 0.3], *words, "seed=1")
    costs = answer(tmp_path).costs
    assert costs["target"].tolist() == [0.2, 0.3] * 2
    assert costs["rounds_to"].tolist() == [1, 2] * 2
    verdicts = answer(tmp_path).differences
    assert verdicts["p"].tolist()[1:] == [1]
    assert verdicts["p_better"].tolist()[1:] == [0.5]


@pytest.mark.parametrize(("at", "value"), [("final", 0.70), ("last:2", 0.65), ("area", (0.1 / 2 + 0.6 + 0.7 / 2) / 2)])
def test_what_of_a_run_counts(tmp_path: Path, at: str, value: float) -> None:
    found = answer(make_study(tmp_path), "test_accuracy", "scaffold", at)
    assert found.baselines == {"": "scaffold"}
    means = {"final": 0.6, "last:2": 0.55, "area": (0.1 / 2 + 0.5 + 0.6 / 2) / 2}
    assert found.differences["mean"].iloc[1] == pytest.approx(means[at])
    one = load([tmp_path / "fedavg0", tmp_path / "scaffold0"])
    assert compare(one, at=at).differences["mean"].iloc[0] == pytest.approx(value)


def test_the_best_round_is_that_of_validation(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", [0.1, 0.9, 0.8], f"seed={seed}", "strategy=fedavg", best={"round": 2})
        make_run(tmp_path / f"b{seed}", [0.1, 0.7, 0.6], f"seed={seed}", "strategy=fedprox", best={"round": 1})
    assert answer(tmp_path, at="best").differences["mean"].tolist() == pytest.approx([0.8, 0.7])  # type: ignore[arg-type]
    make_study(tmp_path / "more")
    with pytest.raises(ConfigError, match=r"--at best: .*fedavg0 has no validation, see evaluate.validation"):
        compare(load([tmp_path / "more"]), at="best")


def test_of_a_loss_less_is_better_and_holm_counts_all_that_is_shown(tmp_path: Path) -> None:
    for alpha in ("0.1", "1.0"):
        for seed, noise in enumerate([0.01, 0.02, 0.03, 0.02, 0.01]):
            words = (f"partition.alpha={alpha}", f"seed={seed}")
            for strategy, shift in (("fedavg", 0.0), ("scaffold", -0.5 + noise), ("moon", 0.5 - noise)):
                values = [2.0, 1.0 + noise**2 + shift]
                make_run(tmp_path / f"{strategy}{alpha}{seed}", values, f"strategy={strategy}", *words, metric="loss")
    found = answer(tmp_path)
    rows = found.differences[found.differences["arm"] != "fedavg"]
    assert rows["verdict"].tolist() == ["worse", "better"] * 2  # in the order of their folders
    assert rows["p_better"].tolist() == [0, 1] * 2
    assert rows["p_holm"].min() == pytest.approx(4 * rows["p"].min())
    assert (rows["p_flip"] == 0.0625).all()
    assert found.across["settings"].tolist() == [2, 2, 2]
    assert found.across["p"].tolist()[1:] == [0.5, 0.5]  # the smallest of two settings
    assert found.across["middle"].iloc[0] == pytest.approx(1.0 + (0.0001 + 4 * 0.0004) / 5, abs=1e-4)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    make_study(tmp_path)
    make_run(tmp_path / "more", [0.1, 0.2, 0.9], "strategy=scaffold", "seed=7")
    make_run(tmp_path / "nan", [0.1, 0.2, "nan"], "strategy=scaffold", "seed=8")
    make_run(tmp_path / "failed", [0.1, 0.2, 0.3], "strategy=scaffold", "seed=9", status="failed", error="no answers")
    found = answer(tmp_path)
    assert found.differences["pairs"].tolist() == [0, 3]
    assert found.notes == [
        f"{tmp_path}/nan: left out, as test_accuracy is no number at its last round",
        "scaffold: no pair with fedavg of seed 7",
        f"{tmp_path}/failed: left out: failed: no answers",
    ]


def test_of_few_pairs_there_is_a_word(tmp_path: Path) -> None:
    for strategy, end in (("fedavg", 0.5), ("fedprox", 0.6)):
        make_run(tmp_path / strategy, [0.1, end], f"strategy={strategy}")
    found = answer(tmp_path)
    assert found.notes == ["fedprox: one pair only, so there is neither an interval nor a p"]
    assert found.captions["differences"] == [
        "test_accuracy (higher is better) at the last round: the mean over runs.",
        "Differences are from fedavg, in pairs of the same seed and partition.",
        "won: the share of pairs that are better, ties half.",
    ]
    assert tables.tables_of(found)[0].header == ["arm", "n", "mean", "difference", "won", "verdict"]
    for strategy, end in (("fedavg", 0.7), ("fedprox", 0.8)):
        make_run(tmp_path / f"{strategy}1", [0.1, end], f"strategy={strategy}", "seed=1")
    found = answer(tmp_path)
    assert found.notes == ["fedprox: all differences are 0.1, so nothing is known of their spread: no p"]
    assert found.differences["verdict"].tolist() == ["", "not shown"]


def test_one_pair_of_equal_runs_has_no_p_either(tmp_path: Path) -> None:
    for strategy in ("fedavg", "fedprox"):
        make_run(tmp_path / strategy, [0.1, 0.5], f"strategy={strategy}")
    assert answer(tmp_path).differences[["p", "p_holm", "p_flip", "effect"]].isna().all(axis=None)


def test_the_number_of_comparisons_is_that_of_the_p(tmp_path: Path) -> None:
    make_study(tmp_path)
    for seed in range(3):  # it differs from fedavg by the same with each seed, and so has no p
        make_run(tmp_path / f"same{seed}", [0.1, 0.2, 0.8 - seed / 10], "strategy=fedprox", f"seed={seed}")
    found = answer(tmp_path)
    assert found.differences["pairs"].tolist() == [0, 3, 3]
    assert found.differences["p"].count() == 1
    (said,) = (line for line in found.captions["differences"] if "Holm" in line)
    assert "comparisons here that have a p, 1;" in said


def several_studies(folder: Path) -> Path:
    """On mnist fedavg and scaffold, on cifar fedavg and fedprox, with another weighting there."""
    for seed, noise in enumerate((0.01, 0.02, 0.04)):
        for task, strategies, weighting in (
            ("mnist", ("scaffold", "fedavg"), "examples"),
            ("cifar", ("fedprox", "fedavg"), "uniform"),
        ):
            for number, strategy in enumerate(strategies):
                words = (f"task={task}", f"strategy={strategy}", f"weighting={weighting}", f"seed={seed}")
                partition = "partition=" + ("iid" if task == "mnist" else "dirichlet")
                value = 0.6 + noise**2 - number * (0.1 + noise)
                make_run(folder / f"{task}_{strategy}{seed}", [0.1, value], *words, partition)
    return folder


def test_each_setting_has_a_baseline_of_its_own_and_is_called_by_its_task(tmp_path: Path) -> None:
    found = answer(several_studies(tmp_path))
    uniform, examples = (f"fedavg weighting={name}" for name in ("uniform", "examples"))
    assert found.baselines == {"task=cifar": uniform, "task=mnist": examples}
    assert found.differences["pairs"].tolist() == [0, 3, 0, 3]
    assert found.differences["arm"].tolist() == [uniform, "fedprox", examples, "scaffold"]
    assert found.differences["difference"].tolist()[1::2] == pytest.approx([0.1 + 0.07 / 3] * 2)
    assert found.costs["target"].notna().all()
    assert "Differences are from the first arm of their setting" in found.captions["differences"][1]
    assert answer(tmp_path, None, "fedavg").baselines == found.baselines  # type: ignore[arg-type]
    named = answer(tmp_path, None, examples)  # type: ignore[arg-type]
    assert named.baselines == {"task=mnist": examples}
    assert f"{uniform} with task=cifar: there is no baseline in this setting" in named.notes


def test_a_baseline_of_which_there_are_two_in_a_setting_is_refused(tmp_path: Path) -> None:
    for weighting in ("examples", "uniform"):
        for seed in (0, 1):
            make_run(tmp_path / f"{weighting}{seed}", [0.1, 0.5], f"weighting={weighting}", f"seed={seed}")
            words = ("strategy=scaffold", f"weighting={weighting}", f"seed={seed}")
            make_run(tmp_path / f"{weighting}{seed}s", [0.1, 0.5 + seed / 10], *words)
    both = "fedavg weighting=examples or fedavg weighting=uniform"
    with pytest.raises(ConfigError, match=f"^--baseline fedavg: must be one arm; it may be {both}$"):
        answer(tmp_path, None, "fedavg")  # type: ignore[arg-type]


def test_a_metric_of_no_known_direction(tmp_path: Path) -> None:
    for strategy, end in (("fedavg", 0.5), ("fedprox", 0.6)):
        for seed, noise in enumerate((0.001, 0.002, 0.003)):
            words = (f"strategy={strategy}", f"seed={seed}")
            make_run(tmp_path / f"{strategy}{seed}", [0.1, end + (end - 0.5) * noise], *words, better={})
    found = answer(tmp_path)
    assert found.differences["verdict"].tolist() == ["", "higher"]
    assert found.costs["target"].isna().all()
    assert "do not say which way" in found.notes[0]


def test_one_arm_has_means_and_costs_and_nothing_that_compares(tmp_path: Path) -> None:
    make_study(tmp_path)
    found = summary(load([tmp_path / f"fedavg{seed}" for seed in range(3)]))
    (row,) = found.differences.itertuples()
    assert (row.arm, row.runs) == ("fedavg", 3)
    assert row.mean == pytest.approx(0.6)
    assert row.half == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert found.across.empty
    means, costs = tables.tables_of(found)
    assert (means.header, means.parts) == (["arm", "n", "mean"], [("", [["fedavg", "3", "0.6000 ± 0.2484"]])])
    assert costs.header == ["arm", "target", "reached", "rounds", "steps", "bytes", "virtual s", "all bytes", "wall s"]
    assert found.captions["differences"][0] == (
        "test_accuracy (higher is better) at the last round: the mean over runs ± its 95 % Student interval."
    )
    assert len(found.captions["differences"]) == 1
    assert found.notes == [f"nothing is compared: {found.uncompared}"]


def test_arms_of_which_no_runs_are_pairs_are_summed_up_too(tmp_path: Path) -> None:
    make_study(tmp_path)
    found = summary(load([tmp_path / "fedavg0", tmp_path / "scaffold1"]))
    assert tables.tables_of(found)[0].parts == [("", [["fedavg", "1", "0.7000"], ["scaffold", "1", "0.6100"]])]
    assert found.notes[0].startswith("nothing is compared: no run of another arm has a pair with the baseline fedavg")


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    make_study(tmp_path / "a")
    for given, line in (
        (("test_acuracy",), "--metric test_acuracy: no run has measured it; did you mean test_accuracy?"),
        ((None, "scafold"), "--baseline scafold: is no arm of these runs; did you mean scaffold?"),
        ((None, None, "max"), "--at max: must be final, last:K "),
        ((None, None, "last:0"), "--at last:0: must be final, last:K "),
        ((None, None, "final:3"), "--at final:3: must be final, last:K "),
        ((None, None, "last:4"), "--at last:4: .*fedavg0 has 3 evaluations"),
    ):
        with pytest.raises(ConfigError, match=f"^{line.replace('?', '[?]')}"):
            compare(load([tmp_path / "a"]), *given)  # type: ignore[arg-type]
    for target in (math.nan, "a"):
        with pytest.raises(ConfigError, match=f"^--target {target}: must be a number$"):
            compare(load([tmp_path / "a"]), target=target)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is only one arm, fedavg, in one setting; --by KEY"):
        compare(load([tmp_path / "a" / "fedavg0", tmp_path / "a" / "fedavg1"]))
    make_run(tmp_path / "b", [0.1, 0.2], "strategy=scaffold", "task=cifar")
    with pytest.raises(ConfigError, match=r"no run of another arm has a setting in common .settings: task=mnist"):
        compare(load([tmp_path / "a" / "fedavg0", tmp_path / "b"]))
    with pytest.raises(ConfigError, match="no run of another arm has a pair with the baseline fedavg"):
        compare(load([tmp_path / "a" / "fedavg0", tmp_path / "a" / "scaffold1"]))
    make_run(tmp_path / "none", [0.1, ""], "strategy=fedper")  # it has no global model
    with pytest.raises(ConfigError, match="--metric test_accuracy: only fedavg has a number at the last round"):
        compare(load([tmp_path / "a" / "fedavg0", tmp_path / "none"]))
    make_run(tmp_path / "c", [0.1, 0.2], "strategy=scaffold", metric="loss")
    with pytest.raises(ConfigError, match="--metric: name one, as the runs have test_accuracy and test_loss"):
        compare(load([tmp_path / "a", tmp_path / "c"]))
