"""Every shipped yaml composes as shipped and runs two rounds."""

from collections.abc import Callable

import pytest
from conftest import STRATEGIES, Launch, long

from fl_bench.config.compose import GROUPS
from fl_bench.config.schema import CONF
from fl_bench.storage.folder import OURS

SMALL = ("num_rounds=2", "data=synthetic", "data.num_samples=400")


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies(launch: Launch, strategy: str) -> None:  # on task=cifar they are checked in tests/test_check.py
    launch(f"strategy={strategy}", *SMALL)


@pytest.mark.parametrize(
    "partition", [name for name in options("partition") if name not in ("natural", "file", "sites")]
)
def test_partitions(launch: Launch, partition: str) -> None:
    launch(f"partition={partition}", *SMALL)


def test_a_natural_partition_needs_data_from_several_sources(
    launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch("partition=natural", exit_code=2)
    assert (
        'partition=natural: the data has no column "source", which says whose a row is; set data.client'
        in capsys.readouterr().err
    )


def test_a_partition_from_a_file_needs_one(refused: Callable[..., str]) -> None:
    said = refused("partition=file")
    assert "partition.path=None: give a CSV file with columns row and client, such as a run's " in said


FIGURES = {
    "mnist": {"predictions.png"},
    "cifar": {"predictions.png", "confusion.png"},
    "images": {"predictions.png", "confusion.png"},
    "imdb": {"sentences.png"},
    "text": {"sentences.png", "confusion.png"},
    "sam": {"round_0000.png", "round_0002.png", "rounds.gif"},
    "dcgan": {"round_0000.png", "round_0002.png", "rounds.gif"},
    "tabular": {"confusion.png"},
    "series": {"confusion.png"},
    "characters": {"sentences.png"},
    "instruct": {"answers.png"},
}


RARELY = ("sam", "cifar", "dcgan", "images", "imdb", "instruct")  # their figures take long


@pytest.mark.parametrize("task", [pytest.param(task, marks=long if task in RARELY else []) for task in options("task")])
def test_tasks_with_their_figures(launch: Launch, task: str) -> None:
    folder = launch(f"task={task}", "num_rounds=2", "local.steps=2", "figures=true")
    names = {file.name for file in (folder / "figures").iterdir()}
    assert {"curves.png", "client_losses.png", "partition.png"} | FIGURES[task] <= names
    assert all((folder / "figures" / name).stat().st_size > 5000 for name in names)
    assert [name for name in names if not OURS.fullmatch(f"figures/{name}")] == []  # what overwrite=true may remove


@pytest.mark.parametrize(
    "words",
    [
        ("task=sam", "data=nuclei", "strategy=fedprox"),
        pytest.param(("task=imdb", "strategy=fedadam", "partition=dirichlet"), marks=long),
        pytest.param(("task=dcgan", "strategy=fedmedian", "partition=dirichlet"), marks=long),
    ],
)
def test_other_strategies_for_the_larger_tasks(launch: Launch, words: tuple[str, ...]) -> None:
    launch(*words, "num_rounds=2", "local.steps=1")


def test_every_group_describes_each_of_its_options() -> None:
    for group in GROUPS:
        for name in options(group):
            lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
            comments = [line for line in lines if line.startswith("# ") and "@package" not in line]
            assert comments, f"{group}/{name}.yaml begins with no comment for fl-bench list"
