"""Which folder a cell of a sweep has."""

import json
from pathlib import Path

import pytest
from conftest import compose
from omegaconf import DictConfig, OmegaConf

from fl_bench.studies.cells import LONGEST, folder_name, placed


def put(sweep: Path, name: str, cfg: DictConfig) -> None:
    """A folder that holds a run of this config."""
    (sweep / name).mkdir(parents=True)
    record = {"config": OmegaConf.to_container(cfg, resolve=True), "choices": {}}
    (sweep / name / "run.json").write_text(json.dumps(record))


def test_a_new_sweep_has_the_names_that_it_would_like(tmp_path: Path) -> None:
    assert placed([compose("seed=0"), compose("seed=1")], ["seed=0", "seed=1"], tmp_path) == ["seed=0", "seed=1"]


def test_a_cell_finds_its_run_whatever_the_folder_is_called(tmp_path: Path) -> None:
    put(tmp_path, "0_mnist_fedavg_iid", compose("seed=0"))
    put(tmp_path, "1_mnist_fedavg_iid", compose("seed=1"))
    cells = [compose(f"seed={seed}") for seed in (2, 1, 0)]
    found = placed(cells, ["seed=2", "seed=1", "seed=0"], tmp_path)
    assert found == ["seed=2", "1_mnist_fedavg_iid", "0_mnist_fedavg_iid"]


def test_two_cells_of_one_name_or_of_one_config_have_two_folders(tmp_path: Path) -> None:
    assert placed([compose("seed=0"), compose("seed=1")], ["same", "same"], tmp_path) == ["same", "same_2"]
    put(tmp_path, "engine=inline", compose())
    cells = [compose("engine=inline"), compose("engine=simulation")]
    assert placed(cells[::-1], ["engine=simulation", "engine=inline"], tmp_path) == [
        "engine=simulation",
        "engine=inline",
    ]


def test_a_name_that_another_run_has_gets_a_number(tmp_path: Path) -> None:
    put(tmp_path, "seed=0", compose("seed=0", "local.lr=0.1"))
    assert placed([compose("seed=0", "local.lr=0.2")], ["seed=0"], tmp_path) == ["seed=0_2"]


def test_a_run_with_fewer_rounds_goes_on_in_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "seed=0", compose("seed=0", "num_rounds=3"))
    assert placed([compose("seed=0", "num_rounds=5")], ["seed=0"], tmp_path) == ["seed=0"]


def test_cells_that_differ_in_rounds_only_stay_apart(tmp_path: Path) -> None:
    put(tmp_path, "num_rounds=3", compose("num_rounds=3"))
    cells = [compose("num_rounds=5"), compose("num_rounds=3")]
    assert placed(cells, ["num_rounds=5", "num_rounds=3"], tmp_path) == ["num_rounds=5", "num_rounds=3"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("data.root=/a/b,seed=0", "data.root=_a_b,seed=0"), ("..", "_"), ("", "_"), ("a\nb", "a_b")],
)
def test_a_name_is_that_of_one_folder(text: str, name: str) -> None:
    assert folder_name(text) == name


def test_long_names_stay_apart() -> None:
    one, other = folder_name("é" * 200 + "1"), folder_name("é" * 200 + "2")
    assert one != other
    assert max(len(one.encode()), len(other.encode())) <= LONGEST
