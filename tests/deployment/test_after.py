"""What can be done with the run of a deployment when it is over: here without a link, or up to where one is needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fl_bench import commands
from fl_bench.config.schema import CONF
from fl_bench.deployment import keys
from fl_bench.errors import ConfigError
from fl_bench.runs.verify import differences
from fl_bench.storage.states import ClientStates, StatesElsewhere

Launch = Callable[..., Path]
WORDS = ("task=mnist", "num_rounds=2", "num_clients=2", "local.steps=1", "evaluate.clients=true", "figures=false")


def as_if_at_sites(folder: Path, place: str | None = None) -> Path:
    """The run as if its clients had been at sites, which have what they keep; `folder` is that of a simulation."""
    record = json.loads((folder / "run.json").read_text())
    engine: Any = OmegaConf.to_container(OmegaConf.load(CONF / "engine" / "deployment.yaml"))
    record["config"]["engine"] |= engine | {"link": "127.0.0.1:1", "certs": str(folder)}
    (folder / "run.json").write_text(json.dumps(record))
    for file in sorted(folder.glob("state/*/*")):
        file.unlink()
    return folder


def call(*words: str) -> int:
    return commands.call(words[0], words[1:])


def test_states_at_sites_are_not_compared_and_that_is_said(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = launch(*WORDS, "strategy=scaffold"), as_if_at_sites(launch(*WORDS, "strategy=scaffold"))
    assert list(differences(one, other)) == []
    capsys.readouterr()
    assert call("verify", str(one), str(other)) == 0
    assert "not compared: state: what clients keep lies at the sites\n" in capsys.readouterr().out
    plain, there = launch(*WORDS), as_if_at_sites(launch(*WORDS))
    capsys.readouterr()
    assert call("verify", str(plain), str(there)) == 0
    assert "not compared" not in capsys.readouterr().out  # nobody keeps anything


def test_a_run_goes_on_where_its_states_are(tmp_path: Path) -> None:
    states = StatesElsewhere(tmp_path)
    ClientStates(tmp_path).__setstate__(states.__getstate__())  # nobody has kept anything
    states.commit(1, [3], [3])
    with pytest.raises(ConfigError, match="engine: what this run's clients keep lies at their sites; go on with"):
        ClientStates(tmp_path).__setstate__(states.__getstate__())


def test_what_clients_keep_cannot_be_measured_here(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    there = as_if_at_sites(launch(*WORDS, "strategy=fedper", "checkpoint.every=0"))
    with pytest.raises(ConfigError, match="--clients: what this run's clients keep lies at their sites"):
        call("evaluate", str(there), "--clients")
    there = as_if_at_sites(launch(*WORDS))
    assert call("evaluate", str(there), "--clients") == 0  # they keep nothing


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--round", "1", "--client", "0", "--debug"), "--debug: the turn is taken at a site"),
        (("--round", "1", "--client", "0"), "engine.certs=.*: .*ca.crt: No such file or directory"),
    ],
)
def test_what_cannot_be_replayed(launch: Launch, words: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        call("replay", str(as_if_at_sites(launch(*WORDS))), *words)
    there = as_if_at_sites(launch(*WORDS, "num_rounds=4", "checkpoint.every=2"))
    with pytest.raises(ConfigError, match=r"--round: there is no checkpoint of round 3 \(there are: 2, 4\)"):
        call("replay", str(there), "--round", "4", "--client", "0")


def test_what_cannot_be_promoted(launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.make(tmp_path / "keys", ["a"])
    to = ("--link", "127.0.0.1:1", "--certs", str(tmp_path / "keys" / "driver"))
    run = launch(*WORDS)
    with pytest.raises(ConfigError, match="seed=1: the run has 0"):
        call("promote", str(run), "seed=1", *to)
    assert call("promote", str(run), *to, "--out", str(run)) == 2
    assert "holds a run" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="must be a simulation that has ended"):
        call("promote", str(as_if_at_sites(run)), *to)


def test_strategies_are_not_checked_at_sites(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine=deployment: the checks make data of their own"):
        call("check", "fedavg", "engine=deployment", "engine.link=a:1", f"engine.certs={tmp_path}")
