"""A run's folder from somebody else: what it names is not built, unless whoever types the command names it too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import compose, long
from omegaconf import OmegaConf

from fl_bench import cli, commands
from fl_bench.config.compose import options
from fl_bench.config.schema import CONF
from fl_bench.config.trust import strange
from fl_bench.errors import ConfigError, refuse

Launch = Callable[..., Path]
WORDS = ("num_rounds=1", "num_clients=2", "local.steps=1", "data=synthetic", "data.num_samples=40")
EVIL = {"_target_": "os.system", "command": "touch canary"}

# What somebody may have written into the config of run.json, by key.
ATTACKS: dict[str, Any] = {
    "engine": EVIL,
    "task": EVIL,
    "partition": EVIL | {"holdout": 0},
    "strategy.server": EVIL,
    "strategy.client": EVIL,
    "strategy.schedule": EVIL,
    "compression.up": EVIL,
    "compression.down": EVIL,
    "robust": EVIL | {"before": {"_target_": "fl_bench.robust.before.Mixing"}},
    "robust.before": EVIL,
    "network": EVIL,
    "tracker": EVIL,
    "strategy.server.fraction_train": EVIL,  # an argument of a class that is ours
    "strategy.server.initial_parameters": [EVIL],
    "model.path": EVIL,
    "local.optimizer.lr": EVIL,
    "strategy.client._target_": "fl_bench.storage.files.write",  # ours, but no client half
    "task._target_": "fl_bench.tasks.base.Path.unlink",  # what a module of ours has imported
    "network._target_": "fl_bench.network.clock.np.load",
    "partition._target_": "fl_bench.data.fetch.package_file",
    "strategy.server._target_": "flwr.serverapp.strategy.fedavg.random.seed",
    "tracker._target_": "fl_bench.strategies.scaffold.Scaffold",
    "engine._target_": "builtins.exec",
}


REPLACED = {("engine", "replay"), ("engine._target_", "replay")}  # replay has an engine of its own


@pytest.mark.parametrize(
    ("key", "verb"), [(k, v) for k in ATTACKS for v in ("resume", "rerun", "replay") if (k, v) not in REPLACED]
)
def test_a_run_folder_runs_no_code(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = launch(*WORDS)
    record = json.loads((folder / "run.json").read_text())
    config = OmegaConf.create(record["config"])
    OmegaConf.update(config, key, ATTACKS[key], merge=False, force_add=True)
    (folder / "run.json").write_text(json.dumps(record | {"config": OmegaConf.to_container(config)}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"_target_ is .*, which this command does not name|unknown key"):
        commands.call(verb, [str(folder), *(("--round", "1", "--client", "0") if verb == "replay" else ())])
    assert sorted(tmp_path.rglob("*")) == before


@long
def test_what_the_package_ships_is_trusted() -> None:
    """Every option of every group that has a class, as it comes to run.json."""
    for group in ("task", "strategy", "partition", "network", "engine", "tracker", "compression", "robust"):
        for name in options(group):
            config = OmegaConf.to_container(compose(f"{group}={name}"), resolve=True)
            assert list(strange(config)) == [], name  # type: ignore[arg-type]
    for file in (*(CONF / "compression" / "down").glob("*.yaml"), *(CONF / "robust" / "before").glob("*.yaml")):
        config = OmegaConf.to_container(compose(f"{file.relative_to(CONF).parent}={file.stem}"), resolve=True)
        assert list(strange(config)) == []  # type: ignore[arg-type]


MINE = """
from fl_bench.strategies.base import LocalAlgorithm

class Mine(LocalAlgorithm):
    pass
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a strategy of one's own, whose module can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_trusted.py").write_text(MINE)
    (tmp_path / "own" / "strategy").mkdir(parents=True)
    node = {"server": {"_target_": "flwr.serverapp.strategy.FedAvg"}, "client": {"_target_": "mine_trusted.Mine"}}
    (tmp_path / "own" / "strategy" / "mine.yaml").write_text(f"# mine\n{yaml.safe_dump(node)}")
    words = [*WORDS, "strategy=mine", "engine=inline", "figures=false", "hydra.run.dir=run"]
    assert cli.dispatch(["--config-dir", "own", *words]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize(
    "named",
    [
        ["--trust", "mine_trusted"],
        ["--trust", "mine_trusted.Mine"],
        ["--config-dir", "own"],
        ["strategy.client._target_=mine_trusted.Mine"],
    ],
    ids=" ".join,
)
def test_what_the_command_names_is_trusted(mine: Path, named: list[str]) -> None:
    assert commands.call("resume", [str(mine), "num_rounds=2", *named]) == 0


@pytest.mark.parametrize("named", [[], ["--trust", "mine"], ["--trust", "other"]], ids=" ".join)
def test_what_it_does_not_name_is_not(mine: Path, named: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"strategy.client._target_ is mine_trusted.Mine.*add --trust mine_trusted"):
        commands.call("resume", [str(mine), "num_rounds=2", *named])
    assert commands.call("replay", [str(mine), "--round", "1", "--client", "0", "--trust", "mine_trusted"]) == 0


@pytest.mark.parametrize("content", ["a: &a [*a]", "a: [1", "a: b: c"])
def test_a_yaml_that_cannot_be_read_trusts_nothing(mine: Path, content: str) -> None:
    (mine.parent / "own" / "strategy" / "odd.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"\A--config-dir own: a yaml in it cannot be read: [^\n]+\Z"):
        commands.call("resume", [str(mine), "num_rounds=2", "--config-dir", "own"])


def test_the_line_that_says_how_to_go_on_names_it_too(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fl_bench.observers.console.Console.see", stop)
    assert commands.call("resume", [str(mine), "num_rounds=3", "--trust", "mine_trusted"]) == 130
    assert f"to go on: fl-bench resume {mine} --trust mine_trusted" in capsys.readouterr().err


def test_escapes_in_names_are_shown_and_not_obeyed(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column's name clears the terminal, a cell writes into its title, a folder's name turns text around."""
    a, b = launch(*WORDS), launch(*WORDS)
    text = (b / "clients.csv").read_text()
    (b / "clients.csv").write_text(text.replace("status", "\x1b[2J").replace("ok", "\x1b]0;title\a", 1))
    evil = b.rename(tmp_path / "\u202erun\x1b[31m\udcff")
    assert commands.call("verify", [str(a), str(evil)]) == 1
    with pytest.raises(ConfigError) as error:
        commands.call("resume", [str(evil / "nothing\a")])
    assert refuse(error.value) == 2
    shown = "".join(capsys.readouterr())
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert all(
        name in shown for name in ("\\x1b[2J", "\\x1b]0;title\\x07", "\\u202erun\\x1b[31m\\udcff", "nothing\\x07")
    )
