"""Differential privacy: what a round does, by hand; that the noise is what is accounted; and epsilon itself."""

import json
import math
from pathlib import Path
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest
from conftest import Launch, compose, forked, long, table
from dp_accounting import rdp
from flwr.app import Array, ArrayRecord, ConfigRecord
from safetensors.torch import load_file
from serving import serve

from fl_bench.errors import ConfigError
from fl_bench.federation.cohort import Cohort
from fl_bench.network.schedule import Plan
from fl_bench.runs.experiment import make_strategy
from fl_bench.strategies.accountant import Privacy
from fl_bench.strategies.private import AdaptiveClipping, FixedClipping
from fl_bench.strategies.server import SECRET_NOISE

SENT = {"w": [1.0, 1.0]}
MODELS = [{"w": [4.0, 5.0]}, {"w": [1.6, 1.8]}]  # updates of length 5 and 1


def privacy(z: float = 0.0, **given: Any) -> Privacy:
    known: dict[str, Any] = {
        "sampling": "fixed", "clients_per_round": 4, "num_clients": 8, "target_delta": 1e-5, "target_epsilon": None,
        "max_epsilon": None, "horizon": 10,
    }  # fmt: skip
    return Privacy(z, **known | given)


def test_updates_are_clipped_and_who_is_absent_counts_as_zero() -> None:
    # (3, 4) / 2.5 = (1.2, 1.6), and (0.6, 0.8) as it is, of four clients: (0.45, 0.6), whatever their examples
    made = serve(FixedClipping(2.0, True, privacy()), SENT, MODELS, [900, 1])
    assert made is not None
    assert made[0]["w"].tolist() == pytest.approx([1.45, 1.6], abs=1e-6)
    assert made[1]["clipping_norm"] == 2.0


def test_an_update_of_zero_stays_zero() -> None:
    made = serve(FixedClipping(2.0, True, privacy()), SENT, [SENT, SENT])
    assert made is not None
    assert made[0]["w"].tolist() == [1.0, 1.0]


def test_clipped_at_the_clients_it_is_not_clipped_again() -> None:
    made = serve(FixedClipping(2.0, False, privacy()), SENT, MODELS, metrics=[{"norm_bit": 1}, {"norm_bit": 0}])
    assert made is not None
    assert made[0]["w"].tolist() == pytest.approx([1.9, 2.2], abs=1e-6)


@pytest.mark.parametrize(("sampling", "change"), [("fixed", 2.0), ("poisson", 1.0)])
@pytest.mark.parametrize("count", [0, 2])
def test_the_noise_fits_how_much_one_client_changes(sampling: str, change: float, count: int) -> None:
    # z = 0.5 times the norm 3, for the neighbourhood, over four clients; also where nobody has answered
    np.random.seed(0)
    sent = {"w": [0.0] * 40_000}
    server = FixedClipping(3.0, True, privacy(0.5, sampling=sampling))
    made = serve(server, sent, [sent] * count)
    assert made is not None
    assert made[0]["w"].std() == pytest.approx(0.5 * 3 * change / 4, rel=0.02)


def adaptive(norm: float, z: float = 0.0, **given: Any) -> AdaptiveClipping:
    options = {"quantile": 0.5, "norm_lr": 0.2, "clipped_count_std": None} | given
    return AdaptiveClipping(norm, at_server=True, privacy=privacy(z), **options)


@pytest.mark.parametrize(
    ("quantile", "answers", "exponent"),
    [
        (0.5, MODELS, 0.0),  # one of two was clipped, and two are absent: half of them were not
        (0.25, MODELS, -0.2 * 0.25),
        (0.5, MODELS[:1], -0.2 * (3 / 8 - 0.5)),  # the one was clipped: -1/2 of four
        (0.5, MODELS[1:] * 4, -0.2 * 0.5),  # nobody was
    ],
)
def test_the_norm_follows_the_quantile(quantile: float, answers: list[Any], exponent: float) -> None:
    server = adaptive(2.0, quantile=quantile)
    serve(server, SENT, answers)
    assert server.norm == pytest.approx(2 * math.exp(exponent))


@pytest.mark.parametrize("start", [0.01, 1.0, 100.0])
def test_from_both_sides_it_comes_to_the_quantile(start: float) -> None:
    rng = np.random.default_rng(0)
    server = adaptive(start)
    for round in range(1, 90):
        serve(server, {"w": [0.0]}, [{"w": [float(length)]} for length in rng.uniform(1, 3, 4)], round=round)
    assert 1.6 < server.norm < 2.4  # the median of the lengths is 2


def test_the_noise_is_that_of_the_norm_that_clipped() -> None:
    np.random.seed(0)
    sent = {"w": [0.0] * 40_000}
    server = adaptive(3.0, z=0.4, norm_lr=5.0, clipped_count_std=2.0)
    made = serve(server, sent, [sent] * 4)
    assert made is not None
    assert abs(server.norm - 3) > 1  # by now
    # of both releases together z is 0.4, so of the updates alone (0.4^-2 - 2^-2)^-1/2: the count changes by one, to 2
    assert made[0]["w"].std() == pytest.approx((0.4**-2 - 2.0**-2) ** -0.5 * 2 * 3 / 4, rel=0.02)


