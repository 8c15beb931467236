"""What others have published for an experiment, beside what a run of it has come to: the node `expected` of a yaml."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from fl_bench.config.changes import matters
from fl_bench.config.origin import Origin
from fl_bench.config.paths import PATHS
from fl_bench.metrics import Metric, metric_of

Row = Mapping[str, Any]  # of metrics.csv
ANY = {"experiment", "seed", *PATHS}  # words for these leave the setting what it is

# By `expected.at`: which row a number is of, from those that have it and the one that is best by validation.
ROWS: dict[str, Callable[[Sequence[Row], Row | None, Callable[[Row], float], bool], Row | None]] = {
    "last": lambda rows, best, value, higher: rows[-1],
    "validation": lambda rows, best, value, higher: best,
    "best": lambda rows, best, value, higher: (max if higher else min)(rows, key=value),
}


def compare(
    cfg: DictConfig, origin: Origin, rows: Sequence[Row], best: Row | None, metrics: Mapping[str, Metric]
) -> dict[str, Any] | None:
    """The published number and that of a run with these `rows`, for run.json; None where nothing is published.

    `best` is the row that is best by validation, `metrics` are the task's. `published` is None where the
    run is another than each that is published, `here` where it has no such number.
    """
    expected = cfg.expected
    if expected is None:
        return None
    there = [row for row in rows if row.get(expected.metric) not in (None, "")]
    metric = metric_of(expected.metric, metrics)
    higher = metric is not None and metric.better == "higher"
    row = ROWS[expected.at](there, best, lambda row: float(row[expected.metric]), higher) if there else None
    here = None if row is None or expected.metric not in row else float(row[expected.metric])
    record = {name: expected[name] for name in ("source", "metric", "at", "rounds")}
    return record | {"published": _published(cfg, origin), "here": here, "rounds_here": int(rows[-1]["round"])}


def said(record: Mapping[str, Any]) -> str:
    """What `compare` has found, in one line.

    Examples:
        >>> said({"metric": "test_loss", "at": "last", "rounds": 9, "source": "Doe 2020", "published": 0.5, "here": 0.6,
        ...       "rounds_here": 2})
        'published: test_loss=0.5 after 9 rounds (Doe 2020); this run has 2 rounds, so its number says nothing of it'
    """
    named, source, rounds = record["metric"], record["source"], record["rounds"]
    if record["published"] is None:
        return f"published: no {named} for this setting ({source})"
    text = f"published: {named}={record['published']} after {rounds} rounds ({source})"
    if record["rounds_here"] != rounds:
        return f"{text}; this run has {record['rounds_here']} rounds, so its number says nothing of it"
    if record["here"] is None:
        return f"{text}; this run has no {named} to put beside it"
    return f"{text}; here: {record['here']:.4f}, of the round that is {_ROUND[record['at']]}"


_ROUND = {"last": "the last", "validation": "best by validation", "best": "best on the test set"}


def _published(cfg: DictConfig, origin: Origin) -> float | None:
    """The first number whose words hold here, where no other word has changed what matters."""
    changed = {key for key in origin.named if matters(key) and not key.startswith("hydra.")} - ANY
    for result in cfg.expected.results:
        words = {word.key_or_group: word.value() for word in OverridesParser.create().parse_overrides([*result.where])}
        holds = (origin.choices.get(key, OmegaConf.select(cfg, key)) == value for key, value in words.items())
        if changed <= words.keys() and all(holds):
            return float(result.value)
    return None
