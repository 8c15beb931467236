"""Which layers stay with a client."""

import csv
from pathlib import Path

import pytest
from conftest import Launch, compose
from safetensors.torch import load_file
from torch import nn

from fl_bench.errors import ConfigError
from fl_bench.runs.execute import execute
from fl_bench.strategies.fedbn import LocalNormalisation
from fl_bench.strategies.layers import last_layers

MODEL = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (0, set()),
        (1, {"5.weight", "5.bias"}),
        (["4", "5"], {"4.weight", "4.bias", "5.weight", "5.bias"}),
        (99, set(MODEL.state_dict())),
    ],
)
def test_the_last_layers_by_number_or_by_name(wanted: int | list[str], names: set[str]) -> None:
    assert last_layers(MODEL, wanted) == names


def test_a_name_that_is_no_layer() -> None:
    with pytest.raises(ConfigError, match=r"strategy.personal_layers: 7 is no layer; the model has 0, 1, 4, 5"):
        last_layers(MODEL, ["4", "7"])


def test_normalisation_layers_with_their_statistics() -> None:
    names = {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert LocalNormalisation().private(MODEL) == names


SMALL = ("task=cifar", "data=synthetic", "data.num_samples=200", "num_clients=3", "num_rounds=2", "local.steps=2")


@pytest.fixture
def fedper(launch: Launch) -> Path:
    return launch("strategy=fedper", "evaluate.clients=true", "figures=true", *SMALL)


def test_what_stays_does_not_travel_and_is_not_in_the_global_model(fedper: Path) -> None:
    head = {"11.weight": 84 * 10, "11.bias": 10}
    assert not head.keys() & load_file(fedper / "model.safetensors").keys()
    states = [load_file(file) for file in sorted(fedper.glob("state/*/2.safetensors"))]
    assert [{name: tensor.numel() for name, tensor in state.items()} for state in states] == [
        {f"model.{name}": size for name, size in head.items()}
    ] * 3
    assert not (states[0]["model.11.weight"] == states[1]["model.11.weight"]).all()
    clients = list(csv.DictReader((fedper / "clients.csv").open()))
    assert clients[-1]["bytes_up"] == str(4 * (62006 - 850))  # the network has 62,006 parameters


def test_a_model_that_is_not_whole_is_not_tested(fedper: Path) -> None:
    columns = (fedper / "metrics.csv").read_text().split("\n")[0].split(",")
    assert not [name for name in columns if name.startswith("test_")]
    assert {"client_accuracy", "client_accuracy_worst_decile", "client_accuracy_std"} <= set(columns)
    figures = {file.name for file in (fedper / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("curves", "client_losses", "partition") for kind in ("png", "pdf")}


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (("strategy=local_only",), "keeps every layer of this model at the clients: they train alone"),
        (("strategy=fedper", "task=mnist"), "keeps every layer of this model at the clients: they train alone"),
        (("strategy=fedbn",), "finds no layer of this model to keep at the clients: it is the same as without"),
        (("strategy=fedbn", "model.norm=batch"), ""),
    ],
)
def test_a_user_is_told_where_there_is_nothing_to_keep_or_to_share(
    launch: Launch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], note: str
) -> None:
    launch(*SMALL, *words)
    said = capsys.readouterr().err
    assert note in said
    assert bool(said) == bool(note)


def test_each_client_keeps_its_discriminator_when_only_the_generator_travels(launch: Launch, quick_judge: None) -> None:
    words = ("task=dcgan", "data=synthetic", "data.num_samples=60", "num_clients=2", "num_rounds=2", "local.steps=1")
    folder = launch(*words, "model.share=generator", "model.width=4")
    for state in map(load_file, folder.glob("state/*/2.safetensors")):
        assert {name.split(".")[1] for name in state} == {"discriminator"}
    assert len(list(folder.glob("state/*/2.safetensors"))) == 2


def test_layers_outside_of_the_loss_are_refused(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    """SAM's last layer guesses the quality of its mask, which nothing is trained for."""
    launch("task=sam", "data=nuclei", "strategy=fedper", "num_rounds=1", exit_code=2)
    assert "such as mask_decoder.iou_prediction_head" in capsys.readouterr().err
    launch("task=sam", "data=nuclei", "strategy=fedper", "num_rounds=1", "local.steps=1", "num_clients=2",
           "strategy.personal_layers=[mask_decoder.output_hypernetworks_mlps]")  # fmt: skip


@pytest.mark.parametrize("strategy", ["scaffold", "perfedavg", "apfl", "moon"])
def test_algorithms_that_a_gan_is_not_for_say_so(
    launch: Launch, quick_judge: None, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    launch("task=dcgan", f"strategy={strategy}", "data=synthetic", "data.num_samples=60", exit_code=2)
    assert "task Dcgan" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["perfedavg", "apfl"])
def test_steps_taken_elsewhere_leave_what_batchnorm_counts(launch: Launch, strategy: str) -> None:
    words = ("task=cifar", "model.norm=batch", "data=synthetic", "data.num_samples=60", "num_clients=1", "num_rounds=1")
    folder = launch(*words, f"strategy={strategy}", "local.steps=3")
    tensors = load_file(folder / "model.safetensors")
    if strategy == "apfl":  # of its own model too
        (state,) = map(load_file, folder.glob("state/0/1.safetensors"))
        assert not (state["personal"] == 0).all()
    assert (tensors["1.running_mean"] != 0).all()


def test_ditto_leaves_the_federated_discriminator_alone(launch: Launch, quick_judge: None) -> None:
    words = ("task=dcgan", "data=synthetic", "data.num_samples=60", "num_clients=2", "num_rounds=2", "local.steps=1")
    ditto, fedavg = (
        launch(*words, "model.share=generator", "model.width=4", f"strategy={name}") for name in ("ditto", "fedavg")
    )
    assert (ditto / "model.safetensors").read_bytes() == (fedavg / "model.safetensors").read_bytes()


def test_what_an_earlier_run_left_in_the_folder_is_forgotten(tmp_path: Path) -> None:
    cfg = compose("strategy=ditto", "num_rounds=1", "num_clients=2")
    for attempt in range(2):
        (tmp_path / "run" / "state" / "0").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "state" / "0" / "0.safetensors").write_text("of another run")
        (tmp_path / f"scratch{attempt}").mkdir()
        assert execute(cfg, tmp_path / "run", tmp_path / f"scratch{attempt}") == 0
    assert [file.name for file in (tmp_path / "run").glob("state/0/*")] == ["1.safetensors"]
