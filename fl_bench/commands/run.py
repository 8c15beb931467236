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

from fl_bench import commands
from fl_bench.build import nearest
from fl_bench.commands._common import own_folder
from fl_bench.config.cells import refuse_cells
from fl_bench.config.checked import refuse_wrong
from fl_bench.config.compose import SEARCH, choices, compose
from fl_bench.config.explain import explained
from fl_bench.config.named import add_named
from fl_bench.config.origin import Origin
from fl_bench.config.paths import with_absolute_paths
from fl_bench.config.schema import CONF
from fl_bench.config.words import beside_options, readable, refuse_choices
from fl_bench.errors import ConfigError, disk_trouble, known, refuse
from fl_bench.runs.begin import Start
from fl_bench.runs.launch import launch
from fl_bench.studies import sweep
from fl_bench.studies.arms import STUDY, TUNE, arms_of, with_study
from fl_bench.studies.cells import Cell
from fl_bench.studies.launcher import CellFailed, Parallel, metric
from fl_bench.studies.plugins import register

OURS = {"--help", "--version", "--experimental-rerun"}  # Hydra's flags that are ours, or that run a pickle
MULTIRUN = "hydra.mode=MULTIRUN"


def arguments(parser: argparse.ArgumentParser) -> None:
    for action in get_args_parser()._actions:
        if not OURS & set(action.option_strings):
            action.type = own_folder if action.dest == "config_dir" else action.type
            action.help = action.help if isinstance(action.help, str) else "Install or uninstall shell completion"
            parser._add_action(action)
    parser.set_defaults(again="")  # the command that goes on, where another verb has made these words


def command(given: argparse.Namespace) -> int:
    """The worst exit code of the runs."""
    if strays := [word for word in given.overrides if "=" not in word and not word.startswith("~")]:
        word, verbs = strays[0], commands.ours()
        why = "a verb comes first" if word in verbs else f"is neither a verb nor key=value; {nearest(word, verbs)}"
        raise ConfigError(f"{shlex.quote(word)}: {why}")
    given.overrides = readable(given.overrides)
    given.multirun |= MULTIRUN in given.overrides
    codes, process = [0], os.getpid()
    if studies := [word for word in given.overrides if word.startswith(STUDY) and not given.multirun]:
        raise ConfigError(f"{studies[0]}: is more than one run: say -m too")
    going_on = given.again or (sweep.again(given.overrides, given.config_dir) if given.multirun else "")
    if given.multirun:
        given.overrides = beside_options(with_study(given.overrides, _own(given)))

    def job(cfg: DictConfig) -> Cell | float | None:
        """What Hydra calls for a run: its metric, for a sweeper that looks for the best; or a Cell, if that is all."""
        if given.multirun and HydraConfig.get().launcher._target_.endswith(f".{Parallel.__name__}"):
            return _cell(cfg, given, going_on)
        codes.append(_run(cfg, given, going_on))
        if codes[-1] == 130:
            raise KeyboardInterrupt  # ends a sweep too
        if codes[-1] and os.getpid() != process:  # what another launcher has started, which knows no `codes`
            raise CellFailed(codes[-1])
        return None if codes[-1] else metric(Path(HydraConfig.get().runtime.output_dir))

    hydra.version.setbase("1.3")
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]  # it would compose the config, and we know already
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its errors over several lines, and exit with 1
    given.help = False
    if given.multirun:
        given.overrides += sweep.last(given.overrides)
        sweep.claim(given.overrides)
        given.overrides += sweep.naming(given.overrides)
        register()
    try:
        with explained(given.overrides, _own(given)), _said_by_hydra() if given.cfg else nullcontext():
            refuse_choices(given.overrides, given.multirun, _own(given))
            add_named(given.overrides, _own(given))
            if given.multirun and TUNE not in given.overrides:  # which knows what each arm has
                refuse_cells(given.overrides, _own(given), arms_of(given.overrides))
            _run_hydra(
                args=given,
                args_parser=get_args_parser(),
                task_function=job,
                config_path=str(CONF),
                config_name="config",
            )
    except KeyboardInterrupt:
        return 130
    except CellFailed as failed:
        codes.append(failed.exit_code)
    except OSError as error:
        if disk_trouble(error):
            raise known(error) from error
        key = "hydra.sweep.dir" if given.multirun else "hydra.run.dir"
        raise ConfigError(f"{key}: cannot be written: {error.filename} ({error.strerror})") from error
    except ValueError as error:  # flags that exclude each other
        raise ConfigError(str(error)) from error
    return max(codes)


@contextmanager
def _said_by_hydra() -> Iterator[None]:
    """With --cfg Hydra says itself what is wrong, and exits with 1."""
    with redirect_stderr(StringIO()) as said:
        try:
            yield
        except SystemExit as end:
            if end.code:
                raise ConfigError(said.getvalue()) from end


def _run(cfg: DictConfig, given: argparse.Namespace, going_on: str) -> int:
    """One run, and its exit code."""
    try:
        cell = _cell(cfg, given, going_on)
    except ConfigError as error:
        return refuse(error)
    return launch(cell.cfg, cell.folder, cell.start, cell.origin)


def _cell(cfg: DictConfig, given: argparse.Namespace, going_on: str) -> Cell:
    """One run, checked, in the folder that Hydra has made for it; ConfigError where it cannot be."""
    job = HydraConfig.get()
    words = _words(job.overrides.task)
    origin = Origin(choices(job), sweep.without_start(words), going_on)
    search = [word for word in _words(job.overrides.hydra) if word.startswith(SEARCH)]

    def composed(words: Sequence[str]) -> DictConfig:
        return compose([*words, *search], _own(given))

    with explained(given.overrides, _own(given)):
        refuse_wrong(cfg, origin, composed, _own(given))
        start = Start.of(cfg)
        origin = replace(origin, hydra=_snapshot(cfg, job, words))
    return Cell(with_absolute_paths(cfg), Path(job.runtime.output_dir), start, origin)


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
    own: Path | None = given.config_dir
    return own
