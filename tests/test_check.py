"""The checks that `fl-bench check` puts a strategy to, on every strategy, and on copies that are wrong."""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytest
from conftest import STRATEGIES, fl_bench, forked, long, often
from omegaconf import DictConfig

from fl_bench.config.schema import CONF
from fl_bench.runs.checks import CHECKS, check


def composed(words: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(words))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


OFTEN = ("scaffold", "krum")  # what clients keep, and what a server chooses


@pytest.mark.parametrize("strategy", [pytest.param(name, marks=[] if name in OFTEN else long) for name in STRATEGIES])
def test_every_strategy(strategy: str, scratch: Path) -> None:
    found = list(check(strategy, composed, [], scratch))
    assert [name for name, _, _ in found] == list(CHECKS)
    assert not [(name, text) for name, outcome, text in found if outcome == "FAILED"]
    assert [outcome for name, outcome, _ in found if name == "order"] == ["ok"]


WRONG = {  # copies with a wrong sign, or that remember from client to client; and the check that must see it
    "scaffold": ("effect", "scaffold.ControlVariates", "turn.grad = turn.grad - turn.work.correction"),
    "fedprox": (
        "effect",
        "fedprox.Proximal",
        "turn.grad -= 2 * float(turn.config['proximal-mu']) * (turn.parameters - turn.start)",
    ),
    "feddyn": ("effect", "feddyn.DynamicRegularization", "turn.grad += 2 * turn.work.gradient"),
    "ditto": ("neutral", "ditto.Ditto", "turn.grad *= -1"),
    "fedavg": ("order", "base.LocalAlgorithm", "self.k = getattr(self, 'k', 1) * -2; turn.grad += self.k * 1e-3"),
}


def write_wrong(name: str, folder: Path) -> str:
    """A strategy wrong_<name> in a user's folder; the check that must see it."""
    expected, original, line = WRONG[name]
    module, half = original.split(".")
    mine = f"wrong_{name}.Wrong"
    yaml = (CONF / "strategy" / f"{name}.yaml").read_text().replace(f"fl_bench.strategies.{original}", mine)
    if mine not in yaml:
        yaml += f"client: {{_target_: {mine}}}\n"
    (folder / "strategy").mkdir()
    (folder / "strategy" / f"wrong_{name}.yaml").write_text(yaml)
    (folder / f"wrong_{name}.py").write_text(
        f"from fl_bench.strategies.{module} import {half}\n\n\n"
        f"class Wrong({half}):\n    def correct(self, turn):\n        super().correct(turn)\n        {line}\n"
    )
    return expected


@long
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_copy_is_seen(name: str, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write_wrong(name, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    search = f"hydra.searchpath=[file://{tmp_path}]"
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        found = check(f"wrong_{name}", lambda words: hydra.compose("config", [*words, search]), [], scratch)
        assert any((check, outcome) == (expected, "FAILED") for check, outcome, _ in found)


@long
def test_a_wrong_copy_in_a_folder_of_ones_own_ends_the_command_with_1(tmp_path: Path) -> None:
    write_wrong("scaffold", tmp_path)
    result = fl_bench("check", "strategy=wrong_scaffold", "--config-dir", ".", cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    outcomes = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert [outcome for _, outcome in outcomes] == ["ok", "ok", "ok", "ok", "ok", "-", "FAILED"]


@pytest.mark.parametrize("stock", often(["FedAvgM", "FedAdam", "QFedAvg"], "FedAvgM"))
def test_flowers_that_step_statistics_are_seen(stock: str, tmp_path: Path) -> None:
    given = "client_learning_rate: 0.01" if stock == "QFedAvg" else ""
    given = "server_momentum: 0.9, server_learning_rate: 2.0" if stock == "FedAvgM" else given
    server = f"{{_target_: flwr.serverapp.strategy.{stock}, {given}}}"
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "stock.yaml").write_text(f"server: {server}\nneeds_each_client: true\n")
    assert outcomes_of("stock", tmp_path)["statistics"] == "FAILED"


@pytest.mark.parametrize(
    ("rate", "outcome"),
    [("0.5", "ok"), *(pytest.param(rate, "FAILED", marks=long) for rate in ("0.6", "no", "models"))],
)
def test_a_reference_of_ones_own(rate: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "mine.yaml").write_text(
        "server: {_target_: fl_bench.strategies.fedopt.FedAvgM, server_momentum: 0.9, server_learning_rate: 0.5}\n"
        "check: {reference: my_reference.rule}\n"
    )
    (tmp_path / "my_reference.py").write_text(
        "def rule(models, weights, state):\n"
        "    mean = weights @ models / weights.sum()\n"
        "    state['m'] = 0.9 * state.get('m', 0) + mean - state['sent']\n"
        f"    return state['sent'] + {rate} * state['m']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_reference", raising=False)
    assert outcomes_of("mine", tmp_path)["reference"] == outcome


def outcomes_of(strategy: str, folder: Path) -> dict[str, str]:
    search = f"hydra.searchpath=[file://{folder}]"
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        found = check(strategy, lambda words: hydra.compose("config", [*words, search]), [], folder)
        return {name: outcome for name, outcome, _ in found}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["strategy=scafold"], "strategy=scafold: did you mean scaffold?"),
        (["strategy=fedavg", "num_rounds=0"], "num_rounds=0: must be 1 or more"),
        (["strategy=fedavg", "task=nothing"], "task=nothing: known: "),
        (["strategy=fedavg", "nothing=1"], "nothing: unknown key"),
        (["strategy=fedavg", "+model.name=x"], "model.name: unknown key; model=logistic takes none"),
        (["strategy=fedavg", "local.epochs=5"], "local.epochs=5: has no effect: local.steps=4 wins; "),
        (["num_rounds=0", "strategy=fedavg"], "num_rounds=0: must be 1 or more"),
        (["fedavg", "krum"], "krum: check takes one strategy, or strategy=all, and key=value words"),
        (["strategy=fedavg", "target_metric=a b"], "target_metric=a b: has no effect: there are no targets"),
        (["num_rounds=2"], "strategy=: known: apfl, "),
    ],
)
def test_mistakes(words: list[str], line: str, tmp_path: Path) -> None:
    result = fl_bench("check", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert f"fl-bench: {line}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("3\n", "--config-dir .: a yaml in it cannot be read: Invalid loaded object type: int"),
        ("server: {_target_: nowhere.Server}\n", "strategy.server._target_=nowhere.Server: Error loading"),
        (
            "server: {_target_: os.system}\n",
            "strategy=mine: none of the checks could be made: strategy.server._target_=",
        ),
        (
            "server: {_target_: flwr.serverapp.strategy.FedAvg, nope: 1}\n",
            "strategy=mine: none of the checks could be made: strategy.server.nope: unknown key",
        ),
    ],
)
def test_what_cannot_be_checked_does_not_hold(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "mine.yaml").write_text(text)
    result = forked("check", "strategy=mine", "--config-dir", ".", cwd=tmp_path)
    assert result.returncode == 2
    assert "all hold" not in result.stdout
    assert result.stderr.startswith(f"fl-bench: {line}")
