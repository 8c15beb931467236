"""Every value of a sweep is looked at, and none that a run would take is refused."""

from pathlib import Path

import pytest
from conftest import forked, long

from fl_bench.config.cells import refuse_cells
from fl_bench.config.explain import explained
from fl_bench.config.words import beside_options
from fl_bench.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=0,1,x"], "seed: Value 'x' of type 'str' could not be converted to Integer"),
        (["seed=range(3)", "num_clients=2,0"], "num_clients=0: must be 1 or more"),
        (["strategy=fedavg,fedprox,fedavgg"], "strategy=fedavgg: did you mean fedavg?"),
        (["strategy=fedprox,fedavg", "strategy.mu=0.1"], "strategy.mu: unknown key; strategy=fedprox or "),
        (["task=mnist,cifar", "local.epochs=5"], "local.epochs=5: has no effect: local.steps=4 wins; "),
        (["task=cifar,mnist", "local.epochs=5"], "local.epochs=5: has no effect: local.steps=4 wins; "),
    ],
)
def test_a_wrong_value_anywhere_is_found(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error, explained(words):
        refuse_cells(words, None)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["strategy=glob(fed*)", "seed=range(3)"], marks=long),
        ["clients_per_round=${num_clients},2", "hydra.sweep.dir=x"],
        ["+local.optimizer.momentum=0.5,0.9", "targets=[1],[0.5,0.9]"],
        ["local={steps: 1},{steps: 2}", "experiment=contrast,drift"],
        ["seed=interval(0,1)"],  # who will choose is another sweeper than Hydra's own
    ],
    ids=" ".join,
)
def test_what_a_run_would_take_is_not_refused(words: list[str]) -> None:
    refuse_cells(words, None)


def test_a_key_beside_the_options_that_have_it() -> None:
    words = ["strategy=fedadam,fedyogi", "strategy.eta=0.1", "+strategy.a=[1,2]", "strategy.tau=1,2", "seed=1"]
    found = beside_options(words)
    assert found == [words[0], "strategy.eta=choice(0.1)", "+strategy.a=choice([1,2])", *words[3:]]
    assert beside_options(["strategy=fedadam", "strategy.eta=0.1", "seed=1,2"])[1] == "strategy.eta=0.1"


@long
def test_a_sweep_over_strategies_with_a_key_that_both_have(tmp_path: Path) -> None:
    words = ("strategy=fedadam,fedyogi", "strategy.eta=0.1", "num_rounds=1", "engine=inline", "figures=false")
    result = forked("-m", *words, "sweep.parallel=1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    configs = [file.read_text() for file in sorted(tmp_path.glob("sweep/*/.hydra/config.yaml"))]
    assert [text.count("eta: 0.1\n") for text in configs] == [2, 2]  # strategy.eta, and the server's
