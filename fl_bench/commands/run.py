"""Run an experiment, or with -m one for each combination of values with commas.

fl-bench strategy=fedprox strategy.mu=0.1
fl-bench -m strategy=fedavg,fedprox seed=0,1,2
fl-bench --cfg job                                # its config, and no run
"""

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, get_args_parser  # what hydra.main does, but with words that we have read
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fl_bench import commands
from fl_bench.build import nearest
from fl_bench.config.cells import refuse_cells
from fl_bench.config.compose import SEARCH, choices, compose
from fl_bench.config.explain import explained
from fl_bench.config.fit import refuse_unfit
from fl_bench.config.named import add_named
from fl_bench.config.origin import Origin
from fl_bench.config.paths import with_absolute_paths
from fl_bench.config.rules import validate
from fl_bench.config.schema import CONF
from fl_bench.config.unread import refuse_unread
from fl_bench.config.words import beside_options, readable, refuse_choices
from fl_bench.errors import ConfigError, disk_trouble, known, note, refuse
from fl_bench.runs.begin import Start
from fl_bench.runs.launch import launch

OURS = {"--help", "--version", "--experimental-rerun"}  # Hydra's flags that are ours, or that run a pickle
RESUME, OVERWRITE, SWEEP_DIR = "resume=true", "overwrite=true", "hydra.sweep.dir="
MULTIRUN = "hydra.mode=MULTIRUN"
SWEEPS, SWEEP = Path("outputs/multirun"), "multirun.yaml"


def arguments(parser: argparse.ArgumentParser) -> None:
    for action in get_args_parser()._actions:
        if not OURS & set(action.option_strings):
            action.help = action.help if isinstance(action.help, str) else "Install or uninstall shell completion"
            parser._add_action(action)


def command(given: argparse.Namespace) -> int:
    """The worst exit code of the runs."""
    if strays := [word for word in given.overrides if "=" not in word and not word.startswith("~")]:
        word, verbs = strays[0], commands.ours()
        why = "a verb comes first" if word in verbs else f"is neither a verb nor key=value; {nearest(word, verbs)}"
        raise ConfigError(f"{shlex.quote(word)}: {why}")
    given.overrides = readable(given.overrides)
    given.multirun |= MULTIRUN in given.overrides
    codes: list[int] = []
    sweep = _again(given) if given.multirun else ""
    if given.multirun:
        given.overrides = beside_options(given.overrides)

    def job(cfg: DictConfig) -> None:
        codes.append(_run(cfg, given, sweep))
        if codes[-1] == 130:
            raise KeyboardInterrupt  # ends a sweep too

    hydra.version.setbase("1.3")
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]  # it would compose the config, and we know already
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its errors over several lines, and exit with 1
    given.help = False
    given.overrides += _last_sweep(given)
    if given.multirun:
        _claim_sweep(given.overrides)
    try:
        with explained(given.overrides, _own(given)), _said_by_hydra() if given.cfg else nullcontext():
            refuse_choices(given.overrides, given.multirun, _own(given))
            add_named(given.overrides, _own(given))
            if given.multirun:
                refuse_cells(given.overrides, _own(given))
            _run_hydra(
                args=given,
                args_parser=get_args_parser(),
                task_function=job,
                config_path=str(CONF),
                config_name="config",
            )
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if disk_trouble(error):
            raise known(error) from error
        raise ConfigError(f"hydra.run.dir: cannot be written: {error.filename} ({error.strerror})") from error
    except ValueError as error:  # flags that exclude each other
        raise ConfigError(str(error)) from error
    return max(codes, default=0)


@contextmanager
def _said_by_hydra() -> Iterator[None]:
    """With --cfg Hydra says itself what is wrong, and exits with 1."""
    with redirect_stderr(StringIO()) as said:
        try:
            yield
        except SystemExit as end:
            if end.code:
                raise ConfigError(said.getvalue()) from end


def _run(cfg: DictConfig, given: argparse.Namespace, sweep: str) -> int:
    """One run, in the folder that Hydra has made for it."""
    job = HydraConfig.get()
    words = _words(job.overrides.task)
    origin = Origin(choices(job), _without_start(words), sweep)
    search = [word for word in _words(job.overrides.hydra) if word.startswith(SEARCH)]

    def composed(words: Sequence[str]) -> DictConfig:
        return compose([*words, *search], _own(given))

    try:
        with explained(given.overrides, _own(given)):
            refuse_unfit(cfg, origin.choices, _own(given))
            validate(cfg)
            refuse_unread(cfg, origin, composed, _own(given))
            start = Start.of(cfg)
            origin = replace(origin, hydra=_snapshot(cfg, job, words))
    except ConfigError as error:
        return refuse(error)
    return launch(with_absolute_paths(cfg), Path(job.runtime.output_dir), start, origin)


def _snapshot(cfg: DictConfig, job: Any, words: Sequence[str]) -> dict[str, str]:
    """What Hydra writes into .hydra/, but for its interpolations, which are resolved."""
    return {
        "config.yaml": OmegaConf.to_yaml(cfg, resolve=True),
        "hydra.yaml": OmegaConf.to_yaml({"hydra": job}),
        "overrides.yaml": OmegaConf.to_yaml(list(words)),
    }


def _words(node: Any) -> list[str]:
    """Words that Hydra has recorded; they may have interpolations, which mean nothing there."""
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


def _own(given: argparse.Namespace) -> Path | None:
    return Path(given.config_dir) if given.config_dir else None


def _again(given: argparse.Namespace) -> str:
    """The command that goes on with this sweep."""
    flags = ["--config-dir", given.config_dir] if given.config_dir else []
    return shlex.join(["fl-bench", "-m", *flags, *_without_start(given.overrides), RESUME])


def _without_start(words: Sequence[str]) -> list[str]:
    """The words that say what is run, not how it starts."""
    return [word for word in words if word.lower() not in (RESUME, OVERWRITE)]


def _claim_sweep(words: Sequence[str]) -> None:
    """Raise ConfigError where Hydra would write its multirun.yaml over that of another sweep, or among other things."""
    for folder in (Path(word.removeprefix(SWEEP_DIR)) for word in words if word.startswith(SWEEP_DIR)):
        if not folder.is_dir() or not any(folder.iterdir()):
            continue
        if not (folder / SWEEP).is_file():
            raise ConfigError(f"{SWEEP_DIR}{folder}: is not empty and not the folder of a sweep; choose another")
        if not {RESUME, OVERWRITE} & set(map(str.lower, words)):
            raise ConfigError(f"{SWEEP_DIR}{folder}: holds a sweep; {RESUME} goes on with it, {OVERWRITE} replaces it")


def _last_sweep(given: argparse.Namespace) -> list[str]:
    """Where a sweep is to go on and does not say where: the word for the newest folder of this very sweep."""
    words = [word.lower() for word in given.overrides]
    overrides = _without_start([word for word in given.overrides if not word.startswith("hydra.")])
    if not given.multirun or RESUME not in words or any(word.startswith(SWEEP_DIR) for word in words):
        return []
    for file in sorted(SWEEPS.glob(f"*/{SWEEP}"), reverse=True):
        try:
            if _without_start(_words(OmegaConf.load(file).hydra.overrides.task)) == overrides:
                return [f"{SWEEP_DIR}{file.parent}"]
        except (OmegaConfBaseException, YAMLError, ValueError, AttributeError):
            note(f"{file}: is damaged, and so is no sweep that could go on")
    note(f"resume=true: there is no such sweep in {SWEEPS}: beginning one")
    return []
