"""The parts of an experiment, made from its config, and the checks whether they fit together."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fl_bench.build import build
from fl_bench.config.rules import MASKS, require
from fl_bench.engines.base import Engine
from fl_bench.errors import ConfigError, note
from fl_bench.federation import masked
from fl_bench.federation.exchange import Job
from fl_bench.federation.fleet import Fleet
from fl_bench.federation.loads import Loads
from fl_bench.federation.local import Trainer
from fl_bench.federation.rounds import Experiment
from fl_bench.federation.vectorized import why_not
from fl_bench.models.initial import other_classes
from fl_bench.models.opaque import Opaque
from fl_bench.network.clock import Network
from fl_bench.network.schedule import Schedule
from fl_bench.runs.beside import check_adapters
from fl_bench.runs.examples import check_augment, check_batches_of_one
from fl_bench.runs.ledger import check_ledger
from fl_bench.runs.privacy import check_masks, check_noise, check_privacy
from fl_bench.runs.robust import check_rule
from fl_bench.runs.topology import check_topology, make_topology
from fl_bench.storage.checkpoint import Store
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import layers
from fl_bench.strategies.server import Given, own_part
from fl_bench.tasks.base import Classifier, Task
from fl_bench.tasks.rates import of_round
from fl_bench.topologies.base import Topology, is_plain

NO_STEP = {"LBFGS": "it computes the loss again and again", "SparseAdam": "it takes sparse gradients only",
           "Optimizer": "it is only what others derive from"}  # fmt: skip
AUTO, MOST_STACKED = 50, 50_000_000  # clients, and numbers in a stack, at most with engine.vectorize=auto


def make(cfg: DictConfig, strategy: Strategy, trainer: Trainer, data: Path, store: Store) -> Experiment:
    """The experiment of a run, whose workers find their data in `data`; raises ConfigError where parts do not fit."""
    own_part(strategy).use(given(trainer))
    if isinstance(trainer.flat.model, Opaque) != trainer.algorithm.opaque:
        wish = "model=trees and strategy=fedxgb_bagging or fedxgb_cyclic need each other"
        raise ConfigError(f"strategy: {type(trainer.algorithm).__name__} does not train this model: {wish}")
    check_adapters(cfg, trainer)
    topology = make_topology(cfg, trainer)
    schedule = make_schedule(cfg, trainer, topology)
    check_topology(cfg, trainer, topology, schedule, is_plain(strategy))
    if cfg.secure_aggregation == MASKS:
        check_masks(cfg, trainer, schedule)
    try_out(cfg, trainer, strategy)
    check_rule(cfg, trainer.rule, schedule, strategy)
    if cfg.ledger.signed:
        check_ledger(cfg, strategy, trainer.rule)
    if (privacy := getattr(strategy, "privacy", None)) is not None:
        check_privacy(cfg, trainer, schedule, privacy)
    spent = check_noise(cfg, trainer, schedule, strategy)
    strategy, schedule = topology.strategy(strategy), topology.schedule(schedule)
    return Experiment(cfg, store.folder, data, strategy, trainer, schedule, store.states, topology, spent)


def given(trainer: Trainer) -> Given:
    """What a server half may need for a part of the model of its own."""
    parts = trainer.seed, trainer.local, trainer.batch_size, trainer.task, trainer.data, trainer.partition
    return Given(*parts, model=trainer.flat.model, device=trainer.device)


def make_strategy(server: DictConfig) -> Strategy:
    return all_there(build(server, Strategy))


def all_there(strategy: Strategy) -> Strategy:
    """The strategy, which no longer waits for nodes to come."""
    for part in (strategy, getattr(strategy, "strategy", None)):  # the differential-privacy wrappers hold one inside
        for minimum in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
            if hasattr(part, minimum):
                setattr(part, minimum, 1)  # ours are all there
    return strategy


def _steps(trainer: Trainer) -> NDArray[np.int64]:
    """How many steps each client's turn is planned to take [num_clients]."""
    return trainer.algorithm.steps(trainer.partition.train_sizes, trainer.local)


