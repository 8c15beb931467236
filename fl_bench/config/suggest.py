"""What a user may have meant by a key that there is not."""

import functools
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import yaml

from fl_bench.config.changes import flat
from fl_bench.config.compose import GROUPS, options

SYNONYMS = {
    "learning_rate": "lr", "rate": "lr", "rounds": "num_rounds", "clients": "num_clients", "num_epochs": "epochs",
    "num_steps": "steps", "bs": "batch_size", "batchsize": "batch_size", "gpus": "num_gpus", "cpus": "num_cpus",
    "samples": "num_samples", "cohort": "clients_per_round", "random_seed": "seed",
}  # fmt: skip
SHOWN = 3  # options that are named
CLOSE = 0.8  # of whole keys, which are long


def suggest(key: str, known: Iterable[str], folder: Path | None = None) -> str:
    """A helpful tail for an error about an unknown `key`, where the config has the keys `known`."""
    known, elsewhere = sorted({*known} - {key}), option_keys(folder)
    parent, _, last = key.rpartition(".")
    below = [other for other in elsewhere if f"{other}.".startswith(f"{key}.")]
    if owners := list(dict.fromkeys(owner for other in below for owner in elsewhere[other])):
        return f"{_either(owners)} has it"
    siblings = {_last(other): other for other in known if other.rpartition(".")[0] == parent}
    for name in dict.fromkeys((SYNONYMS.get(last, last), last)):
        if (
            same := [siblings[name]]
            if name in siblings
            else [other for other in known if _last(other) == name != "name"]
        ):
            return f"did you mean {_either(same)}?"
    if not parent and (same := [other for other in elsewhere if _last(other) == SYNONYMS.get(last, last)]):
        return f"did you mean {same[0]}, which {_either(elsewhere[same[0]])} has?"
    if close := get_close_matches(last, [*siblings, *(() if parent else GROUPS)], n=1):
        return f"did you mean {siblings.get(close[0], close[0])}?"
    if close := get_close_matches(key, known, n=1, cutoff=CLOSE):
        return f"did you mean {close[0]}?"
    if close := [] if parent else get_close_matches(last, sorted(map(_last, known)), n=1):
        return f"did you mean {_either([other for other in known if _last(other) == close[0]])}?"
    if parent and len(siblings) > 1:
        return f"known: {', '.join(sorted({*siblings} - {'_target_'}))}"
    return "fl-bench --help lists the keys"


@functools.cache
def option_keys(folder: Path | None = None) -> dict[str, list[str]]:
    """By key: the options whose yaml has it, such as strategy=fedprox; not experiments, which only set it."""
    found: dict[str, list[str]] = {}
    for group in (group for group in GROUPS if group != "experiment"):
        for name, file in options(group, folder).items():
            try:
                text = file.read_text(encoding="utf-8")
                content = yaml.safe_load(text)
            except (yaml.YAMLError, ValueError, RecursionError):  # the user's own, of which something else will tell
                continue
            prefix = "" if "@package _global_" in text else f"{group.replace('/', '.')}."
            for key in flat(content, prefix) if isinstance(content, dict) else ():
                found.setdefault(key, []).append(f"{group}={name}")
    return found


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _either(names: list[str]) -> str:
    return " or ".join(names[:SHOWN]) + (" or another" if len(names) > SHOWN else "")