def test_two_releases_are_one_of_the_noise_multiplier_that_is_accounted() -> None:
    server = adaptive(1.0, z=0.7, clipped_count_std=3.0)
    joint = rdp.RdpAccountant().compose(dp.GaussianDpEvent(server.noise())).compose(dp.GaussianDpEvent(3.0))
    alone = rdp.RdpAccountant().compose(dp.GaussianDpEvent(0.7))
    assert joint.get_epsilon(1e-5) == pytest.approx(alone.get_epsilon(1e-5))
    with pytest.raises(ValueError, match=r"clipped_count_std=0\.6: must be more than 0\.7, or null"):
        adaptive(1.0, z=0.7, clipped_count_std=0.6)


def by_hand(sampling: str, cohort: int, population: int, z: float, rounds: int) -> float:
    gaussian = dp.GaussianDpEvent(z)
    if sampling == "poisson":
        event, relation = dp.PoissonSampledDpEvent(cohort / population, gaussian), "ADD_OR_REMOVE_ONE"
    else:
        event, relation = dp.SampledWithoutReplacementDpEvent(population, cohort, gaussian), "REPLACE_ONE"
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation[relation])
    return float(accountant.compose(event, rounds).get_epsilon(1e-5))


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_epsilon_is_the_accountants(sampling: str) -> None:
    given = privacy(1.0, sampling=sampling, clients_per_round=100, num_clients=1000)
    assert given.epsilon(100) == pytest.approx(by_hand(sampling, 100, 1000, 1.0, 100))
    assert given.epsilon(7) == pytest.approx(by_hand(sampling, 100, 1000, 1.0, 7))


def test_known_numbers() -> None:
    """q = 0.1, z = 1, 100 rounds, delta 1e-5: 7.90 by the accountants of two packages (opacus 1.6 has 7.899)."""
    assert privacy(1.0, sampling="poisson", clients_per_round=100, num_clients=1000).epsilon(100) == pytest.approx(
        7.90, abs=0.01
    )
    # without sampling, of the Gaussian: min over a of T a / (2 z^2) + ln(1 - 1/a) - (ln delta + ln a) / (a - 1)
    z, rounds = 5.0, 20
    grid = np.arange(2, 400) / 1.0
    bound = rounds * grid / (2 * z**2) + np.log1p(-1 / grid) - (math.log(1e-5) + np.log(grid)) / (grid - 1)
    assert privacy(z, clients_per_round=8).epsilon(rounds) == pytest.approx(bound.min(), rel=0.02)


def test_to_take_everybody_bounds_a_sample() -> None:
    few = privacy(0.1, clients_per_round=4).epsilon(10)
    assert few == pytest.approx(privacy(0.1, clients_per_round=8).epsilon(10))
    assert by_hand("fixed", 4, 8, 0.1, 10) > few
    assert privacy(0.0).epsilon(1) == math.inf


def test_the_noise_for_an_epsilon() -> None:
    given = privacy(99.0, sampling="poisson", clients_per_round=100, num_clients=1000, target_epsilon=5.0, horizon=100)
    assert given.noise_multiplier == pytest.approx(1.291, abs=0.001)
    assert 4.99 < given.epsilon(100) <= 5.0
    assert given.lasts(100)
    assert not given.lasts(101)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["strategy.target_epsilon=1e-6"],
            "strategy.target_epsilon=1e-06: no noise keeps to it for horizon=100 rounds",
        ),
        (["strategy.max_epsilon=1", "strategy.noise_multiplier=1"], "strategy.max_epsilon=1: already the first round"),
        (["strategy.noise_multiplier=-1"], "strategy.noise_multiplier=-1: must be a number from 0"),
        (["strategy.sampling=often"], "strategy.sampling=often: should be 'fixed' or 'poisson'"),
        (["strategy.clipping_norm=0"], "strategy.clipping_norm=0: must be a positive number"),
        (["strategy.target_delta=0.1"], "strategy.target_delta=0.1: must be above 0, and well below 1 / 10"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_strategy(compose("strategy=dp_server_fixed", *words).strategy.server)
    assert str(error.value).startswith(text)


SMALL = ("num_rounds=3", "local.steps=1", "num_clients=8", "clients_per_round=2", "strategy=dp_server_adaptive")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("task=cifar", "model.norm=batch"), "model.norm=batch: BatchNorm's statistics would leave the clients"),
        (("min_clients=2",), "min_clients=2: with differential privacy"),
        (("network.over_select=1.5",), "network.over_select=1.5: who is late"),
        (("strategy.schedule._target_=fl_bench.network.schedule.Schedule", "~strategy.schedule.sampling",
          "strategy.sampling=poisson"), "strategy.schedule=fl_bench.network.schedule.Schedule: epsilon is for"),
    ],
)  # fmt: skip
def test_where_epsilon_would_not_be_true(
    launch: Launch, capsys: pytest.CaptureFixture, words: tuple[str, ...], text: str
) -> None:
    launch(*SMALL, *words, exit_code=2)
    assert text in capsys.readouterr().err


