"""Attacks in runs: neutral ones change nothing, and the others go with all strategies, codecs and networks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Launch, digests, forked, long, often, table

from fl_bench.config.compose import options

SMALL = ("task=mnist", "num_clients=6", "num_rounds=3", "local.steps=2", "partition=dirichlet", "partition.alpha=1")
TARGETED = {"backdoor", "constrain_and_scale", "replacement", "semantic", "trigger_word"}  # see test_targeted.py
CANARIES = {"canary_clients", "canary_rows"}  # see test_canaries.py
UNTARGETED = sorted(set(options("attack")) - {"none"} - TARGETED - CANARIES)


@pytest.mark.parametrize("attack", often(UNTARGETED, "gaussian", "ipm", "label_flip"))
def test_an_attack_by_nobody_is_none_to_the_bit(launch: Launch, attack: str) -> None:
    words = (*SMALL, "strategy=scaffold", "num_rounds=2")
    plain = results(launch(*words))
    assert results(launch(*words, f"attack={attack}", "attack.fraction=0")) == plain
    assert results(launch(*words, f"attack={attack}", "attack.clients=[0,1]", "attack.start_round=3")) == plain
    attacked = launch(*words, f"attack={attack}", "attack.clients=[0,1]", "attack.start_round=2")
    assert table(attacked, "metrics")[:2] == table(launch(*words), "metrics")[:2]
    assert (attacked / "model.safetensors").read_bytes() != plain["model.safetensors"]


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("metrics.csv", "clients.csv", "model.safetensors")}


def test_a_scale_of_one_is_no_attack(launch: Launch) -> None:
    plain, scaled = launch(*SMALL), launch(*SMALL, "attack=scale", "attack.factor=1", "attack.clients=[2,5]")
    for name in ("metrics.csv", "model.safetensors"):
        assert (scaled / name).read_bytes() == (plain / name).read_bytes()
    rows = table(scaled, "clients")
    assert [row["client"] for row in rows if row["malicious"] == "1"] == ["2", "5"] * 3
    assert [{k: v for k, v in row.items() if k != "malicious"} for row in rows] == table(plain, "clients")


COMPOSED = [
    ("attack=alie", "strategy=scaffold", "compression=topk", "attack.z=1.5"),
    ("attack=label_flip", "strategy=ditto", "evaluate.clients=true"),
    ("attack=ipm", "strategy=fedbuff", "strategy.buffer=4", "network=flaky"),
    ("attack=free_rider", "strategy=fednova", "network=flaky"),
    ("attack=min_max", "strategy=krum", "strategy.num_malicious=1"),
    ("attack=gaussian", "strategy=fedadam", "clients_per_round=4", "attack.std=0.01"),
    ("attack=mimic", "model=resnet8", "task=cifar", "data=synthetic", "data.num_samples=100"),
    ("attack=backdoor", "strategy=fedbuff", "strategy.buffer=4", "network=flaky"),
    ("attack=replacement", "strategy=dp_server_fixed", "compression=quantize"),
    ("attack=semantic", "strategy=fedbn", "model=resnet8", "task=cifar", "data=synthetic", "data.num_samples=100"),
    ("attack=min_sum", "strategy=fedrep", "model=mlp", "partition.unseen=0.2", "partition.holdout=0.3"),
]


@pytest.mark.parametrize("words", COMPOSED, ids=lambda words: f"{words[0]} {words[1]}")
@long
def test_attacks_compose(launch: Launch, words: tuple[str, ...]) -> None:
    """Packed and client by client: the same bytes, whoever adds up."""
    given = (*SMALL, "attack.clients=[0,2]", *words)
    run = launch(*given)
    rows = table(run, "clients")
    assert all(row["malicious"] == str(int(row["client"] in ("0", "2"))) for row in rows if row["round"] != "0")
    assert "failed" not in {row["status"] for row in rows}
    honest = launch(*SMALL, *words[1:2], *(word for word in words[2:] if not word.startswith("attack")))
    assert (run / "model.safetensors").read_bytes() != (honest / "model.safetensors").read_bytes()
    assert table(honest, "clients")[0].keys() == rows[0].keys() - {"malicious"}
    alone = digests(launch(*given, "engine.packing=false"))
    assert {k: v for k, v in alone.items() if "state" not in k} == {
        k: v for k, v in digests(run).items() if "state" not in k
    }


@long
@pytest.mark.parametrize("words", COMPOSED, ids=lambda words: f"{words[0]} {words[1]}")
def test_attacks_are_the_same_in_a_simulation(tmp_path: Path, words: tuple[str, ...]) -> None:
    given = (*SMALL, "figures=false", "attack.clients=[0,2]", "engine.client_resources.num_cpus=1", *words)
    for engine in ("inline", "simulation"):
        ended = forked(*given, f"engine={engine}", f"hydra.run.dir={engine}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert results(tmp_path / "simulation") == results(tmp_path / "inline")


def test_a_free_rider_takes_no_step(launch: Launch) -> None:
    run = launch(*SMALL, "attack=free_rider", "attack.fraction=1", "strategy=fedavg")
    losses = [row["test_loss"] for row in table(run, "metrics")]
    assert len({*losses}) == 1
    assert {row["steps"] for row in table(run, "clients")} == {"2"}  # it says so


def test_who_trains_on_other_batches_is_not_stacked(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SMALL, "engine.vectorize=3", "attack.fraction=0.3")
    launch(*words, "attack=label_flip")
    assert "engine.vectorize=3: one client at a time: malicious clients take other steps" in capsys.readouterr().err
    launch(*words, "attack=sign_flip")
    assert "engine.vectorize" not in capsys.readouterr().err


def test_masks_hide_what_a_malicious_client_sends_but_not_what_it_would_know(launch: Launch) -> None:
    words = (*SMALL, "attack=sign_flip", "attack.clients=[1]")
    plain, hidden = launch(*words), launch(*words, "secure_aggregation=masks")
    assert (hidden / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("attack=alie", "secure_aggregation=masks"), "attack: its clients make their updates of those of each other,"),
        (("attack=ipm", "attack.epsilon=0"), "attack.epsilon=0: must be a positive number"),
        (("attack=min_max", "attack.direction=up"), "attack.direction=up: must be one of std, sign, unit"),
        (("attack=gaussian", "attack.std=-1.0"), "attack.std=-1.0: must be 0 or more"),
        (("attack=mimic", "attack.clients=[6]"), "attack.clients=[6]: must be different clients from 0 to 5"),
    ],
)
def test_what_cannot_be_is_said(refused: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    assert said in refused("num_clients=6", *words)


@long
@pytest.mark.parametrize("attack", ["gaussian", "scale", "sign_flip"])
def test_krum_withstands_what_fedavg_does_not(launch: Launch, attack: str) -> None:
    """Three of thirteen clients; Krum stays within five points of what it has without them.

    FedAvg comes below half of right answers, but for `scale`: that way is too long, yet not wrong.
    """
    words = ("task=mnist", "num_clients=13", "num_rounds=15", "stop_on_divergence=false")
    krum, three = ("strategy=krum", "strategy.num_malicious=3"), (f"attack={attack}", "attack.fraction=0.23")

    def last(*more: str) -> tuple[float, float]:
        row = table(launch(*words, *more), "metrics")[-1]
        return float(row["test_accuracy"]), float(row["test_loss"])

    clean, withstood, averaged = last(*krum), last(*krum, *three), last("strategy=fedavg", *three)
    assert withstood[0] > clean[0] - 0.05
    assert averaged[1] > 2 * withstood[1]
    assert averaged[0] < 0.5 or attack == "scale"
