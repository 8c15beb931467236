"""One run, top to bottom: from a checked config to the files in its folder."""

import csv
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import nn

from fl_bench import rng
from fl_bench.build import build, call, find_target
from fl_bench.data.partition import Partition
from fl_bench.engines.resources import check_gpus, share_gpus
from fl_bench.errors import ConfigError, FlBenchError, Interrupted, in_one_line
from fl_bench.federation.client import trainer_in
from fl_bench.federation.fleet import Fleet
from fl_bench.federation.local import CONFIG, Trainer
from fl_bench.federation.rounds import Rounds
from fl_bench.federation.state import ClientStates
from fl_bench.federation.vectorized import why_not
from fl_bench.machine import describe
from fl_bench.network.schedule import Schedule
from fl_bench.results import flower_log
from fl_bench.results.album import Album
from fl_bench.results.console import Reporter, summary
from fl_bench.results.costs import Costs
from fl_bench.results.recorder import Recorder
from fl_bench.strategies.base import LocalAlgorithm, layers
from fl_bench.tasks.base import Task

AUTO, MOST_STACKED = 50, 50_000_000  # clients, and numbers in a stack, at most with engine.vectorize=auto
STATUS = {0: "done", 1: "failed", 2: "invalid", 130: "interrupted"}


def execute(cfg: DictConfig, folder: Path, scratch: Path) -> int:
    """Run, print where the results are or in one line why there are none, and return the exit code.

    The results go to `folder`; what the workers read, and nobody needs afterwards, to `scratch`.
    """
    record: dict[str, Any] = {"status": "running", "exit_code": None, "seed": cfg.seed, "final": {}} | describe()
    costs = Costs(cfg.target_metric, cfg.targets)

    def show(row: Mapping[str, Any]) -> None:
        record["final"].update(row)
        costs.add(row)

    def save() -> None:
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")

    save()
    try:
        run(cfg, folder, scratch, show)
        code = 0
    except (FlBenchError, KeyboardInterrupt) as error:
        known = error if isinstance(error, FlBenchError) else Interrupted("stopped by Ctrl-C")
        code, record["error"] = known.exit_code, str(known)
    except Exception as error:
        code, record["error"] = 1, in_one_line(error)
        if os.environ.get("FL_BENCH_DEBUG"):
            traceback.print_exc()
    record |= {"status": STATUS[code], "exit_code": code} | costs.record
    save()
    if code:
        print(f"fl-bench: {' '.join(record['error'].split())}", file=sys.stderr)
    else:
        print(f"{folder}\n{summary(record['final'])}  ({costs})")
    return code


def run(cfg: DictConfig, folder: Path, scratch: Path, show: Callable[[Any], None]) -> None:
    """Everything from the data to the figures; `show` gets each round's row."""
    flower_log.quieten()
    torch.set_num_threads(cfg.engine.threads)
    check_gpus(cfg.engine)
    engine = find_target(cfg.engine)
    task: Task = build(cfg.task)
    strategy = _make_strategy(cfg.strategy.server)
    # The workers build theirs from the resolved config, whose errors name other keys.
    for node in (cfg.strategy.client, cfg.compression.up, cfg.compression.down):
        build(node)
    trainer = None
    if cfg.engine.client_resources.num_gpus == "auto":
        trainer = _prepare(cfg, task, scratch)
        share_gpus(cfg.engine, trainer)
    with engine(cfg.engine) as connect:  # the workers start while the data is prepared
        trainer = trainer or _prepare(cfg, task, scratch)
        schedule = _make_schedule(cfg, trainer)
        _try_out(cfg, trainer, strategy)
        together, reason = _train_together(cfg, trainer)
        for note in filter(None, (_note(trainer), reason)):
            print(f"fl-bench: note: {note}", file=sys.stderr)
        _write_partition(trainer, folder)
        parts = [type(part) for part in (task, strategy, trainer.algorithm)]
        title = " ".join(part.__name__ for part in parts if part is not LocalAlgorithm)
        album = Album(folder / "figures") if cfg.figures else None
        with Reporter(title, cfg.num_rounds) as reporter:

            def report(row: Mapping[str, Any]) -> None:
                reporter.show(row)
                show(row)

            states = ClientStates(folder / "state")
            states.clear()
            rounds = Rounds(cfg, strategy, trainer, schedule, states, Recorder(folder), album, report)
            fleet = _make_fleet(cfg, connect(), scratch, states, trainer, together)
            gc.freeze()  # some of Flower's strategies collect garbage for every client: not all of torch each time
            try:
                vector = rounds.run(fleet)
            finally:
                gc.unfreeze()
    trainer.load(vector)
    _save_model(trainer, folder)
    if album is not None:
        from fl_bench.results import figures  # matplotlib takes a second to import

        figures.draw(folder)
        album.bind()
        if not trainer.personal:
            trainer.task.figures(trainer.flat.model, trainer.data, folder / "figures")


