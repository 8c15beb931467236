"""Whether a run with differential privacy keeps what its epsilon says, and one with masks hides what it should."""

from bisect import bisect

import numpy as np
from omegaconf import DictConfig

from fl_bench.attacks.base import Knows
from fl_bench.config.rules import COUNT, require
from fl_bench.errors import ConfigError, note
from fl_bench.federation.local import Trainer
from fl_bench.network.poisson import Poisson
from fl_bench.network.schedule import Schedule
from fl_bench.strategies.accountant import WEAK, Privacy
from fl_bench.strategies.layers import is_statistic


def check_masks(cfg: DictConfig, trainer: Trainer, schedule: Schedule) -> None:
    """Raise ConfigError for what needs to know more than the sum of all."""
    each, chosen = cfg.strategy.needs_each_client, type(schedule).learn is not Schedule.learn
    colluding = trainer.attack.knows is not Knows.OWN and len(trainer.attack.malicious) > 0
    alone, strangers = schedule.wanted < 2, len(trainer.unseen.ends) > 0
    for unfit, what in (
        (each, "strategy: its server half needs each client's model"),
        (chosen, "strategy: it asks clients by their losses"),
        (cfg.evaluate.clients, "evaluate.clients=true: its columns say how clients differ"),
        (colluding, "attack: its clients make their updates of those of each other"),
        (strangers, f"partition.unseen={cfg.partition.get('unseen')}: those clients say their metrics one by one"),
        (alone, f"clients_per_round={schedule.wanted}: one client alone is no sum"),
    ):
        if unfit:
            raise ConfigError(f"{what}, which secure_aggregation=masks hides; use another, or secure_aggregation=none")
    if trainer.weighting.hidden:
        _check_hidden_sizes(cfg, trainer, schedule)
    if not trainer.channel.up.lossless:
        note("compression: masked updates are as long as without it, 8 bytes a number")


def _check_hidden_sizes(cfg: DictConfig, trainer: Trainer, schedule: Schedule) -> None:
    """Raise ConfigError for what needs to know how many rows a client has, where only its site does."""
    if cfg.max_examples is None and not trainer.weighting.uniform:
        wish = "must be a number that all keep to; or use weighting=uniform"
        raise ConfigError(f"max_examples=null: only its site knows how many rows a client has; {wish}")
    steps = trainer.algorithm.steps(np.array([1, cfg.max_examples or COUNT]), trainer.local)
    wish = "only its site knows how many rows a client has, and so its steps; use local.steps, or network=ideal"
    timeless = not schedule.network.devices.seconds_per_step.any() or steps[0] == steps[1]
    require("network.seconds_per_step", cfg.network.seconds_per_step, timeless, wish)


def check_privacy(cfg: DictConfig, trainer: Trainer, schedule: Schedule, privacy: Privacy) -> None:
    """Say what epsilon the run will have; raises ConfigError where it would not be true."""
    drawn = Poisson if privacy.sampling == "poisson" else Schedule
    network = cfg.network
    require(
        "model.norm",
        "batch",
        not any(map(is_statistic, trainer.flat.layout.shapes)),
        "BatchNorm's statistics would leave the clients without noise; add model.norm=group",
    )
    require(
        "min_clients",
        cfg.min_clients,
        cfg.min_clients == 1,
        "with differential privacy a round makes a model whoever answers; must be 1",
    )
    require(
        "strategy.schedule",
        cfg.strategy.schedule._target_,
        type(schedule) is drawn,
        f"epsilon is for cohorts drawn as strategy.sampling={privacy.sampling} says",
    )
    require(
        "network.over_select",
        network.over_select,
        network.over_select == 1,
        "who is late would depend on the others, for which epsilon does not account; must be 1",
    )
    require(
        "network.traces",
        network.traces,
        network.traces is None,
        "epsilon is for cohorts drawn from all clients, not from those who can be reached; must be null",
    )
    require(
        "partition.unseen",
        cfg.partition.get("unseen"),
        not len(trainer.unseen.ends),
        "epsilon is for cohorts drawn from all num_clients; must be 0",
    )
    last = bisect(range(1, cfg.num_rounds + 1), False, key=lambda round: not privacy.lasts(round))
    spent = privacy.epsilon(last)
    weak = ": no privacy; experiment=private has some" if spent > WEAK else ""
    note(f"epsilon is {spent:,.4g} for delta {privacy.target_delta:g} after {last} rounds{weak}")
    note("it covers the model, for who does not know the seed; losses in clients.csv and metrics.csv are as they are")
