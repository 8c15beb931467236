"""What several verbs share."""

import argparse
import re
import signal
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fl_bench.build import nearest
from fl_bench.config import trust
from fl_bench.config.changes import complete, flat
from fl_bench.config.checked import checked
from fl_bench.config.compose import GROUPS, options, with_option
from fl_bench.config.explain import explained
from fl_bench.config.named import add_named
from fl_bench.config.origin import Origin
from fl_bench.config.paths import INIT
from fl_bench.config.rules import validate
from fl_bench.config.schema import Config
from fl_bench.config.suggest import suggest
from fl_bench.config.words import assignments, readable
from fl_bench.errors import ConfigError
from fl_bench.storage import run_json
from fl_bench.storage.folder import check_links

UNSET = object()
RANGE = re.compile(r"([0-9]{1,7})(?:-([0-9]{1,7}))?")
RECHOSEN = ("engine", "tracker")  # groups of which a run may be given another option later
# What engines were called when they were functions, and had all keys of the others.
ENGINES = {f"fl_bench.engines.{name}.run": name for name in ("inline", "simulation")}


def folder(word: str) -> Path:
    """The folder of a run, with no links in it."""
    path = Path(word).absolute()
    if path.is_dir():
        check_links(path)
    return path


def new_beside(run: Path, what: str) -> Path:
    """RUN_what, or RUN_what2 and so on: an empty folder beside that of a run."""
    names = (f"{run.name}_{what}{'' if number == 1 else number}" for number in count(1))
    new = next(folder for folder in map(run.with_name, names) if not (folder.exists() and any(folder.iterdir())))
    new.mkdir(exist_ok=True)
    return new


def own_folder(word: str) -> Path:
    """The folder of --config-dir, which must be there."""
    if not Path(word).is_dir():
        raise ConfigError(f"--config-dir {word}: there is no such folder")
    return Path(word)


def end_in_order() -> None:
    """From now on Ctrl-C and SIGTERM raise KeyboardInterrupt, where they are not ignored: there is much to tidy up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler)


def add_run(parser: argparse.ArgumentParser) -> None:
    """A run that exists, and what is to be otherwise."""
    parser.add_argument("run_dir", type=folder)
    parser.add_argument(
        "overrides", nargs="*", default=[], help="key=value words, such as num_rounds=200 or engine=inline"
    )
    add_trust(parser)


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Options of the user's own."""
    parser.add_argument(
        "--config-dir", "-cd", type=own_folder, help="a folder with more options, such as strategy/mine.yaml"
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """What a run may be made of besides the classes of this package."""
    about = "a module of yours, or of somebody's whom you trust, that the run may be made of; may be said again"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=about)
    add_config_dir(parser)


def recorded(
    folder: Path,
    words: Sequence[str] = (),
    own: Path | None = None,
    trusted: Sequence[str] = (),
    rechosen: Sequence[str] = RECHOSEN,
) -> tuple[DictConfig, Origin]:
    """The config that a run had, with some keys changed, and its origin; a group of `rechosen` takes another option.

    Raises ConfigError where it names a class that is neither ours nor named by this command: by `words`, in a yaml of
    the folder `own`, or by a module of `trusted`.
    """
    record = run_json.read_run(folder)
    origin = Origin.of(record)
    with explained(folder=own):
        cfg = OmegaConf.merge(OmegaConf.structured(Config), complete(record["config"], origin.choices))
        assert isinstance(cfg, DictConfig)
        if (folder / INIT).is_file():  # its own copy, as the file that it is of may be gone
            cfg.model.init = str(folder / INIT)
        if name := ENGINES.get(cfg.engine._target_):
            _change(cfg, "engine", name, None, RECHOSEN)
        chosen: dict[str, str] = {}
        named = list(trusted)
        for override in assignments(words):
            key, value = override.key_or_group, override.value()
            _change(cfg, key, value, own, rechosen)
            chosen |= {key: str(value)} if key in rechosen else {}
            named += [name for _, name in trust.targets({key: value})]
            named += [str(value)] if key.endswith(f".{trust.TARGET}") else []
        validate(cfg)
        named += trust.named_in(own) if own else ()
        config: Any = OmegaConf.to_container(cfg, resolve=True)
    trust.refuse_strange(folder, config, named)
    return cfg, origin.and_then(words, chosen)


def composed(words: Sequence[str], own: Path | None = None) -> DictConfig:
    """The config of these words, checked as that of a run; `own` has options of the user's."""
    words = readable(words)
    with explained(words, own):
        add_named(words, own)
        return checked(words, own)


def numbers_of(option: str, text: str) -> list[int]:
    """The numbers that a text such as 0-3,7 names. Raises ConfigError, which begins with `option` and the text."""
    found: list[int] = []
    for part in text.split(","):
        ends = RANGE.fullmatch(part)
        more = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else ()
        if not more:
            raise ConfigError(f"{option}{text}: must be numbers and ranges, such as 0-3,7")
        found += more
    return found


def _change(cfg: DictConfig, key: str, value: object, own: Path | None, rechosen: Sequence[str]) -> None:
    if key in rechosen:
        found = options(key, own)
        if str(value) not in found:
            raise ConfigError(f"{key}={value}: {nearest(str(value), found)}")
        cfg[key] = with_option(cfg, key, found[str(value)])
        return
    before = OmegaConf.select(cfg, key, default=UNSET)
    if key in GROUPS or OmegaConf.is_config(before):
        if not isinstance(value, dict | list):
            others = " and ".join(rechosen)
            raise ConfigError(f"{key}={value}: cannot be chosen again for a run that exists; only {others} can")
    elif before is UNSET and key not in (known := flat(OmegaConf.to_container(cfg))):  # type: ignore[arg-type]
        raise ConfigError(f"{key}: unknown key; {suggest(key, known)}")
    OmegaConf.update(cfg, key, value)