def _prepare(cfg: DictConfig, task: Task, scratch: Path) -> Trainer:
    """Put the config, the data and the partition where the workers find them, and be the first to read them."""
    OmegaConf.save(cfg, scratch / CONFIG, resolve=True)
    rng.seed_torch(cfg.seed, "load")  # some tasks make a pretrained model along with their data
    data = task.load(cfg.data, scratch)
    if cfg.num_clients > data.num_samples:
        raise ConfigError(f"num_clients={cfg.num_clients}: there are only {data.num_samples} samples to share out")
    owners = call(
        find_target(cfg.partition),
        cfg.partition,
        skip=("_target_", "holdout"),
        columns=data.train,
        num_clients=cfg.num_clients,
        rng=rng.generator(cfg.seed, "partition"),
    )
    order = rng.generator(cfg.seed, "partition order")
    Partition.of(owners, cfg.num_clients, cfg.partition.holdout, order).save(scratch)
    data.save(scratch)
    return trainer_in(scratch)


def _make_strategy(server: DictConfig) -> Strategy:
    strategy: Strategy = build(server)
    for part in (strategy, getattr(strategy, "strategy", None)):  # the differential-privacy wrappers hold one inside
        for minimum in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
            if hasattr(part, minimum):
                setattr(part, minimum, 1)  # Flower would wait for nodes to come; ours are all there
    return strategy


