"""The runs of a sweep, looked at before the first begins: its last would otherwise be refused after hours."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fl_bench.config.checked import checked
from fl_bench.config.compose import GROUPS, SEARCH
from fl_bench.config.rules import validate
from fl_bench.config.words import values


def refuse_cells(words: Sequence[str], own: Path | None, arms: Sequence[Sequence[str]] = ()) -> None:
    """Raise ConfigError for a value with which a run would be refused, as far as that needs neither data nor torch.

    Each value is looked at once, beside the first values of the others and the first arm: there is such a run.
    A value that is no option of a group need not be composed for that.
    """
    parse = OverridesParser.create().parse_override
    everywhere = [*(arms[0] if arms else ()), *words]
    overrides = [override for override in map(parse, everywhere) if not override.is_hydra_override()]
    if any(override.is_sweep_override() and not override.is_discrete_sweep() for override in overrides):
        return  # a sweeper that is not Hydra's own will choose
    search = [word for word in words if word.startswith(SEARCH)]

    lists = [
        [f"{override.get_key_element()}={value}" for value in values(override, own)]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in overrides
    ]
    first = [words[0] for words in lists]
    cfg = checked(first, own, search)
    for arm in arms[1:]:
        checked([*arm, *first[len(arms[0]) :]], own, search)
    for place, override in enumerate(overrides):
        for word in lists[place][1:]:
            if override.key_or_group in GROUPS:
                checked([*first[:place], word, *first[place + 1 :]], own, search)
            else:
                trial = deepcopy(cfg)
                OmegaConf.update(trial, override.key_or_group, parse(word).value(), force_add=True)
                validate(trial)
