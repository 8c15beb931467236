"""study=NAME stands for words, and for arms of words that belong together."""

from pathlib import Path

import pytest

from fl_bench.errors import ConfigError
from fl_bench.studies.arms import arms_of, with_study


def study(tmp_path: Path, text: str) -> Path:
    (tmp_path / "study").mkdir(exist_ok=True)
    (tmp_path / "study" / "mine.yaml").write_text(text)
    return tmp_path


TEXT = """
words: {task: cifar, figures: false, local.clip_norm: null}
over: {seed: [0, 1], partition.alpha: [0.1, 1.0]}
arms: [{strategy: scaffold, local.lr: 0.05}, {strategy: fedavg, "targets": [0.5, 0.6]}]
"""


def test_the_words_of_a_study(tmp_path: Path) -> None:
    words = with_study(["study=mine", "num_rounds=3", "seed=7"], study(tmp_path, TEXT))
    assert words[:-1] == [
        "task=cifar", "figures=false", "local.clip_norm=null", "partition.alpha=0.1,1.0", "num_rounds=3", "seed=7",
    ]  # fmt: skip
    assert arms_of(words) == [["strategy=scaffold", "local.lr=0.05"], ["strategy=fedavg", "targets=[0.5,0.6]"]]


def test_a_tuning_has_the_arms_but_for_what_it_searches_and_seeds_of_its_own(tmp_path: Path) -> None:
    words = with_study(["hydra/sweeper=tune", "study=mine", "local.lr=0.1,0.2"], study(tmp_path, TEXT))
    assert words[:-1] == [
        "task=cifar",
        "figures=false",
        "local.clip_norm=null",
        "hydra/sweeper=tune",
        "local.lr=0.1,0.2",
    ]
    assert arms_of(words) == [
        ["strategy=scaffold", "partition.alpha=0.1"],
        ["strategy=scaffold", "partition.alpha=1.0"],
        ["strategy=fedavg", "targets=[0.5,0.6]", "partition.alpha=0.1"],
        ["strategy=fedavg", "targets=[0.5,0.6]", "partition.alpha=1.0"],
    ]
    with pytest.raises(ConfigError, match="strategy: is what the arms of study=mine differ in"):
        with_study(["hydra/sweeper=tune", "study=mine", "strategy=fedavg"], study(tmp_path, TEXT))


def test_other_words_stay(tmp_path: Path) -> None:
    assert with_study(["seed=0,1"], None) == ["seed=0,1"]


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("arms: [{strategy: fedavg}]", ["strategy=fedprox"], "strategy: is what the arms of study=mine differ in"),
        ("arms: {strategy: fedavg}", [], "arms: must be a list of mappings, such as {strategy: scaffold"),
        ("over: {seed: 3}", [], "over one of lists, such as {seed: "),
        ("armes: []", [], "armes: unknown key; a study has words, over, arms"),
        ("- 3", [], "a study has words, over, arms"),
    ],
)
def test_what_a_study_cannot_be(text: str, words: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        with_study(["study=mine", *words], study(tmp_path, text))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="study=mind: must be one study; did you mean mine"):
        with_study(["study=mind"], study(tmp_path, TEXT))
