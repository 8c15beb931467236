"""The group `model`: each task has its own option, a word of the user's wins, and what does not fit is refused."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fl_bench.config import trust
from fl_bench.config.compose import compose_with_choices
from fl_bench.config.fit import refuse_unfit
from fl_bench.errors import ConfigError

OWN = {"mnist": "logistic", "cifar": "blitz", "imdb": "albert", "sam": "sam", "dcgan": "dcgan"}


def look(*words: str, folder: Path | None = None) -> str | None:
    cfg, choices = compose_with_choices(words, folder)
    refuse_unfit(cfg, choices, folder)
    return choices["model"]


@pytest.mark.parametrize("task", OWN)
def test_each_task_has_a_model_and_takes_another_by_name(task: str) -> None:
    assert look(f"task={task}") == OWN[task]
    if task in ("mnist", "cifar"):
        assert look(f"task={task}", "model=blitz", "experiment=drift") == "blitz"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("task=dcgan", "model=blitz"), "model=blitz: does not fit task=dcgan; it has model=dcgan"),
        (("task=imdb", "model=logistic"), "model=logistic: does not fit task=imdb; it has model=albert"),
        (("task=cifar", "model=dcgan"), "model=dcgan: does not fit task=cifar; it has model=blitz"),
        (("task=mnist", "model=own"), "model=own: does not fit task=mnist; it has model=logistic"),
    ],
)
def test_what_does_not_fit_is_refused(words: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        look(*words)
    assert str(error.value) == line


def test_a_task_of_ones_own_may_have_a_model_node_or_take_any_by_name(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "old.yaml").write_text(
        "# @package _global_\nmodel: {hidden: 3}\ntask: {_target_: mine.Task, hidden: '${model.hidden}'}\n"
    )
    assert look("task=old", "model.hidden=4", folder=tmp_path) == "own"
    with pytest.raises(ConfigError, match="model=blitz: does not fit task=old; it has model=own"):
        look("task=old", "model=blitz", folder=tmp_path)
    (tmp_path / "task" / "new.yaml").write_text("# @package _global_\ntask: {_target_: mine.T, model: '${model}'}\n")
    assert look("task=new", "model=blitz", folder=tmp_path) == "blitz"
    with pytest.raises(ConfigError, match=r"model=own: does not fit task=new; see docs/models\.md"):
        look("task=new", folder=tmp_path)


def test_a_runs_folder_may_name_our_models_only_where_models_are() -> None:
    cfg, _ = compose_with_choices(["task=cifar"])
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    assert list(trust.strange(config)) == []
    config["task"]["model"] = {"_target_": "fl_bench.tasks.cifar.Cifar"}
    assert list(trust.strange(config)) == [("task.model", "fl_bench.tasks.cifar.Cifar")]
