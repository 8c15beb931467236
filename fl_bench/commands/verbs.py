"""The commands on runs that there are: go on with one, compare two, repeat one, or one client's turn in one."""

import argparse
from collections.abc import Callable
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from fl_bench.build import nearest
from fl_bench.config.changes import refuse_changes
from fl_bench.config.rules import validate
from fl_bench.config.schema import CONF, Config
from fl_bench.errors import ConfigError
from fl_bench.runs.launch import launch
from fl_bench.runs.verify import differences, drift, record_of


def _resume(words: list[str]) -> int:
    """`fl-bench resume RUN_DIR [key=value ...]`: as if it had never been interrupted."""
    parser = _parser("resume", "Go on with a run that was interrupted, or with more rounds.")
    _add_run(parser)
    given = parser.parse_args(words)
    return launch(_config_of(given.run_dir, given.overrides), given.run_dir, resume=True)


def _verify(words: list[str]) -> int:
    """`fl-bench verify RUN_A RUN_B`: 0 where they are the same to the last bit."""
    parser = _parser("verify", "Compare two runs: config, data, the model of each round, tables and tensors.")
    parser.add_argument("run_a", type=_folder)
    parser.add_argument("run_b", type=_folder)
    given = parser.parse_args(words)
    return _compare(given.run_a, given.run_b)


def _rerun(words: list[str]) -> int:
    """`fl-bench rerun RUN_DIR [key=value ...]`: 0 where it comes out the same again."""
    parser = _parser("rerun", "Repeat a run from its run.json in a new folder beside it, and compare the two.")
    _add_run(parser)
    given = parser.parse_args(words)
    number, again = 1, given.run_dir.with_name(f"{given.run_dir.name}_again")
    while again.exists():
        number += 1
        again = given.run_dir.with_name(f"{given.run_dir.name}_again{number}")
    cfg = _config_of(given.run_dir, given.overrides)
    refuse_changes(record_of(given.run_dir)["config"], cfg, 0)
    again.mkdir()
    code = launch(cfg, again, resume=False)
    return max(code, _compare(given.run_dir, again)) if code in (0, 1) else code


def _replay(words: list[str]) -> int:
    """`fl-bench replay RUN_DIR --round N --client K`: 0 where its numbers are those of clients.csv."""
    parser = _parser("replay", "Repeat one client's turn in this process, and compare it with its row of clients.csv.")
    parser.add_argument("run_dir", type=_folder)
    parser.add_argument("--round", type=int, required=True)
    parser.add_argument("--client", type=int, required=True)
    parser.add_argument("--evaluation", action="store_true", help="its evaluation at the end of the round instead")
    parser.add_argument("--debug", action="store_true", help="stop in pdb where the turn begins")
    given = parser.parse_args(words)
    if given.round < (0 if given.evaluation else 1):
        parser.error("--round: training begins with round 1, evaluation with round 0")
    limits = ["engine.client_timeout_s=null"] if given.debug else []
    cfg = _config_of(given.run_dir, ["engine=inline", *limits])
    if given.round > cfg.num_rounds:
        raise ConfigError(f"--round {given.round}: the run has {cfg.num_rounds} rounds")

    from fl_bench.runs.replay import replay  # torch and Flower

    return replay(cfg, given.run_dir, given.round, given.client, given.evaluation, given.debug)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "resume": _resume, "verify": _verify, "rerun": _rerun, "replay": _replay,
}  # fmt: skip


def _compare(a: Path, b: Path) -> int:
    found = list(differences(a, b))
    for line in drift(a, b):
        print(f"drifted: {line}")
    for line in found:
        print(f"differs: {line}")
    print(f"{a}\n{b}\n" + (f"{len(found)} differences" if found else "the same to the last bit"))
    return 1 if found else 0


def _config_of(folder: Path, words: list[str]) -> DictConfig:
    """The config that a run had, with some keys changed; `engine=NAME` takes that option's file."""
    cfg = OmegaConf.merge(OmegaConf.structured(Config), record_of(folder)["config"])
    assert isinstance(cfg, DictConfig)
    for override in OverridesParser.create().parse_overrides(words):
        key, value = override.key_or_group, override.value()
        if key == "engine":
            options = {file.stem: file for file in (CONF / key).glob("*.yaml")}
            if str(value) not in options:
                raise ConfigError(f"engine={value}: {nearest(str(value), options)}")
            cfg.merge_with({key: OmegaConf.load(options[str(value)])})
        elif OmegaConf.is_config(OmegaConf.select(cfg, key)) and not isinstance(value, dict | list):
            raise ConfigError(f"{key}={value}: cannot be chosen again for a run that there is, only engine can")
        else:
            OmegaConf.update(cfg, key, value)
    validate(cfg)
    return cfg


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(f"fl-bench {verb}", description=description)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=_folder)
    parser.add_argument("overrides", nargs="*", help="key=value words, such as num_rounds=200 or engine=inline")


def _folder(word: str) -> Path:
    return Path(word).absolute()
