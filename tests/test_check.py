"""The checks that `fl-bench check` puts a strategy to, on every strategy, and on copies that are wrong."""

from pathlib import Path

import hydra
import pytest
from conftest import fl_bench

from fl_bench.check import CHECKS, check
from fl_bench.cli import CONF


@pytest.mark.parametrize("strategy", sorted(file.stem for file in (CONF / "strategy").glob("*.yaml")))
def test_every_strategy(strategy: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        found = list(check(strategy, lambda words: hydra.compose("config", list(words)), []))
    assert [name for name, _, _ in found] == list(CHECKS)
    assert not [(name, text) for name, outcome, text in found if outcome == "FAILED"]
    assert [outcome for name, outcome, _ in found if name == "order"] == ["ok"]


WRONG = {  # copies with a wrong sign, or that remember from client to client; and the check that must see it
    "scaffold": ("effect", "scaffold.ControlVariates", "turn.grad = turn.grad - self.correction"),
    "fedprox": (
        "effect",
        "fedprox.Proximal",
        "turn.grad -= 2 * float(turn.config['proximal-mu']) * (turn.parameters - turn.start)",
    ),
    "feddyn": ("effect", "feddyn.DynamicRegularization", "turn.grad += 2 * self.gradient"),
    "ditto": ("neutral", "ditto.Ditto", "turn.grad *= -1"),
    "fedavg": ("order", "base.LocalAlgorithm", "self.k = getattr(self, 'k', 1) * -2; turn.grad += self.k * 1e-3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_copy_is_seen(name: str, tmp_path: Path) -> None:
    expected, original, line = WRONG[name]
    module, half = original.split(".")
    yaml = (CONF / "strategy" / f"{name}.yaml").read_text().replace(f"fl_bench.strategies.{original}", "wrong.Wrong")
    if name == "fedavg":
        yaml += "client: {_target_: wrong.Wrong}\n"
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "wrong.yaml").write_text(yaml)
    source = (
        f"from fl_bench.strategies.{module} import {half}\n\n\nclass Wrong({half}):\n    def correct(self, turn):\n"
    )
    (tmp_path / "wrong.py").write_text(f"{source}        super().correct(turn)\n        {line}\n")
    result = fl_bench("check", "strategy=wrong", "--config-dir", ".", cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert [line for line in result.stdout.splitlines() if line.split()[:2] == [expected, "FAILED"]], result.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["strategy=scafold"], "strategy=scafold: did you mean scaffold?"),
        (["strategy=fedavg", "num_rounds=0"], "num_rounds=0: must be 1 or more"),
        (["strategy=fedavg", "task=nothing"], "task=nothing: known: "),
        (["strategy=fedavg", "nothing=1"], "nothing: unknown key"),
    ],
)
def test_mistakes(words: list[str], line: str, tmp_path: Path) -> None:
    result = fl_bench("check", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert f"fl-bench: {line}" in result.stderr
    assert "Traceback" not in result.stderr
