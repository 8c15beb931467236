"""Training alone, and all data in one place, against FedAvg where they must be the same."""

import csv

from conftest import Launch
from safetensors.torch import load_file

SMALL = ("num_rounds=2", "partition.holdout=0")


def test_one_client_alone_has_the_model_that_fedavg_makes_of_it(launch: Launch) -> None:
    alone, fedavg = (launch(f"strategy={name}", "num_clients=1", *SMALL) for name in ("local_only", "fedavg"))
    state = load_file(alone / "state" / "0" / "2.safetensors")
    model = load_file(fedavg / "model.safetensors")
    assert {name.removeprefix("model."): tensor.tolist() for name, tensor in state.items()} == {
        name: tensor.tolist() for name, tensor in model.items()
    }
    rows = list(csv.DictReader((alone / "clients.csv").open()))
    assert [row["bytes_up"] for row in rows] == ["0", "0"]


def test_one_place_has_everybodys_data_and_steps(launch: Launch) -> None:
    folder = launch("strategy=centralized", "partition=dirichlet", *SMALL)
    rows = list(csv.DictReader((folder / "clients.csv").open()))
    assert [(row["round"], row["num_examples"]) for row in rows] == [("1", "4000"), ("2", "4000")]
