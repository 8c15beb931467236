"""study=NAME: what is compared, and over what, as a yaml, which stands for the words of a sweep."""

from collections.abc import Mapping, Sequence
from itertools import product
from numbers import Number
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fl_bench.build import nearest
from fl_bench.config.compose import options
from fl_bench.config.words import as_text, quoted, readable
from fl_bench.errors import ConfigError

STUDY, ARMS = "study=", "hydra.sweeper.arms="
KEYS = ("words", "over", "arms")
TUNE = "hydra/sweeper=tune"


def with_study(words: Sequence[str], own: Path | None) -> list[str]:
    """The words with those of a study's yaml in place of study=NAME; words of the command line win over its own.

    A tuning searches for an arm what has several values there, and has seeds of its own. What the study goes over
    besides seeds makes arms of their own, since the best values may be others there.
    Raises ConfigError where there is no such study, or it is not as docs/sweeps.md says.
    """
    names = [word.removeprefix(STUDY) for word in words if word.startswith(STUDY)]
    if not names:
        return list(words)
    known = options("study", own)
    if len(names) > 1 or names[0] not in known:
        raise ConfigError(f"{STUDY}{','.join(names)}: must be one study; {nearest(names[0], known)}")
    rest = [word for word in words if not word.startswith(STUDY)]
    overrides = OverridesParser.create().parse_overrides(rest)
    said = {override.key_or_group for override in overrides}
    fixed, over, arms = _read(known[names[0]])
    if TUNE in rest:
        searched = {override.key_or_group for override in overrides if override.is_sweep_override()}
        conditions = [key for key in over if key not in {"seed", *said}]
        kept = [{key: value for key, value in arm.items() if key not in searched} for arm in arms]
        places = [dict(zip(conditions, chosen, strict=True)) for chosen in product(*(over[key] for key in conditions))]
        arms, over = [arm | place for arm in kept for place in places], {}
    if twice := sorted(said & {key for arm in arms for key in arm}):
        raise ConfigError(
            f"{twice[0]}: is what the arms of {STUDY}{names[0]} differ in; leave it out, or change the arms"
        )
    lists = {key: ",".join(map(written, values)) for key, values in over.items()}
    ours = {key: written(value) for key, value in fixed.items()} | lists
    texts = [[f"{key}={written(value)}" for key, value in arm.items()] for arm in arms]
    return [*(f"{key}={value}" for key, value in ours.items() if key not in said), *rest, arms_word(texts)]


def arms_word(arms: Sequence[Sequence[str]]) -> str:
    """The word that says these arms, each a list of words."""
    texts = (",".join(map(quoted, readable(words))) for words in arms)
    return f"{ARMS}[{','.join(f'[{text}]' for text in texts)}]"


def arms_of(words: Sequence[str]) -> list[list[str]]:
    """The arms that are among these words, each a list of words."""
    values: list[Any] = [OverridesParser.create().parse_override(w).value() for w in words if w.startswith(ARMS)]
    return [[str(text) for text in arm] for value in values for arm in value]


def keys_of(arms: Sequence[Sequence[str]]) -> list[str]:
    """The keys that these arms name, each once: what makes an arm in their study."""
    return list(dict.fromkeys(word.partition("=")[0].lstrip("+~") for arm in arms for word in arm))


def _read(file: Path) -> tuple[Mapping[str, Any], Mapping[str, list[Any]], list[Mapping[str, Any]]]:
    found: Any = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(found, dict) or (unknown := [key for key in found if key not in KEYS]):
        wrong = unknown[0] if isinstance(found, dict) else "it"
        raise ConfigError(f"{file}: {wrong}: unknown key; a study has {', '.join(KEYS)}")
    fixed, over, arms = found.get("words") or {}, found.get("over") or {}, found.get("arms") or []
    if not (isinstance(arms, list) and all(isinstance(arm, dict) and arm for arm in arms)):
        raise ConfigError(f"{file}: arms: must be a list of mappings, such as {{strategy: scaffold, local.lr: 0.1}}")
    if not (isinstance(fixed, dict) and isinstance(over, dict) and all(isinstance(v, list) for v in over.values())):
        raise ConfigError(f"{file}: words must be a mapping, and over one of lists, such as {{seed: [0, 1, 2]}}")
    return fixed, over, arms


def written(value: Any) -> str:
    """A value of the yaml or of Python, in Hydra's grammar; ${KEY} in a text stands for the value of that key."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{written(item)}' for key, item in value.items())}}}"
    return str(value) if isinstance(value, Number) else as_text(str(value))
