"""What a run's workers read: its config, the data and the partition, written once; and what identifies them."""

import inspect
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from fl_bench import rng
from fl_bench.build import build, call, find_target
from fl_bench.config.paths import INIT, SHARED, initial_model
from fl_bench.config.rules import AUTO_CLIENTS, require
from fl_bench.data import shift
from fl_bench.data.arrays import FederatedData, rows_of
from fl_bench.data.cache import kept, key_of
from fl_bench.data.facts import NAME as FACTS
from fl_bench.data.partition import UNSEEN, Partition
from fl_bench.data.split import HELD, Split, from_file, root_rows, sites, validation_rows
from fl_bench.deployment.told import Told
from fl_bench.errors import ConfigError, note
from fl_bench.federation.local import Trainer, trainer_in
from fl_bench.federation.parts import CONFIG
from fl_bench.machine import describe, package
from fl_bench.models.initial import sha256
from fl_bench.robust.base import Rule
from fl_bench.storage import files
from fl_bench.storage.files import digest, digest_of
from fl_bench.tasks.base import Task
from fl_bench.vertical.columns import align

NONE = "none"  # data.source where there are no rows


def nobody(scratch: Path) -> None:
    """Whom `prepare` asks where there are no sites."""


def prepare(cfg: DictConfig, task: Task, scratch: Path, ask: Callable[[Path], Told | None] = nobody) -> Trainer:
    """Put the config, the data and the partition where the workers find them, and be the first to read them.

    With partition=sites the training rows are those of whom it asks.
    """
    OmegaConf.save(cfg, scratch / CONFIG, resolve=True)
    if (file := initial_model(cfg)) is not None:
        shutil.copyfile(file, scratch / INIT)
    root_size, at_sites = build(cfg.robust, Rule, seed=cfg.seed).root_size, find_target(cfg.partition) is sites
    if root_size and at_sites:
        raise ConfigError("robust: the server would train on rows of its own, and with partition=sites it has none")
    if at_sites and (told := ask(scratch)) is not None:
        _save_told(cfg, task, scratch, told)
        return trainer_in(scratch)
    rng.seed_torch(cfg.seed, "load")  # some tasks make a pretrained model along with their data
    data = _loaded(cfg, task, scratch)
    if not data.num_tests:
        wish = "these rows have no test set, and a run needs one: test.csv, test.parquet, or a folder test"
        raise ConfigError(f"data.facts={cfg.data.get('facts')}: {wish}")
    rest = _rest(cfg, data.num_samples, root_size)
    if cfg.num_clients != AUTO_CLIENTS and cfg.num_clients > len(rest):
        raise ConfigError(f"num_clients={cfg.num_clients}: there are only {len(rest)} samples to share out")
    if cfg.setting:
        _save_columns(cfg, data, rest, scratch)
        return trainer_in(scratch)
    owners, heldout, unseen = _owners(cfg, data, rest)
    num_clients = int(owners.max()) + 1 if cfg.num_clients == AUTO_CLIENTS else cfg.num_clients
    if nothing := np.count_nonzero(np.bincount(owners[owners >= 0], minlength=num_clients) == 0):
        note(f"partition: {nothing} of the {num_clients} clients hold no sample")
    if nobodys := np.count_nonzero(owners[rest] == -1):
        note(f"partition: no client holds {nobodys} of the {len(rest)} training samples")
    order = rng.generator(cfg.seed, "partition order")
    partition = Partition.of(owners, num_clients, cfg.partition.holdout, order, heldout)
    given = {"columns": data.train, "partition": partition, "classes": data.classes, "seed": cfg.seed}
    shifted = call(find_target(cfg.shift), cfg.shift, **given)
    _say_what_wins(cfg, partition, heldout, unseen)
    if unseen is None:
        unseen = _drawn_unseen(cfg, num_clients)
    if len(unseen):
        partition.of_clients(unseen).save(scratch, UNSEEN)
        partition = partition.of_clients(np.delete(np.arange(num_clients), unseen))
    partition.save(scratch)
    replace(data, train=shifted).save(scratch)
    return trainer_in(scratch)


def _save_told(cfg: DictConfig, task: Task, scratch: Path, told: Told) -> None:
    """What a run has whose training rows are at sites, which have `told` what they are."""
    count, validation = told.num_clients, cfg.evaluate.validation
    wish = f"must be {count}, the clients of the sites, or auto"
    require("num_clients", cfg.num_clients, cfg.num_clients in (AUTO_CLIENTS, count), wish)
    wish = "the server has no training rows, of which to keep some; must be clients, or 0"
    require("evaluate.validation", validation, validation in ("clients", 0), wish)
    if find_target(cfg.shift) is not shift.none:
        raise ConfigError("shift: with partition=sites the samples are as the sites have them; use shift=none")
    data = None
    if cfg.data.source != NONE:
        if task.fits_rows and not told.form.files:  # such as one that says how columns were scaled
            wish = "what a number stands for follows from training rows, and those are at the sites; use data=none"
            raise ConfigError(f"data: with task={type(task).__name__.lower()} {wish}")
        rng.seed_torch(cfg.seed, "load")
        data = _loaded(cfg, task, scratch)
    told.save(data, scratch)
    if data is not None and data.num_tests:
        note(f"partition=sites: of the data here, only the {data.num_tests} test rows are used")
    else:
        note("data: there is no test set; what clients hold out is measured with evaluate.clients=true")


