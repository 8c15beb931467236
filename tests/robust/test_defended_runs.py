"""Rules in runs: before the mean of any strategy, against every attack, and the same bytes on every engine."""

import gzip
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import Launch, digests, forked, long, often, table
from safetensors.numpy import load_file

from fl_bench.config.compose import options
from fl_bench.federation.local import Trainer

SMALL = ("task=mnist", "num_clients=13", "num_rounds=2", "local.steps=2", "partition=dirichlet", "partition.alpha=1")
RULES = sorted(set(options("robust")) - {"none"})
ATTACKS = sorted(set(options("attack")) - {"none", "canary_clients", "canary_rows"})  # those are planted by an audit
MALICIOUS = {"krum": 3, "multikrum": 3, "dnc": 3, "bulyan": 2}  # of 13


def words(rule: str, *more: str) -> tuple[str, ...]:
    given = [f"robust.num_malicious={MALICIOUS[rule]}"] if rule in MALICIOUS else []
    return (*SMALL, f"robust={rule}", *given, *more)


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("metrics.csv", "clients.csv", "model.safetensors")}


def apart(a: Path, b: Path) -> float:
    """The largest difference between two models."""
    one, other = (load_file(run / "model.safetensors") for run in (a, b))
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.parametrize("rule", often([*RULES, "none"], "median", "norm_bound", "none"))
def test_every_rule_keeps_a_long_update_out_of_scaffold(launch: Launch, rule: str) -> None:
    """But for FoolsGold, which looks at directions only."""
    given = ("strategy=scaffold", "stop_on_divergence=false")
    attacked = launch(*words(rule, *given, "attack=scale", "attack.factor=1000", "attack.clients=[4]"))
    assert (apart(launch(*SMALL, *given), attacked) > 1) == (rule in ("none", "foolsgold"))


@pytest.mark.parametrize(
    ("rule", "attack"),
    [pytest.param(*pair, marks=[] if k % 11 == 0 else long) for k, pair in enumerate(product(RULES, ATTACKS))],
)
def test_every_rule_runs_against_every_attack(launch: Launch, rule: str, attack: str) -> None:
    text = ("task=text", "model=fasttext") if attack == "trigger_word" else ()
    run = launch(*words(rule, *text, f"attack={attack}", "attack.clients=[0,5]"))
    assert [row["aggregated"] for row in table(run, "metrics")[1:]] == ["1", "1"]
    assert {row["status"] for row in table(run, "clients")} == {"ok"}


COMPOSED = [
    ("median", "robust/before=nnm", "robust.before.num_malicious=2", "attack=ipm", "strategy=scaffold"),
    ("krum", "robust/before=bucketing", "robust.num_malicious=1", "attack=alie", "compression=topk"),
    ("centered_clipping", "attack=sign_flip", "strategy=fedadam", "network=flaky"),
    ("norm_bound", "attack=min_max", "strategy=fedbuff", "strategy.buffer=4", "network=heterogeneous"),
    ("krum", "attack=min_max", "strategy=fedbuff", "strategy.buffer=9", "network=heterogeneous"),
    ("fltrust", "attack=backdoor", "strategy=scaffold", "compression=topk", "network=flaky"),
    ("foolsgold", "attack=mimic", "strategy=ditto", "clients_per_round=8"),
    ("flame", "attack=gaussian", "strategy=fednova", "attack.std=0.1"),
    ("signguard", "attack=label_flip", "strategy=fedprox"),
    ("dnc", "attack=min_sum", "robust.numbers=100", "robust.iterations=3"),
]


@pytest.mark.parametrize("given", [COMPOSED[0], *(pytest.param(g, marks=long) for g in COMPOSED[1:])], ids=str)
def test_whoever_takes_the_turns_the_bytes_are_the_same(launch: Launch, given: tuple[str, ...]) -> None:
    all_words = words(*given, "attack.clients=[0,5]")
    packed, alone = (digests(launch(*all_words, *more)) for more in ((), ("engine.packing=false",)))
    assert packed == alone


