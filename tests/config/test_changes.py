"""Records of older runs lack the keys that have come since; those count as their defaults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import compose, digests
from omegaconf import OmegaConf

from fl_bench import commands
from fl_bench.config.changes import changes, complete, refuse_changes
from fl_bench.errors import ConfigError
from fl_bench.runs.verify import differences
from fl_bench.storage.sealed import seal, unseal

Launch = Callable[..., Path]
SMALL = ("num_rounds=2", "num_clients=4", "local.steps=1", "data=synthetic", "data.num_samples=100")
LATER = ("min_clients", "early_stop", "evaluate.adapt_steps", "engine.vectorize", "strategy.needs_each_client")


def forget(config: dict[str, Any], keys: tuple[str, ...] = LATER) -> None:
    for key in keys:
        *parents, name = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        del node[name]


def make_old(folder: Path) -> None:
    """Let a run look as if a version without these keys had made it."""
    record = json.loads((folder / "run.json").read_text())
    forget(record["config"])
    del record["choices"], record["overrides"]
    (folder / "run.json").write_text(json.dumps(record))
    for file in (folder / "checkpoint").glob("*"):
        tensors, facts = unseal(file)
        forget(facts["config"])
        seal(file, tensors, facts)


def test_an_old_run_goes_on_to_the_bytes_of_a_new_one(launch: Launch) -> None:
    old, new = launch(*SMALL), launch(*SMALL, "num_rounds=3")
    make_old(old)
    assert commands.call("resume", [str(old), "num_rounds=3"]) == 0
    assert digests(old) == digests(new)
    config = json.loads((old / "run.json").read_text())["config"]
    assert (config["min_clients"], config["engine"]["vectorize"], config["early_stop"]["patience"]) == (1, "off", 10)


def test_an_old_run_is_done_and_the_same(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = launch(*SMALL), launch(*SMALL)
    make_old(old)
    capsys.readouterr()
    assert commands.call("resume", [str(old)]) == 0
    assert "all 2 rounds were done before" in capsys.readouterr().out
    assert list(differences(old, new)) == list(differences(new, old)) == []


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("min_clients=2", "min_clients=2: the run has 1, and its rounds would be others"),
        ("evaluate.adapt_steps=1", "evaluate.adapt_steps=1: the run has 0, and"),
        ("engine.vectorize=2", "engine.vectorize=2: the run has off, and"),
    ],
)
def test_an_old_run_had_the_default_and_nothing_else(
    launch: Launch, word: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = launch(*SMALL)
    make_old(old)
    capsys.readouterr()
    assert commands.call("resume", [str(old), word]) == 2
    assert f"fl-bench: {line}" in capsys.readouterr().err


BEGIN: dict[str, object] = {"init": None, "init_skip": []}  # what every model has


def test_what_is_completed() -> None:
    old = {"num_clients": 4, "local": {"steps": None, "optimizer": {"name": "Adam"}}, "model": {}, "early_stop": None}
    whole = complete(old)
    assert (whole["seed"], whole["num_rounds"]) == (0, 100)  # as task=mnist has it
    assert whole["clients_per_round"] == 4  # by its interpolation
    assert whole["local"].items() > {"epochs": 1, "steps": None, "batch_size": 32, "lr": 0.1}.items()
    assert whole["local"]["optimizer"] == {"name": "Adam"}
    assert whole["local"]["lr_horizon"] == 100
    assert whole["early_stop"] is None
    assert complete(old, {"task": "cifar", "strategy": "of-the-users-own"})["model"] == {
        "_target_": "fl_bench.models.cnn.blitz",
        "norm": None,
        **BEGIN,
    }
    assert complete(old, {"task": "cifar", "model": "of-the-users-own"})["model"] == BEGIN
    assert complete(old, {"task": "cifar"})["num_rounds"] == 30
    assert complete(old)["model"] == BEGIN


def test_a_run_from_before_models_had_names_goes_on() -> None:
    """With `choices` that do not know the group, and the key of the task that was `model.norm`."""
    new: Any = OmegaConf.to_container(compose("task=cifar", "model.norm=batch"), resolve=True)
    task = {"_target_": "fl_bench.tasks.cifar.Cifar", "norm": "batch"}
    old = new | {"model": {"norm": "batch"}, "task": task}
    assert changes(old, new, {"task": "cifar"}, {"task": "cifar", "model": "blitz"}) == {}
    assert complete(old, {"task": "cifar"}) == new
    new = OmegaConf.to_container(compose("task=mnist"), resolve=True)
    old = new | {"model": {}, "task": {"_target_": "fl_bench.tasks.mnist.Mnist"}}
    assert changes(old, new, {"task": "mnist"}, {"task": "mnist", "model": "logistic"}) == {}
    assert complete(old, {"task": "mnist"}) == new


def test_a_tracker_may_change(record: Path) -> None:
    old = json.loads((record / "run.json").read_text())["config"] | {"tracker": {"name": "wandb"}, "seed": 0}
    refuse_changes(old, compose(*SMALL), 0)
    with pytest.raises(ConfigError, match="seed=0: the run has 1, and its rounds would be others"):
        refuse_changes(old | {"seed": 1}, compose(*SMALL), 0)


UNKNOWN = [
    (["num_roundss=3"], "num_roundss: unknown key; did you mean num_rounds?"),
    (["local.foo=3"], "local.foo: unknown key; known: "),
    (["strategy.mu=3"], "strategy.mu: unknown key; strategy=fedprox or strategy=moon has it"),
    (["+model.name=x"], "model.name: unknown key; "),
    (["strategy=krum"], "strategy=krum: cannot be chosen again for a run that exists; only engine and tracker can"),
    (["experiment=drift"], "experiment=drift: cannot be chosen again"),
    (["compression/down=fp16"], "compression/down=fp16: cannot be chosen again"),
    (["engine=inlin"], "engine=inlin: did you mean inline?"),
    (["num_rounds=x"], "num_rounds: Value 'x' of type 'str' could not be converted to Integer"),
    (["num_rounds=[3"], "num_rounds=[3: cannot be read"),
    (["num_rounds=1,2"], "num_rounds=1,2: must be KEY=VALUE, with one value"),
    (["engine=choice(inline,simulation)"], "engine=choice(inline,simulation): must be KEY=VALUE, with one value"),
    (["~seed"], "~seed: must be KEY=VALUE, with one value"),
    (["=3"], "=3: must be KEY=VALUE, with one value"),
]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, as far as its config goes."""
    from omegaconf import OmegaConf

    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_text(json.dumps({"config": OmegaConf.to_container(compose(*SMALL), resolve=True)}))
    return folder


@pytest.mark.parametrize("verb", ["resume", "rerun"])
@pytest.mark.parametrize(("words", "line"), UNKNOWN, ids=[words[0] for words, _ in UNKNOWN])
def test_words_for_a_run_that_there_is(record: Path, verb: str, words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        commands.call(verb, [str(record), *words])
    assert str(error.value).startswith(line)
