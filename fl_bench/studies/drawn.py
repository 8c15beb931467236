"""What the page of a study draws: curves, what clients and partitions look like, and pictures, no more than fit."""

import base64
import math
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import stats

from fl_bench.errors import Damaged
from fl_bench.studies.study import Study

PREFIXES = ("test_", "attack_", "validation_", "client_", "unseen_", "train_")  # of columns that are metrics
NUMBERS = 150_000  # of curves: with about seven characters each, the page stays below 2 MB
QUANTILES = 51  # of a metric over the clients of a run
MOST_CLIENTS, MOST_CLASSES = 100, 30  # columns and rows of the picture of a partition
MOST_PARTITIONS = 12
PICTURES = 500_000  # bytes of all pictures of models together
WIDTHS = (720, 480, 320, 200, 120)  # of these pictures, in pixels: the first with which they fit
DRAWN = ("round_*.png", "predictions.png", "sentences.png", "confusion.png")  # in figures/: the first that is there
AXES = {
    "round": "round",
    "steps": "steps of all clients",
    "bytes": "bytes both ways",
    "virtual_seconds": "seconds of the virtual clock",
    "wall_seconds": "seconds of this machine",
}


def _short(values: Iterable[float]) -> list[float | int | None]:
    """Numbers of five digits, as JSON has them: null for what is none."""
    rounded = (float(f"{value:.5g}") for value in values)
    return [None if not math.isfinite(v) else int(v) if v.is_integer() else v for v in rounded]


def curves(
    study: Study, metric: str, values: pd.Series, arms: Sequence[str], settings: Sequence[str]
) -> dict[str, Any]:
    """What page.js draws, of no more rounds than fit: a number for each run, round, metric and axis."""
    metrics = [
        name for name in map(str, study.rounds) if name.startswith(PREFIXES) and study.rounds[name].notna().any()
    ]
    axes = {name: text for name, text in AXES.items() if study.rounds[name].any()}
    measured = study.rounds.loc[study.rounds[metric].notna(), "round"].sort_values().unique()
    step = math.ceil(len(study.rounds) * (len(metrics) + len(axes)) / NUMBERS)
    rounds = study.rounds if step == 1 else study.rounds[study.rounds["round"].isin({*measured[::step], measured[-1]})]
    runs = []
    for run, table in rounds.groupby("run"):
        row: Any = study.runs.loc[run]
        runs.append({
            "arm": arms.index(row["arm"]), "setting": settings.index(row["setting"]),
            "value": _short([values[run]])[0], "bytes": int(row["bytes"]),
            "x": {name: _short(table[name]) for name in axes},
            "y": {name: _short(table[name]) for name in metrics if table[name].notna().any()},
            "clients": _spread(Path(row["folder"])),
        })  # fmt: skip
    return {
        "arms": arms,
        "settings": settings,
        "metric": metric,
        "metrics": sorted(metrics, key=lambda name: name != metric),
        "better": dict(study.better),
        "axes": axes,
        "runs": runs,
        "t": [0, 0, *_short(stats.t.ppf(0.975, np.arange(1, len(runs))))],
        "thinned": "" if step == 1 else f"Every {step}th measured round; study.csv has all.",
    }


def _read(file: Path, **how: Any) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(file, **how)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except ValueError as error:
        raise Damaged(f"{file}: is damaged: {error}") from None
    return table


def _spread(folder: Path) -> dict[str, list]:
    """By column: quantiles over the clients in the last round that measured it; empty where clients do not evaluate."""
    clients = _read(folder / "clients.csv", low_memory=False)
    spread = {}
    for name in (name for name in map(str, clients) if name.startswith("client_") and clients[name].notna().any()):
        known = clients[clients[name].notna()]
        last = known.loc[known["round"] == known["round"].max(), name]
        spread[name] = _short(np.quantile(last, np.linspace(0, 1, QUANTILES)))
    return spread


def partitions(study: Study, settings: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """The partition of the first seed of each setting, classes by clients, and a word on what is left out."""
    pictures, most = [], (0, 0)
    first = study.runs.sort_values("seed", kind="stable").drop_duplicates("setting").sort_index()
    for folder, setting in zip(first["folder"], first["setting"], strict=True):
        file = Path(folder) / "partition.csv"
        held = _read(file, dtype={"label": str}, keep_default_na=False) if file.exists() else pd.DataFrame()
        if "label" not in held or held.empty:  # parties hold columns, or a task has no classes, or only the sites know
            continue
        table = held.pivot(index="label", columns="client", values="samples").fillna(0).astype(int)
        table = table.loc[sorted(table.index, key=lambda label: label.zfill(9) if label.isdecimal() else label)]
        most = (max(most[0], table.shape[1]), max(most[1], len(table)))
        table = table.iloc[:MOST_CLASSES, :MOST_CLIENTS]
        pictures.append({
            "setting": settings.index(setting), "clients": table.columns.tolist(), "classes": table.index.tolist(),
            "counts": table.to_numpy().tolist(),
        })  # fmt: skip
    there = {"clients": (most[0], MOST_CLIENTS), "classes": (most[1], MOST_CLASSES)}
    there["settings"] = len(pictures), MOST_PARTITIONS
    left_out = [f"the first {limit} of {number} {name}" for name, (number, limit) in there.items() if number > limit]
    return pictures[:MOST_PARTITIONS], f"Shown: {', '.join(left_out)}." if left_out else ""


def pictures(study: Study, arms: Sequence[str]) -> list[dict[str, Any]]:
    """For each arm a picture of what the model of one run does, where its run has drawn one, as a data URI."""
    found = {}
    runs = study.runs.sort_values("seed", kind="stable")
    for arm, setting, folder in zip(runs["arm"], runs["setting"], runs["folder"], strict=True):
        files = (file for name in DRAWN for file in sorted((Path(folder) / "figures").glob(name), reverse=True))
        if arm not in found and (file := next(files, None)):
            found[arm] = file, setting
    chosen = [(arm, *found[arm]) for arm in arms if arm in found]
    for width in WIDTHS:
        uris = [_scaled(file, width) for _, file, _ in chosen]
        if sum(map(len, uris)) <= PICTURES:
            break
    return [
        {"arm": arms.index(arm), "label": " ".join(filter(None, (arm, setting))), "name": file.stem, "uri": uri}
        for (arm, file, setting), uri in zip(chosen, uris, strict=True)
    ]


def _scaled(file: Path, width: int) -> str:
    """A picture of at most this width, as a data URI; Damaged where it is none."""
    stream = BytesIO()
    try:
        with Image.open(file, formats=["PNG"]) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise Damaged(f"{file}: is damaged: {error}") from None
    picture.thumbnail((width, 4 * width))
    picture.save(stream, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