def _steps(cfg: DictConfig, trainer: Trainer) -> NDArray[np.int64]:
    """How many steps each client takes in a round [num_clients], where its algorithm has it train as usual."""
    sizes, local = trainer.partition.train_sizes, cfg.local
    steps: NDArray[np.int64] = (sizes > 0) * (local.steps or local.epochs * -(-sizes // local.batch_size))
    return steps


def _make_schedule(cfg: DictConfig, trainer: Trainer) -> Schedule:
    network = build(
        cfg.network,
        seed=cfg.seed,
        steps=_steps(cfg, trainer),
        bytes_down=trainer.channel.bytes_down,
        bytes_up=trainer.channel.bytes_up,
    )
    schedule: Schedule = build(cfg.strategy.schedule, network=network, clients_per_round=cfg.clients_per_round)
    if cfg.min_clients > schedule.wanted:
        raise ConfigError(f"min_clients={cfg.min_clients}: a round has {schedule.wanted} answers with this strategy")
    return schedule


def _make_fleet(
    cfg: DictConfig,
    grid: Grid,
    scratch: Path,
    states: ClientStates,
    trainer: Trainer,
    together: int = 1,
) -> Fleet:
    return Fleet(
        grid, scratch, states.folder, trainer.layout, trainer.partition.train_sizes, _steps(cfg, trainer),
        packing=cfg.engine.packing, each=cfg.strategy.needs_each_client, together=together,
    )  # fmt: skip


def _try_out(cfg: DictConfig, trainer: Trainer, strategy: Strategy) -> None:
    """Find what does not fit together while nothing has been started."""
    trainer.algorithm.check(trainer.task)
    trainer.channel.up.check(trainer.channel.down)
    if trainer.algorithm.bounded and not trainer.channel.up.lossless:
        raise ConfigError(
            "compression: may lengthen updates that clients have clipped for differential privacy; with a lossy one, "
            "let the server clip: strategy=dp_server_fixed or dp_server_adaptive"
        )
    if trainer.personal and not trainer.learns(trainer.personal):
        raise ConfigError(
            f"strategy: the layers that it keeps at the clients, such as {min(trainer.personal)}, take no part in the "
            f"loss of task {type(trainer.task).__name__}; name others, for example as strategy.personal_layers=[...]"
        )
    try:
        trainer.task.optimizer(trainer.flat.model, trainer.local)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"local.optimizer={dict(cfg.local.optimizer)}: torch.optim says: {error}") from error
    if cfg.targets:
        _check_target(cfg, trainer)
    if cfg.evaluate.clients and not trainer.partition.heldout_sizes.any():
        raise ConfigError("evaluate.clients=true: no client holds out a sample; raise partition.holdout")
    if wanted := getattr(strategy, "client_metrics", ()):
        if not cfg.evaluate.clients:
            raise ConfigError("evaluate.clients=false: this strategy aggregates clients' metrics and needs true")
        known = trainer.metric_names()
        for name in wanted:
            if name not in known:
                raise ConfigError(f"strategy.metrics: clients do not report {name}; they report {', '.join(known)}")


def _check_target(cfg: DictConfig, trainer: Trainer) -> None:
    tested = trainer.metric_names() if trainer.num_test_batches else []
    known = [f"test_{name}" for name in (*tested, *trainer.measure(trainer.untrained()))]
    known += [f"client_{name}" for name in trainer.metric_names()] if cfg.evaluate.clients else []
    if cfg.target_metric not in known:
        raise ConfigError(f"target_metric={cfg.target_metric}: must be one of this run's {', '.join(known)}")


def _train_together(cfg: DictConfig, trainer: Trainer) -> tuple[int, str | None]:
    """How many clients a worker trains as one program, and why it is one where the user wants more."""
    wish = cfg.engine.vectorize
    if wish == "off":
        return 1, None
    model = trainer.flat.model
    linear = all(isinstance(model.get_submodule(name), nn.Linear) for name in layers(model))
    if not cfg.engine.packing:
        reason: str | None = "engine.packing=false sends a worker one"
    elif wish == "auto" and trainer.device == "cpu" and not linear:  # convolutions can take twice as long
        reason = "on a CPU only models of linear layers gain by it"
    else:
        reason = why_not(trainer)
    if reason:
        return 1, f"engine.vectorize={wish}: one client at a time: {reason}"
    fits = max(2, MOST_STACKED // max(1, trainer.flat.layout.size))
    return min(AUTO, fits) if wish == "auto" else wish, None


def _save_model(trainer: Trainer, folder: Path) -> None:
    """model.safetensors: the global model, as far as there is one."""
    tensors = {name: tensor for name, tensor in trainer.flat.model.state_dict().items() if name not in trainer.private}
    save_file({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def _note(trainer: Trainer) -> str | None:
    """What a user should know of a strategy that keeps layers at the clients, where the model hardly lets it."""
    if trainer.algorithm.private.__func__ is not LocalAlgorithm.private and not trainer.personal:  # type: ignore[attr-defined]
        return "the strategy finds no layer of this model to keep at the clients: it is the same as without"
    if trainer.personal and not trainer.layout.size:
        return "the strategy keeps every layer of this model at the clients: they train alone"
    return None


def _write_partition(trainer: Trainer, folder: Path) -> None:
    """partition.csv: how many samples of each label each client holds, where it holds any."""
    classes = trainer.data.classes
    counts = trainer.partition.label_counts(trainer.data.train["y"], len(classes))
    clients, labels = np.nonzero(counts)
    with (folder / "partition.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("client", "label", "samples"))
        names = map(classes.__getitem__, labels.tolist())
        table.writerows(zip(clients.tolist(), names, counts[clients, labels].tolist(), strict=True))