def make_schedule(cfg: DictConfig, trainer: Trainer, topology: Topology) -> Schedule:
    seen = len(trainer.partition.ends)
    per_round = seen if cfg.clients_per_round == cfg.num_clients else cfg.clients_per_round
    channel, exchanges = trainer.channel, trainer.algorithm.planned(trainer.partition.train_sizes, trainer.local)
    for key in ("deadline_s", "traces"):
        wish = "must be null with this strategy: of a round's exchanges each waits for all"
        require(f"network.{key}", has := cfg.network.get(key), len(exchanges) == 1 or has is None, wish)
    down = np.array([[channel.planned(channel.down, exchange.down)] for exchange in exchanges])
    up = np.array([[channel.planned(channel.up, exchange.up)] for exchange in exchanges])
    down[0] += channel.bytes_down
    up[-1] += channel.bytes_up
    if cfg.secure_aggregation == MASKS:
        down[0] += masked.bytes_down(per_round)
        up[-1] = masked.bytes_up(per_round, trainer.layout.size)  # in place of the model
    costs = {"bytes_down": down * topology.copies, "bytes_up": up * topology.copies}
    steps = np.stack([exchange.steps for exchange in exchanges])
    network = build(cfg.network, Network, seed=cfg.seed, steps=steps, **costs)
    unseen = f", as partition.unseen={cfg.partition.unseen}" if cfg.partition.get("unseen") else ""
    wish = f"must not be more than the {seen} clients that train{unseen}; clients_per_round={seen} asks all"
    require("clients_per_round", per_round, per_round <= seen, wish)
    schedule = build(cfg.strategy.schedule, Schedule, network=network, clients_per_round=per_round)
    if cfg.min_clients > schedule.wanted:
        raise ConfigError(f"min_clients={cfg.min_clients}: a round has {schedule.wanted} answers with this strategy")
    return schedule


def make_fleet(experiment: Experiment, grid: Grid, together: int = 1, alone: bool = False) -> Fleet:
    """The clients behind the workers of a grid, which train so many `together`; or one `alone`, whom no mask hides."""
    cfg, trainer = experiment.cfg, experiment.trainer
    states, each = experiment.states, cfg.strategy.needs_each_client
    job = Job(str(experiment.data), str(states.folder), states.run, each, together, signed=cfg.ledger.signed)
    others = (0, len(trainer.unseen.ends))  # who are only evaluated
    homes, masks = getattr(grid, "homes", None), cfg.secure_aggregation == MASKS and not alone
    if masks and homes is not None:
        wish = "a site adds up its clients before it masks them; use engine.packing=true"
        require("engine.packing", cfg.engine.packing, cfg.engine.packing, wish)
        if len({owner for owner in homes.owners.tolist() if owner >= 0}) < 2:
            raise ConfigError("secure_aggregation=masks: one site alone is no sum; engine.sites must be 2 or more")
    loads = Loads(trainer.weighting.most, np.pad(_steps(trainer), others))
    return Fleet(grid, job, trainer.layout, loads, cfg.engine.packing, trainer.attack, trainer.rule, homes, masks)


