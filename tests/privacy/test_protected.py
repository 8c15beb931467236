"""privacy= in runs: neutral, with all strategies that say so, the same bytes whoever trains, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Launch, compose, digests, forked, long, table
from safetensors.numpy import load_file

from fl_bench.config.compose import options
from fl_bench.privacy.example import DPSGD
from fl_bench.privacy.local import LocalNoise
from fl_bench.runs.begin import Start
from fl_bench.runs.execute import execute

SMALL = ("num_clients=4", "num_rounds=2", "partition=dirichlet", "partition.alpha=2", "data=synthetic",
         "data.num_samples=200", "local.steps=3", "local.batch_size=8")  # fmt: skip
EXAMPLE, LOCAL = (*SMALL, "privacy=example"), (*SMALL, "privacy=local")
BOTH = [("scaffold",), ("fedrep", "model=mlp"), ("fedavg",), ("fedprox",), ("fednova",), ("feddyn", "local.lr=0.01"),
        ("fedper", "model=mlp"), ("fedbn", "model=mlp"), ("ditto",)]  # fmt: skip
ONLY_LOCAL = [("moon", "model=mlp"), ("apfl",), ("pfedme",), ("perfedavg",)]


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("metrics.csv", "clients.csv", "model.safetensors")}


def test_full_batches_without_noise_are_plain_training(launch: Launch) -> None:
    """Every row is in every batch, and no gradient is as long as the norm: but for rounding, as without privacy."""
    words = (*SMALL, "local.batch_size=200", "local.optimizer.name=Adam", "local.lr=0.01")
    noiseless = launch(*words, "privacy=example", "privacy.noise_multiplier=0", "privacy.clip_norm=1e30")
    plain, noisy = launch(*words), launch(*words, "privacy=example")
    for name, tensor in load_file(plain / "model.safetensors").items():
        np.testing.assert_allclose(load_file(noiseless / "model.safetensors")[name], tensor, atol=2e-5)
        assert np.abs(load_file(noisy / "model.safetensors")[name] - tensor).max() > 1e-3
    assert {row["epsilon"] for row in table(noiseless, "clients")} == {"inf"}


def test_an_update_that_is_short_and_has_no_noise_is_sent_as_it_is(launch: Launch) -> None:
    words = ("privacy.noise_multiplier=0", "privacy.clip_norm=1e30", "strategy=scaffold")
    noiseless, plain = launch(*LOCAL, *words), launch(*SMALL, "strategy=scaffold")
    for name, tensor in load_file(plain / "model.safetensors").items():
        np.testing.assert_allclose(load_file(noiseless / "model.safetensors")[name], tensor, atol=1e-6)


def test_each_client_has_an_epsilon(launch: Launch) -> None:
    """Of its rows and of the turns that it took; the run has the largest."""
    words = ("clients_per_round=3", "num_rounds=3", "privacy.noise_multiplier=2", "evaluate.clients=true")
    run = launch(*EXAMPLE, *words, "partition.holdout=0.2", "partition.unseen=0.25")
    rows = table(run, "clients")
    turns, largest = dict.fromkeys("0123", 0), 0.0
    for number, row in enumerate(table(run, "metrics")[1:], 1):
        for client in [row for row in rows if row["round"] == str(number)]:
            if client["status"] != "ok":
                assert client["client"] == "3"  # it never trains
                assert client["epsilon"] == "0.0"
                continue
            turns[client["client"]] += 1
            told = DPSGD(0, 1, 2, 1e-5).epsilon(turns[client["client"]], int(client["num_examples"]), 8, 3)
            assert float(client["epsilon"]) == told
            largest = max(largest, told)
        assert float(row["epsilon"]) == largest
    assert len({row["epsilon"] for row in rows if row["round"] == "3"}) == 4


def test_local_noise_tells_by_rounds(launch: Launch) -> None:
    run = launch(*LOCAL, "privacy.noise_multiplier=3", "engine.vectorize=4")
    for number in (1, 2):
        told = LocalNoise(0, 1, 3, 1e-5).epsilon(number, 0, 0, 0)
        assert {float(row["epsilon"]) for row in table(run, "clients") if row["round"] == str(number)} == {told}
        assert float(table(run, "metrics")[number]["epsilon"]) == told


@pytest.mark.parametrize(
    "words", [BOTH[0], *(pytest.param(words, marks=long) for words in BOTH[1:])], ids=lambda words: words[0]
)
def test_strategies_take_the_steps_that_are_counted(launch: Launch, words: tuple[str, ...]) -> None:
    """Whoever adds up."""
    given = (f"strategy={words[0]}", *words[1:], "+local.optimizer.momentum=0.9", "compression=topk")
    run = launch(*EXAMPLE, *given, "privacy.noise_multiplier=0.5")
    passes = 2 if words[0] in ("ditto", "fedrep") else 1
    for row in table(run, "clients"):
        assert row["steps"] == str(3 * passes)
        told = DPSGD(0, 1, 0.5, 1e-5).epsilon(int(row["round"]), int(row["num_examples"]), 8, 3 * passes)
        assert float(row["epsilon"]) == told
    alone = launch(*EXAMPLE, *given, "privacy.noise_multiplier=0.5", "engine.packing=false")
    assert digests(alone) == digests(run)


@pytest.mark.parametrize("words", [*BOTH, *ONLY_LOCAL], ids=lambda words: words[0])
@long
def test_local_noise_goes_with_strategies(launch: Launch, words: tuple[str, ...]) -> None:
    given = (f"strategy={words[0]}", *words[1:], "compression=quantize", "privacy.noise_multiplier=0.01")
    run = launch(*LOCAL, *given)
    assert {row["status"] for row in table(run, "clients")} == {"ok"}
    assert digests(launch(*LOCAL, *given, "engine.packing=false")) == digests(run)


def test_masks_hide_the_noised_updates(launch: Launch) -> None:
    plain, hidden = launch(*LOCAL), launch(*LOCAL, "secure_aggregation=masks")
    assert (hidden / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert [row["epsilon"] for row in table(hidden, "clients")] == [row["epsilon"] for row in table(plain, "clients")]


@pytest.mark.parametrize("words", [EXAMPLE, pytest.param(LOCAL, marks=long)], ids=["example", "local"])
def test_a_run_that_goes_on_knows_what_was_told(launch: Launch, tmp_path: Path, words: tuple[str, ...]) -> None:
    words = (*words, "strategy=scaffold", "clients_per_round=2")
    whole, begun = launch(*words, "num_rounds=4"), launch(*words)
    assert execute(compose(*words, "num_rounds=4"), begun, tmp_path, Start.RESUME) == 0
    assert results(begun) == results(whole)


@long
@pytest.mark.parametrize("words", [EXAMPLE, LOCAL], ids=["example", "local"])
def test_the_same_in_a_simulation(tmp_path: Path, words: tuple[str, ...]) -> None:
    given = (*words, "strategy=scaffold", "figures=false", "engine.client_resources.num_cpus=1")
    for engine in ("inline", "simulation"):
        ended = forked(*given, f"engine={engine}", f"hydra.run.dir={engine}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert results(tmp_path / "simulation") == results(tmp_path / "inline")


@pytest.mark.parametrize(
    "option", ["task=cifar", "model=resnet8 model.norm=group task=images", "task=text model=fasttext"]
)
@long
def test_models_whose_examples_can_be_taken_one_by_one(launch: Launch, option: str) -> None:
    words = ("num_clients=2", "num_rounds=1", "local.steps=1", "local.batch_size=4", "partition=iid")
    run = launch(*option.split(), *words, "privacy=example")
    assert {row["status"] for row in table(run, "clients")} == {"ok"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("strategy=dp_server_fixed",), "strategy: it adds noise of its own; use privacy=none"),
        (("strategy=moon",), "strategy: privacy=example does not cover all that Contrastive sends; use privacy=local"),
        (("strategy=qfedavg",), "strategy: privacy=example does not cover all that StartingLoss sends; use privacy=n"),
        (("strategy=loadaboost", "privacy=local", "local.steps=4"), "privacy=local does not cover all that Boosted"),
        (
            ("strategy=fedprox", "strategy.mu=adaptive"),
            "strategy: its server goes by the clients' losses, which have no",
        ),
        (("strategy=oort", "network=heterogeneous"), "strategy: its server goes by the clients' losses, which have no"),
        (
            ("compression=importance", "compression.rule=esgd"),
            "compression: it goes by the clients' losses, which have",
        ),
        (
            ("data_drift=labels",),
            "data_drift: changes a client's rows, and epsilon is for the same ones; use data_drift=",
        ),
        (("local.precision=bf16",), "local.precision=bf16: examples are taken one by one in float32 only"),
        (("privacy.delta=0.5",), "privacy.delta=0.5: must be well below 1 /"),
        (
            ("task.class_weights=[1,2,1,1,1,1,1,1,1,1]",),
            "the loss of a batch of task Mnist is not the mean of its exam",
        ),
    ],
)
def test_what_is_refused(refused: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    assert said in refused(*EXAMPLE, *words)


@pytest.mark.parametrize(
    ("privacy", "why"),
    [("example", " mixes the examples of a batch"), ("local", "'s statistics would leave the clients without noise")],
)
def test_batch_norm_is_refused(refused: Callable[..., str], privacy: str, why: str) -> None:
    said = refused("task=images", "model=resnet8", "data=synthetic", "num_clients=2", f"privacy={privacy}")
    assert f"model.norm=batch: BatchNorm{why}; add model.norm=group" in said


def test_who_takes_steps_with_noise_is_not_stacked(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch(*EXAMPLE, "num_rounds=1", "engine.vectorize=3")
    assert "engine.vectorize=3: one client at a time: privacy takes other steps" in capsys.readouterr().err


def test_all_options_are_tried() -> None:
    assert sorted(options("privacy")) == ["example", "local", "none"]
