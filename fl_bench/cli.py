"""The words of the command line: `fl-bench key=value ...` runs; other verbs are in VERBS."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_bench.build import nearest
from fl_bench.commands import verbs
from fl_bench.config.rules import validate
from fl_bench.config.schema import CONF
from fl_bench.errors import ConfigError, FlBenchError, disk_trouble, known, note, refuse
from fl_bench.runs.launch import launch

GROUPS = (
    "task", "strategy", "partition", "data", "compression", "compression/down", "network", "engine", "tracker",
    "experiment",
)  # fmt: skip
RESUME, SWEEP_DIR = "resume=true", "hydra.sweep.dir="
SWEEPS = Path("outputs/multirun")


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    verb, words = sys.argv[1:2], sys.argv[2:]
    try:
        sys.exit(VERBS[verb[0]](words) if verb and verb[0] in VERBS else _hydra())
    except (HydraException, OmegaConfBaseException) as error:  # some of which are OSErrors too
        sys.exit(refuse(ConfigError(_explain(error))))
    except (FlBenchError, OSError) as error:
        sys.exit(refuse(known(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def _hydra() -> int:
    """Let Hydra compose the config of the run, or of each run of a sweep, and return the worst exit code."""
    codes: list[int] = []

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def job(cfg: DictConfig) -> None:
        codes.append(_run(cfg, Path(HydraConfig.get().runtime.output_dir)))
        if codes[-1] == 130:
            raise KeyboardInterrupt  # ends a sweep too

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its errors over several lines, and exit with 1
    try:
        sys.argv += _last_sweep(sys.argv[1:])
        job()
    except KeyboardInterrupt:
        return 130
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if os.environ.get("FL_BENCH_DEBUG"):
            raise
        return refuse(known(error) if disk_trouble(error) else ConfigError(_explain(error)))
    return max(codes, default=0)


def _run(cfg: DictConfig, folder: Path) -> int:
    try:
        validate(cfg)
    except ConfigError as error:
        return refuse(error)
    except OmegaConfBaseException as error:
        return refuse(ConfigError(_explain(error)))
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml", resolve=True)  # Hydra leaves the interpolations in

    return launch(cfg, folder, cfg.resume)


def _check(words: list[str]) -> int:
    """`fl-bench check strategy=NAME|all [key=value ...]`: 0 where every check holds."""
    parser = argparse.ArgumentParser("fl-bench check", description="Put a strategy to the checks of fl_bench/check.py.")
    parser.add_argument("strategy", help="strategy=NAME, or strategy=all")
    parser.add_argument("overrides", nargs="*", help="key=value words for the runs, such as task=imdb")
    parser.add_argument("--config-dir", type=Path, help="a folder with more options, such as strategy/mine.yaml")
    given = parser.parse_args(words)
    folders = [CONF] + ([given.config_dir.absolute()] if given.config_dir else [])
    strategies = sorted({file.stem for folder in folders for file in (folder / "strategy").glob("*.yaml")})
    name = given.strategy.removeprefix("strategy=")
    if name not in [*strategies, "all"]:
        return refuse(ConfigError(f"strategy={name}: {nearest(name, strategies)}"))
    search = _search(given.config_dir)

    from fl_bench.runs.checks import check  # torch and Flower

    def compose(words: Sequence[str]) -> DictConfig:
        return hydra.compose("config", [*words, search])

    failed = 0
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for strategy in strategies if name == "all" else [name]:
            print(strategy, flush=True)
            for title, outcome, text in check(strategy, compose, given.overrides):
                print(f"  {title:<11} {outcome:<7} {text}", flush=True)
                failed += outcome == "FAILED"
    print(f"{failed} failed" if failed else "all hold")
    return 1 if failed else 0


def _explain(error: Exception) -> str:
    """One line for what Hydra or OmegaConf could not accept."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: {nearest(name, error.options)}"
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, HydraException | OmegaConfBaseException):
        cause = cause.__cause__  # type: ignore[assignment]
    if isinstance(error, OSError):
        return f"hydra.run.dir: cannot be written: {error.filename} ({error.strerror})"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    key = getattr(cause, "full_key", None)
    if key and "not in" in lines[0]:
        hint = f"; to pass it to torch.optim, say +{key}=..." if key.startswith("local.optimizer.") else ""
        return f"{key}: unknown key; {nearest(key, _known_keys())}{hint}"
    return f"{key}: {lines[0]}" if key else " ".join(line for line in lines if not line.startswith("See https"))


def _known_keys() -> list[str]:
    """The keys of the default config, with dots."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    given, words = parser.parse_known_args()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        groups = [word for word in words if word.split("=")[0] in GROUPS]
        cfg = hydra.compose("config", [*groups, _search(given.config_dir)])

    def walk(node: dict[str, Any], prefix: str = "") -> list[str]:
        keys = []
        for key, value in node.items():
            keys += walk(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
        return keys

    return walk(cast(dict[str, Any], OmegaConf.to_container(cfg)))


def _search(folder: Path | None) -> str:
    """The word that lets Hydra find options in this folder too."""
    return f"hydra.searchpath=[{f'file://{folder.absolute()}' if folder else ''}]"


def _last_sweep(words: list[str]) -> list[str]:
    """Where a sweep is to go on and does not say where: the word for the newest folder of this very sweep."""
    given = [word for word in words if "=" in word and not word.startswith(("-", "hydra."))]
    overrides = [word for word in given if word.lower() != RESUME]
    if not {"-m", "--multirun"} & set(words) or given == overrides or any(word.startswith(SWEEP_DIR) for word in words):
        return []
    for file in sorted(SWEEPS.glob("*/multirun.yaml"), reverse=True):
        if [word for word in OmegaConf.load(file).hydra.overrides.task if word.lower() != RESUME] == overrides:
            return [f"{SWEEP_DIR}{file.parent}"]
    note(f"resume=true: there is no such sweep in {SWEEPS}: beginning one")
    return []


def _list(words: list[str]) -> int:
    """The options of every group with the first comment of their files."""
    for group in GROUPS:
        print(f"{group}=")
        for file in sorted((CONF / group).glob("*.yaml")):
            comments = [
                line[2:] for line in file.read_text().splitlines() if line.startswith("# ") and "@package" not in line
            ]
            print(f"  {file.stem:<22} {comments[0]}")
    return 0


VERBS = {"list": _list, "check": _check} | verbs.VERBS
