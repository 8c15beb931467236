"""Every shipped yaml composes as shipped and runs two rounds."""

import pytest

from fl_bench.cli import CONF, GROUPS

SMALL = ("num_rounds=2", "data=synthetic", "data.num_samples=400")


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("task", options("task"))
@pytest.mark.parametrize("strategy", options("strategy"))
def test_strategies(launch, task: str, strategy: str) -> None:
    launch(f"task={task}", f"strategy={strategy}", *SMALL)


@pytest.mark.parametrize("task", options("task"))
@pytest.mark.parametrize("partition", options("partition"))
def test_partitions(launch, task: str, partition: str) -> None:
    launch(f"task={task}", f"partition={partition}", *SMALL)


@pytest.mark.parametrize("task", options("task"))
def test_tasks_with_their_figures(launch, task: str) -> None:
    folder = launch(f"task={task}", "num_rounds=2", "figures=true")
    names = {file.name for file in (folder / "figures").iterdir()}
    assert {"curves.png", "client_losses.png", "partition.png", "predictions.png"} <= names
    assert all((folder / "figures" / name).stat().st_size > 5000 for name in names)
    assert ("confusion.png" in names) == (task == "cifar")


def test_every_group_describes_each_of_its_options() -> None:
    for group in GROUPS:
        for name in options(group):
            lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
            comments = [line for line in lines if line.startswith("# ") and "@package" not in line]
            assert comments, f"{group}/{name}.yaml begins with no comment for fl-bench list"