def try_out(cfg: DictConfig, trainer: Trainer, strategy: Strategy) -> None:
    """Raise ConfigError for parts that do not fit together, before any round begins."""
    trainer.algorithm.suit(trainer.task)
    _metric_names(trainer)  # which refuses what the task does not declare
    check_augment(trainer)
    _say_what_stays(trainer)
    if cfg.model.init is not None and isinstance(trainer.task, Classifier):
        _say_other_classes(cfg.model.init, trainer)
    trainer.channel.up.suit(trainer.channel.down)
    if trainer.algorithm.bounded and not trainer.channel.up.lossless:
        raise ConfigError(
            "compression: may lengthen updates that clients have clipped for differential privacy; with a lossy one, "
            "let the server clip: strategy=dp_server_fixed or dp_server_adaptive"
        )
    if trainer.personal and trainer.algorithm.measures and not _learns(trainer, trainer.personal):
        raise ConfigError(
            f"strategy: the layers that it keeps at the clients, such as {min(trainer.personal)}, take no part in the "
            f"loss of task {type(trainer.task).__name__}; name others, for example as strategy.personal_layers=[...]"
        )
    check_batches_of_one(trainer)
    for number in (1, cfg.num_rounds):
        of_round(trainer.local, number)  # a function of the user's own may give no rate
    name = cfg.local.optimizer.get("name")
    if reason := NO_STEP.get(name):
        raise ConfigError(f"local.optimizer.name={name}: cannot take the steps of local training: {reason}")
    try:
        trainer.task.optimizer(trainer.flat.model, trainer.local)
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"local.optimizer={dict(cfg.local.optimizer)}: torch.optim says: {error}") from error
    if cfg.local.accumulate > 1 and type(trainer.task).step is not Task.step:
        why = f"task {type(trainer.task).__name__} has steps of its own, of whole batches; lower local.batch_size"
        raise ConfigError(f"local.accumulate={cfg.local.accumulate}: {why}")
    if cfg.local.precision == "bf16" and trainer.device == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("local.precision=bf16: this GPU does not have it; use float32")
    if cfg.targets:
        _check_metric("target_metric", cfg.target_metric, cfg, trainer)
    if cfg.early_stop.metric is not None:
        _check_metric("early_stop.metric", cfg.early_stop.metric, cfg, trainer)
    if cfg.local.lr_schedule == "cosine" and not cfg.local.lr_final and cfg.num_rounds > cfg.local.lr_horizon:
        note(f"local.lr_horizon={cfg.local.lr_horizon}: after these rounds nothing is learnt, as local.lr_final=0.0")
    for key, first in (
        ("data_drift.at", cfg.data_drift.get("at", 0)),
        ("attack.start_round", cfg.attack.get("start_round", 0)),
        ("local.lr_warmup", cfg.local.lr_warmup + 1),
    ):
        if 0 < cfg.num_rounds < first:
            note(f"{key}={OmegaConf.select(cfg, key)}: the run ends before, as num_rounds={cfg.num_rounds}")
    _check_evaluation(cfg, trainer)
    if wanted := getattr(strategy, "client_metrics", ()):
        if not cfg.evaluate.clients:
            raise ConfigError("evaluate.clients=false: this strategy aggregates clients' metrics and needs true")
        known = _metric_names(trainer)
        for name in wanted:
            if name not in known:
                raise ConfigError(f"strategy.metrics: clients do not report {name}; they report {', '.join(known)}")


def _metric_names(trainer: Trainer) -> list[str]:
    """What the task measures. Raises ConfigError where it does not declare it."""
    batch = trainer.task.gather(trainer.data.train, np.arange(1), trainer.device)
    names = list(trainer.task.score(trainer.flat.model.eval(), batch))
    trainer.task.declared(names)
    return names


def _learns(trainer: Trainer, names: set[str]) -> bool:
    """Whether the task's loss depends on any of these parameters."""
    model = trainer.flat.model.eval()
    loss, _ = trainer.task.objective(model, trainer.task.gather(trainer.data.train, np.arange(1), trainer.device))
    parameters = [p for name, p in model.named_parameters() if name in names and p.requires_grad]
    return any(part is not None for part in torch.autograd.grad(loss, parameters, allow_unused=True))


def validates(cfg: DictConfig) -> bool:
    """Whether there is something to choose by that is not the test set."""
    return bool(cfg.evaluate.clients if cfg.evaluate.validation == "clients" else cfg.evaluate.validation)