def _save_columns(cfg: DictConfig, data: FederatedData, rows: NDArray[np.int64], scratch: Path) -> None:
    """What a run has whose clients hold columns: all of them train on the rows that they have in common."""
    num_columns = data.train["x"].shape[-1] if "x" in data.train else 0
    found = call(align, cfg.setting, (), rows=rows, num_columns=num_columns, num_clients=cfg.num_clients, seed=cfg.seed)
    starts = np.arange(cfg.num_clients + 1) * len(found.rows)
    Partition(np.tile(found.rows, cfg.num_clients), starts, starts[1:]).save(scratch)
    files.write(scratch / HELD, files.csv_of(found.table))
    data.save(scratch)


def _say_what_wins(
    cfg: DictConfig, partition: Partition, heldout: NDArray[np.bool_] | None, unseen: NDArray[np.int64] | None
) -> None:
    """Say where a partition that knows itself what is held out, and who never trains, differs from the keys for it."""
    holdout, share = cfg.partition.holdout, cfg.partition.get("unseen") or 0.0
    sizes, held, count = np.diff(partition.starts), partition.heldout_sizes, len(partition.ends)
    if heldout is not None and (held != (sizes * holdout).astype(np.int64)).any():
        rows = f"{held.sum()} of {sizes.sum()} rows are held out"
        note(f"partition: {rows}, as the file says, not partition.holdout={holdout}")
    if unseen is not None and len(unseen) != round(count * share):
        note(f"partition: {len(unseen)} of {count} clients never train, as the file says, not partition.unseen={share}")


def _loaded(cfg: DictConfig, task: Task, folder: Path) -> FederatedData:
    """The data as the task loads them, or as an earlier run, or cell of this sweep, has kept them."""
    load = partial(task.load, cfg.data)
    if (cache := cfg.data.cache or os.environ.get(SHARED)) is None:
        return load(folder)
    nodes: list[Any] = [OmegaConf.to_container(node, resolve=True) for node in (cfg.task, cfg.data)]
    about = {
        "task": {name: value for name, value in nodes[0].items() if name not in task.not_loaded},
        "data": {name: value for name, value in nodes[1].items() if name != "cache"},
        "threads": torch.get_num_threads(),
        "code": (package()[0], digest_of(Path(inspect.getfile(type(task))))),
        "versions": describe()["versions"],
    }
    return kept(Path(cache), key_of(about), cfg.seed, folder, load)


def _drawn_unseen(cfg: DictConfig, num_clients: int) -> NDArray[np.int64]:
    """The clients who never train, rising."""
    share = cfg.partition.get("unseen") or 0.0
    count = round(num_clients * share)
    wish = f"is {count} of {num_clients} clients; must be some, and leave some to train"
    require("partition.unseen", share, share == 0 or 0 < count < num_clients, wish)
    return np.sort(rng.generator(cfg.seed, "unseen").choice(num_clients, count, replace=False))


def _rest(cfg: DictConfig, num_samples: int, root_size: int) -> NDArray[np.int64]:
    """The training rows that the clients share, rising: those that the server does not keep."""
    validation = validation_rows(cfg.evaluate.validation, num_samples, cfg.seed)
    if root_size >= (left := num_samples - len(validation)):
        raise ConfigError(f"robust: the server would keep {root_size} rows to train on, of {left} that there are")
    root = root_rows(root_size, validation, num_samples, cfg.seed)
    return np.delete(np.arange(num_samples), np.concatenate([validation, root]))


def _owners(cfg: DictConfig, data: FederatedData, rest: NDArray[np.int64]) -> Split:
    """The client who owns each training row, nobody those that are not in `rest`, and what else the partition says."""
    columns = data.train if len(rest) == data.num_samples else rows_of(data.train, rest)
    target, validation, whole_data = find_target(cfg.partition), cfg.evaluate.validation, columns is data.train
    by_file = ConfigError(
        "robust: a file names rows of all the training data, of which the server would keep some; use another"
        if validation in ("clients", 0)
        else f"evaluate.validation={validation}: a file names rows of all the training data; "
        "use evaluate.validation=clients, or 0"
    )
    if target is from_file and not whole_data:
        raise by_file
    found = call(
        target,
        cfg.partition,
        skip=("_target_", "holdout", "unseen"),
        columns=columns,
        num_clients=cfg.num_clients,
        rng=rng.generator(cfg.seed, "partition"),
    )
    if isinstance(found, Split) and not whole_data:
        raise by_file
    split = found if isinstance(found, Split) else Split(found)
    shared = split.owners
    whole = isinstance(shared, np.ndarray) and shared.shape == rest.shape and shared.dtype.kind == "i"
    end = len(rest) if cfg.num_clients == AUTO_CLIENTS else cfg.num_clients
    if not (whole and shared.min() >= -1 and shared.max() < end):
        wish = "must return an integer for each training row, the client who owns it, or -1"
        raise ConfigError(f"partition._target_={cfg.partition._target_}: {wish}")
    owners = np.full(data.num_samples, -1, shared.dtype)
    owners[rest] = shared
    return split._replace(owners=owners)


def data_digests(cfg: DictConfig, scratch: Path) -> dict[str, str]:
    """Digests of the data, the partition, the traces and the model to begin from: two runs with equal ones were given
    the same.
    """
    # The last two follow from the rows and the config, or the rows from them.
    others = [scratch / name for name in (CONFIG, INIT, FACTS, HELD)]
    arrays = sorted(file for file in scratch.rglob("*") if file.is_file() and file not in others)
    partition = [file for file in arrays if file.name.startswith("partition.")]
    kinds = {"data": [file for file in arrays if file not in partition], "partition": partition}
    if traces := cfg.network.get("traces"):
        kinds["traces"] = [Path(traces).expanduser()]
    found = {name: digest(*map(_mapped, files)) for name, files in kinds.items()}
    return found | ({"init": sha256(scratch / INIT)} if (scratch / INIT).exists() else {})


def _mapped(file: Path) -> Any:
    return np.memmap(file, mode="r") if file.stat().st_size else b""