@long
@pytest.mark.parametrize("given", COMPOSED, ids=str)
def test_they_are_the_same_in_a_simulation(tmp_path: Path, given: tuple[str, ...]) -> None:
    all_words = words(*given, "attack.clients=[0,5]", "figures=false", "engine.client_resources.num_cpus=1")
    for engine in ("inline", "simulation"):
        ended = forked(*all_words, f"engine={engine}", f"hydra.run.dir={engine}", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert results(tmp_path / "simulation") == results(tmp_path / "inline")


ALIASES = {
    "krum": ("num_malicious=2", "krum", "num_malicious=2"),
    "multikrum": ("num_selected=4", "multikrum", "num_selected=4"),
    "bulyan": ("num_malicious=1", "bulyan", "num_malicious=1"),
    "fedtrimmedavg": ("beta=0.3", "trimmed_mean", "beta=0.3"),
    "fedmedian": ("", "median", ""),
}


@pytest.mark.parametrize("name", often(ALIASES, "krum", "fedtrimmedavg"))
def test_a_strategy_that_was_a_rule_is_fedavg_with_it(launch: Launch, name: str) -> None:
    old, rule, new = ALIASES[name]
    alias = launch(*SMALL, f"strategy={name}", *filter(None, [old and f"strategy.{old}"]))
    assert results(alias) == results(launch(*SMALL, f"robust={rule}", *filter(None, [new and f"robust.{new}"])))
    assert results(alias) != results(launch(*SMALL))


NEUTRAL = {
    "norm_bound": (("robust.longest=1e9",), ()),
    "centered_clipping": (("robust.radius=1e9",), ()),
    "multikrum": ((), ("weighting=uniform",)),
    "trimmed_mean": (("robust.beta=0",), ("weighting=uniform",)),
    "dnc": ((), ("weighting=uniform",)),
    "none": (("robust/before=bucketing", "robust.before.size=1"), ("weighting=uniform",)),
}


@pytest.mark.parametrize("rule", often(NEUTRAL, "norm_bound", "multikrum"))
def test_a_rule_that_keeps_all_is_none(launch: Launch, rule: str) -> None:
    ours, fedavg = NEUTRAL[rule]
    run, plain = launch(*SMALL, f"robust={rule}", *ours), launch(*SMALL, *fedavg)
    assert apart(run, plain) < 1e-7
    if not fedavg:
        assert results(run) == results(plain)


def test_what_is_mixed_first_is_bounded_then(launch: Launch) -> None:
    """All in one bucket: the mean is as long as may be, where a mean of shortened updates would be shorter."""
    bounded = (*SMALL, "num_rounds=1", "robust=norm_bound", "robust/before=bucketing", "robust.before.size=13")
    start, end = (
        load_file(launch(*bounded, f"robust.longest={length}") / "model.safetensors") for length in ("1e-9", "0.01")
    )
    squares = sum(np.square(end[name] - start[name], dtype=np.float64).sum() for name in start)
    assert np.sqrt(squares) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("strategy", ["fednova", "scaffold"])
def test_with_a_rule_clients_count_once_in_all_that_a_strategy_is_told(launch: Launch, strategy: str) -> None:
    words = (*SMALL, f"strategy={strategy}", "clients_per_round=6", "local.steps=null")
    assert apart(launch(*words, "robust=multikrum"), launch(*words, "weighting=uniform")) < 1e-7


def test_the_mean_without_a_rule_is_that_of_each_once_mixed(launch: Launch) -> None:
    """Of thirteen in one bucket the mean is left; and so it is of those of which each is mixed with all others."""
    plain = launch(*SMALL, "weighting=uniform")
    assert apart(plain, launch(*SMALL, "robust/before=bucketing", "robust.before.size=13")) < 1e-7
    assert apart(plain, launch(*SMALL, "robust=median", "robust/before=nnm")) < 1e-7


def test_with_too_few_answers_the_old_model_stays(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    """A client whose update is too large to add up has failed."""
    failing = ("attack=scale", "attack.factor=1e12", "attack.clients=[3]")
    run = launch(*SMALL, "robust=krum", "robust.num_malicious=5", "attack.start_round=2", *failing)
    assert [row["aggregated"] for row in table(run, "metrics")[1:]] == ["1", "0"]
    assert "round 2: the old model stays: robust needs 13 answers and has 12" in capsys.readouterr().err
    once = launch(*SMALL, "robust=krum", "robust.num_malicious=5", "num_rounds=1")
    assert (run / "model.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()


def test_a_rule_that_trusts_nobody_keeps_the_old_model(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch(*SMALL, "robust=foolsgold", "attack=mimic", "attack.clients=[0]", "num_clients=2", "num_rounds=1")
    assert [row["aggregated"] for row in table(run, "metrics")] == ["", "0"]
    assert "round 1: the old model stays: robust trusts none of 2 updates" in capsys.readouterr().err


def test_of_fltrust_one_client_gives_the_direction_and_the_server_the_length(launch: Launch, tmp_path: Path) -> None:
    """The server's own update is one step of plain SGD on all of its rows, which are nobody else's."""
    short = ("num_rounds=1", "local.steps=1", "local.batch_size=50", "evaluate.validation=0.1")
    run = launch("task=mnist", "num_clients=1", *short, "robust=fltrust", "robust.size=50")
    trainer = Trainer(next(tmp_path.rglob("partition.rows.npy")).parent)
    assert len(trainer.root_rows) == 50
    held = {int(line.split(b",")[0]) for line in gzip.decompress((run / "split.csv.gz").read_bytes()).split()[1:]}
    assert not held & {*trainer.root_rows.tolist()}
    assert len(held) + 50 + len(trainer.validation_rows) == trainer.data.num_samples
    trainer.load(start := trainer.untrained())
    batch = trainer.task.gather(trainer.data.train, trainer.root_rows, "cpu")
    trainer.task.objective(trainer.flat.model.train(), batch)[0].backward()
    gradient = [part.grad for part in trainer.flat.model.parameters()]
    length = 0.1 * np.sqrt(sum(float((part**2).sum()) for part in gradient if part is not None))
    end = np.concatenate([tensor.ravel() for tensor in trainer.layout.split(start).values()])
    made = load_file(run / "model.safetensors")
    moved = np.concatenate([made[name].ravel() for name in trainer.layout.shapes]) - end
    assert np.linalg.norm(moved) == pytest.approx(length, rel=1e-4)


BUFFER = ("strategy=fedbuff", "strategy.buffer=5", "network=heterogeneous", "weighting=uniform", "num_rounds=4")


def test_over_a_buffer_a_rule_that_keeps_all_is_fedbuff(launch: Launch) -> None:
    """Also where updates begin at different models, and are divided by their age."""
    given = (*SMALL, *BUFFER, "clients_per_round=10", "strategy.server_lr=0.5")
    plain, ruled = launch(*given), launch(*given, "robust=trimmed_mean", "robust.beta=0")
    assert apart(plain, ruled) < 1e-6
    assert apart(plain, launch(*given, "robust=median")) > 1e-4
    rows = table(plain, "metrics")
    assert [row["virtual_seconds"] for row in table(ruled, "metrics")] == [row["virtual_seconds"] for row in rows]


MOST = {"norm_bound": 0.2, "centered_clipping": 0.3, "none": np.inf}


@pytest.mark.parametrize("rule", often(MOST, "norm_bound"))
def test_what_colluders_have_made_is_bounded_too(launch: Launch, rule: str) -> None:
    """In two rounds no update is longer than 0.1; or none is further than 0.1 from 0, and from what that has made."""
    key = {"norm_bound": "robust.longest=0.1", "centered_clipping": "robust.radius=0.1"}
    attack = ("attack=ipm", "attack.epsilon=10000", "attack.fraction=0.5", "stop_on_divergence=false")
    start = load_file(launch(*SMALL, "num_rounds=1", "local.lr=1e-12") / "model.safetensors")
    end = load_file(launch(*words(rule, *filter(None, [key.get(rule)]), *attack)) / "model.safetensors")
    moved = float(np.sqrt(sum(((end[name] - start[name]).astype(float) ** 2).sum() for name in end)))
    assert moved <= MOST[rule] + 1e-6
    assert (moved > 100) == (rule == "none")


@pytest.mark.parametrize("rule", often(["centered_clipping", "foolsgold", "fltrust"], "centered_clipping", "fltrust"))
def test_an_interrupted_run_remembers(launch: Launch, tmp_path: Path, rule: str) -> None:
    given = words(rule, "num_rounds=3", "attack=sign_flip", "attack.clients=[1]", "strategy=scaffold")
    whole = launch(*given)
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    launch(*given, "num_rounds=2", folder)
    assert results(launch(*given, folder, "resume=true")) == results(whole)


@pytest.mark.parametrize("rule", often(["norm_bound", "centered_clipping"], "centered_clipping"))
def test_masks_go_with_rules_that_bound(launch: Launch, rule: str) -> None:
    key = {"norm_bound": "longest", "centered_clipping": "radius"}[rule]
    given = words(rule, f"robust.{key}=0.2")
    plain, hidden = launch(*given), launch(*given, "secure_aggregation=masks")
    assert (hidden / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("robust=krum", "robust.num_malicious=4"),
            "robust.num_malicious=4: needs 11 answers a round or more, and a ro",
        ),
        (("strategy=bulyan", "strategy.num_malicious=2"), "strategy.num_malicious=2: needs 11 answers a round or more"),
        (
            ("robust=median", "robust/before=nnm", "robust.before.num_malicious=5"),
            "before.num_malicious=5: needs 11 ans",
        ),
        (("robust=krum", "robust/before=bucketing", "robust.before.size=5"), "robust.before.size=5: needs 11 answers"),
        (("robust=trimmed_mean", "robust.beta=0.09"), "robust.beta=0.09: needs 12 answers a round or more"),
        (("strategy=fedtrimmedavg", "strategy.beta=0.5"), "strategy.beta=0.5: must be from 0 to below 0.5"),
        (("robust=median", "secure_aggregation=masks"), "robust: it looks at each client's update, which secure_aggr"),
        (
            ("robust=median", "strategy=qfedavg"),
            "strategy: its server half needs each client's model, and robust leaves",
        ),
        (("robust=centered_clipping", "strategy=fedbuff"), "strategy: its server half needs each client's model"),
        (("robust=fltrust", "robust.size=9999"), "robust: the server would keep 9999 rows to train on, of 4000"),
        (
            ("robust=fltrust", "partition=sites"),
            "robust: the server would train on rows of its own, and with partition",
        ),
        (
            ("robust=fltrust", "partition=file", "partition.path=x.csv"),
            "robust: a file names rows of all the training data, of which the server would keep some",
        ),
        (("robust=foolsgold", "robust/before=nnm"), "robust: it must know whose update is whose"),
        (("robust=norm_bound", "strategy=dp_server_fixed"), "epsilon is for a plain mean; use robust=none"),
        (("robust/before=nnm", "strategy=dp_client_fixed"), "epsilon is for a plain mean; use robust=none"),
    ],
)
def test_what_does_not_go_together_is_said(refused: Callable[..., str], given: tuple[str, ...], said: str) -> None:
    assert said in refused("num_clients=10", *given)


@long
def test_ten_thousand_models_need_not_be_there_at_once(tmp_path: Path) -> None:
    """Of LeNet they would be 2,500 MB; clipped around the last round's update they add less than 500."""
    given = ("task=images", "model=lenet5", "data=synthetic", "data.num_samples=20000", "num_clients=10000")
    short = ("num_rounds=2", "local.steps=1", "local.batch_size=2", "engine=inline", "figures=false")
    peaks = {}
    for rule in ("none", "centered_clipping"):
        run = tmp_path / rule
        ended = forked(*given, *short, f"robust={rule}", f"hydra.run.dir={run}", cwd=tmp_path, timeout=900)
        assert ended.returncode == 0, ended.stderr
        peaks[rule] = int(table(run, "timing")[-1]["server_peak_mb"])
    assert peaks["centered_clipping"] < peaks["none"] + 500
