"""Errors of Hydra and OmegaConf in one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fl_bench.build import nearest
from fl_bench.config.changes import flat
from fl_bench.config.compose import GROUPS, compose, options
from fl_bench.config.suggest import suggest
from fl_bench.errors import ConfigError


@contextmanager
def explained(words: Sequence[str] = (), folder: Path | None = None) -> Iterator[None]:
    """Raise ConfigError, in one line, for what Hydra or OmegaConf cannot accept in these words."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, ConfigError):  # of what Hydra builds
            raise error.__cause__ from None
        raise ConfigError(_explain(error, words, folder)) from error
    except OverflowError as error:
        key = str(error).partition("full_key: ")[2].split("\n")[0]
        raise ConfigError(f"{key or 'a value'}: is too large a number") from error
    except (YAMLError, ValueError, RecursionError, OSError) as error:
        if folder is None or getattr(error, "errno", None):  # OmegaConf's own OSError has none
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config-dir {folder}: a yaml in it cannot be read: {reason}") from error


def known_keys(words: Sequence[str] = (), folder: Path | None = None) -> list[str]:
    """The keys of the config that these words choose, with dots."""
    chosen = [word for word in words if word.split("=")[0] in GROUPS and "," not in word]
    return list(flat(OmegaConf.to_container(compose(chosen, folder))))  # type: ignore[arg-type]


def _explain(error: Exception, words: Sequence[str], folder: Path | None) -> str:
    if isinstance(error, MissingConfigException) and "primary config" in str(error):
        return f"--config-name {error.missing_cfg_file}: there is no such yaml in conf/ or in --config-dir"
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        file = error.missing_cfg_file
        group = max((g for g in GROUPS if file.startswith(f"{g}/")), key=len, default=file.rpartition("/")[0])
        name = file.removeprefix(f"{group}/")  # of an experiment it may have a folder in it
        return f"{group}={name}: {nearest(name, options(group, folder) if group in GROUPS else error.options)}"
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, HydraException | OmegaConfBaseException):
        cause = cause.__cause__  # type: ignore[assignment]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    key = getattr(cause, "full_key", None)
    if key and "not in" in lines[0]:
        hint = f"; to pass it to torch.optim, say +{key}=..." if key.startswith("local.optimizer.") else ""
        return f"{key}: unknown key; {_suggestion(key, words, folder)}{hint}"
    if key and "is not a ListConfig" in lines[0]:
        return f"{key}: must be a list; say '{key}=[...]'"
    return f"{key}: {lines[0]}" if key else " ".join(line for line in lines if not line.startswith("See https"))


def _suggestion(key: str, words: Sequence[str], folder: Path | None) -> str:
    try:
        known = known_keys(words, folder)
    except (HydraException, OmegaConfBaseException):  # another of the words is wrong too
        known = known_keys()
    return suggest(key, known, folder)
