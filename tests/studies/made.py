"""Folders of runs that nobody ran: what a study reads of them, with numbers of a test's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fl_bench.storage import run_json
from fl_bench.storage.files import csv_of

BYTES = 100  # down, and as many up, in each round
STEPS = 12  # of all clients, in each round


def make_run(
    folder: Path,
    values: Sequence[float | str],
    *words: str,
    metric: str = "accuracy",
    steps: int | str = STEPS,
    **more: Any,
) -> Path:
    """A finished run whose test metric has these `values`, from round 0 on, at ten seconds and 200 bytes a round."""
    folder.mkdir(parents=True)
    overrides = dict(word.split("=", 1) for word in words)
    choices = {"strategy": "fedavg", "task": "mnist"}
    choices |= {name: overrides.pop(name) for name in ("strategy", "task", "partition") if name in overrides}
    seed = int(overrides.pop("seed", "0"))
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={value}" for key, value in overrides.items()]))
    config: dict[str, Any] = {"num_rounds": len(values) - 1, "targets": [], **given, "seed": seed}
    config["target_metric"] = f"test_{metric}"
    spent = [(steps, BYTES, BYTES) if i else ("", "", "") for i in range(len(values))]
    rows = [(i, value, *spent[i], i / 2) for i, value in enumerate(values)]
    header = ("round", f"test_{metric}", "steps", "bytes_down", "bytes_up", "virtual_seconds")
    write(folder, "metrics", [header, *rows])
    write(folder, "timing", [("round", "train_seconds", "test_seconds"), *((i, 9, 1) for i in range(len(values)))])
    for name in ("clients.csv", "partition.csv", "model.safetensors"):
        (folder / name).touch()
    record: Mapping[str, Any] = {
        "status": "done", "config": config, "choices": choices, "overrides": list(words), "best": None,
        "data": {"data": choices["task"], "partition": f"{overrides.get('partition.alpha')}-{seed}"},
        "better": {"accuracy": "higher", "loss": "lower"}, "files": run_json.seals(folder),
    }  # fmt: skip
    run_json.save(folder, {**record, **more})
    return folder


def write(folder: Path, name: str, rows: Sequence[Sequence[Any]]) -> None:
    (folder / f"{name}.csv").write_bytes(csv_of(rows))