def test_the_columns_of_a_run_and_an_empty_cohort(launch: Launch) -> None:
    folder = launch(*SMALL, "strategy.sampling=poisson", "clients_per_round=1", "num_rounds=8", "seed=1")
    rows = table(folder, "metrics")[1:]
    assert [row["aggregated"] for row in rows] == ["1"] * 8
    sizes = [int(row["clients_sampled"]) for row in rows]
    assert 0 in sizes
    assert max(sizes) > 1
    losses = [float(row["test_loss"]) for row in table(folder, "metrics")]
    assert len(set(losses)) == 9  # each round has its noise
    given = privacy(0.1, sampling="poisson", clients_per_round=1)
    assert [float(row["epsilon"]) for row in rows] == pytest.approx([given.epsilon(k) for k in range(1, 9)])
    assert float(rows[0]["clipping_norm"]) == 1.0
    assert all(float(row["clipping_norm"]) > 0 for row in rows)


def test_a_run_ends_before_its_budget_does_and_does_not_go_on(launch: Launch, capsys: pytest.CaptureFixture) -> None:
    most = privacy(1.0, clients_per_round=2).epsilon(3) * 1.01
    words = ["strategy.noise_multiplier=1", f"strategy.max_epsilon={most}", "num_rounds=6", "strategy.horizon=9"]
    folder = launch(*SMALL, *words, "evaluate.every=2")
    rows = table(folder, "metrics")
    assert [(row["round"], bool(row["test_loss"])) for row in rows] == [("0", 1), ("1", 0), ("2", 1), ("3", 1)]
    assert "round 3 is the last: with another, epsilon would be" in capsys.readouterr().err


def test_a_client_that_fails_counts_as_absent(launch: Launch, tmp_path: Path) -> None:
    folder = launch(*SMALL, "clients_per_round=8", "network.dropout=0.5")
    rows = table(folder, "metrics")[1:]
    assert any(int(row["clients_dropped"]) for row in rows)
    assert all(row["aggregated"] == "1" for row in rows)


@long
def test_what_was_promised_stays_where_a_run_goes_on(tmp_path: Path) -> None:
    words = [*SMALL, "engine=inline", "figures=false", "strategy.target_epsilon=20", "hydra.run.dir=run"]
    assert forked(*words, cwd=tmp_path).returncode == 0
    before = (tmp_path / "run" / "metrics.csv").read_text()
    more = forked("resume", "run", "num_rounds=6", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert (tmp_path / "run" / "metrics.csv").read_text() == before  # the budget of three rounds is spent
    assert "round 3 is the last: with another, epsilon would be" in more.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["strategy"]["horizon"] == 3
    assert record["config"]["num_rounds"] == 6
    assert 19.99 < record["final"]["epsilon"] <= 20
    other = forked(*words, "resume=true", "num_rounds=6", "strategy.horizon=6", cwd=tmp_path)
    assert other.returncode == 2
    assert "strategy.horizon=6: the run has 3" in other.stderr


@pytest.mark.parametrize("strategy", ["dp_client_fixed", "dp_client_adaptive"])
def test_what_clients_have_clipped_needs_no_more_than_the_sum(launch: Launch, strategy: str) -> None:
    words = ("task=mnist", "num_clients=5", "num_rounds=3", "partition=linear", f"strategy={strategy}", "figures=false")
    hidden, summed, each = (
        launch(*words, *more) for more in (("secure_aggregation=masks",), (), ("strategy.needs_each_client=true",))
    )
    models = [load_file(run / "model.safetensors") for run in (hidden, summed, each)]
    for name, tensor in models[0].items():
        assert tensor.equal(models[1][name])
        assert (tensor - models[2][name]).abs().max() < 1e-6  # float64 there, fixed point here
    norms = [[row["clipping_norm"] for row in table(run, "metrics")] for run in (hidden, summed, each)]
    assert norms[0] == norms[1] == norms[2]


def test_on_real_sites_noise_does_not_follow_from_the_seed() -> None:
    drawn = []
    for secret in (False, False, True, True):
        cfg = compose("strategy=dp_client_fixed", "strategy.noise_multiplier=1", "task=mnist")
        strategy = make_strategy(cfg.strategy.server)
        np.random.seed(1)
        arrays = ArrayRecord({"a": Array(np.zeros(4, np.float32))})
        strategy.configure_train(1, arrays, ConfigRecord({SECRET_NOISE: secret}), Cohort(Plan(1, [])))
        made, _ = strategy.aggregate_train(1, [])
        assert made is not None
        drawn.append(made["a"].numpy().tolist())
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) == 3