def _check_evaluation(cfg: DictConfig, trainer: Trainer) -> None:
    """Raise ConfigError where there is nothing to evaluate on, of what the config wants evaluated."""
    validation, heldout, unseen = cfg.evaluate.validation, trainer.partition.heldout_sizes, trainer.unseen
    if cfg.evaluate.clients and not heldout.any():
        raise ConfigError("evaluate.clients=true: no client holds out a sample; raise partition.holdout")
    if len(unseen.ends) and not unseen.heldout_sizes.any():
        wish = "none holds out a sample; raise partition.holdout"
        raise ConfigError(f"partition.unseen={cfg.partition.get('unseen')}: {wish}")
    if not validates(cfg):
        return
    if validation == "clients":
        wish = "no client holds out two samples; raise partition.holdout"
        require("evaluate.validation", validation, heldout.max() > 1, wish)
        return
    wish = f"is none of {trainer.data.num_samples} samples; raise it"
    require("evaluate.validation", validation, len(trainer.validation_rows) > 0, wish)
    wish = "the server has no whole model to validate, as layers stay with the clients; use evaluate.validation=clients"
    require("evaluate.validation", validation, not trainer.private, wish)


def _check_metric(key: str, metric: str, cfg: DictConfig, trainer: Trainer) -> None:
    """Raise ConfigError where the run does not measure what `key` names."""
    names = _metric_names(trainer)
    tested = names if trainer.test_batches else []
    known = [f"test_{name}" for name in (*tested, *trainer.measure(trainer.untrained()))]
    attacked = [f"attack_{found.name}" for found in trainer.attack.metrics]
    known += attacked if trainer.test_batches else []
    known += [f"client_{name}" for name in (*names, *attacked)] if cfg.evaluate.clients else []
    known += [f"validation_{name}" for name in names] if validates(cfg) else []
    known += [f"unseen_{name}" for name in names] if len(trainer.unseen.ends) else []
    if metric not in known:
        hint = "; for those of the clients add evaluate.clients=true" if metric.startswith("client_") else ""
        raise ConfigError(f"{key}={metric}: must be one of this run's {', '.join(known)}{hint}")


def train_together(engine: Engine, trainer: Trainer) -> int:
    """How many clients a worker trains as one program; a note says why it is one where the user wants more."""
    wish: Any = engine.vectorize
    if wish == "off":
        return 1
    model = trainer.flat.model
    linear = all(isinstance(model.get_submodule(name), nn.Linear) for name in layers(model))
    if not engine.packing:
        reason: str | None = "engine.packing=false sends a worker one"
    elif wish == "auto" and trainer.device == "cpu" and not linear:  # convolutions can take twice as long
        reason = "on a CPU only models of linear layers gain by it"
    else:
        reason = why_not(trainer)
    if reason:
        note(f"engine.vectorize={wish}: one client at a time: {reason}")
        return 1
    fits = max(2, MOST_STACKED // max(1, trainer.flat.layout.size))
    return min(AUTO, fits) if wish == "auto" else wish  # type: ignore[no-any-return]


def _say_what_stays(trainer: Trainer) -> None:
    """Say what does not begin from `model.init`, and where a strategy that keeps layers at the clients finds none to
    keep, or keeps them all.
    """
    if trainer.algorithm.private.__func__ is not LocalAlgorithm.private and not trainer.personal:  # type: ignore[attr-defined]
        note("the strategy finds no layer of this model to keep at the clients: it is the same as without")
    if trainer.untaken:
        note(f"model.init: {', '.join(trainer.untaken)}: as the seed makes them")
    if trainer.personal and trainer.algorithm.measures and not trainer.layout.size:
        note("the strategy keeps every layer of this model at the clients: they train alone")


def _say_other_classes(init: str, trainer: Trainer) -> None:
    """Say where the model begins with a head that a run has trained to tell other classes apart."""
    head = list(trainer.flat.model.state_dict())[-1]
    if head not in trainer.untaken and (differ := other_classes(init, trainer.data.classes)):
        new = f"'model.init_skip=[{head.rpartition('.')[0]}.*]' begins with a new head"
        note(f"model.init={init}: its classes are others, {differ[0]} where this data has {differ[1]}; {new}")
