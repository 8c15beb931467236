"""Whether a run with differential privacy keeps what its epsilon says, and one with masks hides what it should."""

from bisect import bisect

import numpy as np
from flwr.serverapp.strategy import Strategy
from omegaconf import DictConfig

from fl_bench.attacks.base import Knows
from fl_bench.config.rules import COUNT, require
from fl_bench.data.drift import Drift
from fl_bench.errors import ConfigError, note
from fl_bench.federation.local import Trainer
from fl_bench.network.poisson import Poisson
from fl_bench.network.schedule import Schedule
from fl_bench.privacy.base import Noise
from fl_bench.privacy.spent import Spent
from fl_bench.robust.base import Rule
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
        (trainer.rule.each, "robust: it looks at each client's update"),
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
    if type(trainer.rule) is not Rule or trainer.rule.each:
        raise ConfigError("robust: epsilon is for a plain mean; use robust=none and robust/before=none")
    drawn = Poisson if privacy.sampling == "poisson" else Schedule
    network = cfg.network
    _check_statistics(trainer)
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


def check_noise(cfg: DictConfig, trainer: Trainer, schedule: Schedule, strategy: Strategy) -> Spent | None:
    """What counts what clients tell under the noise of `privacy`; None where they add none.

    Raises ConfigError where they would tell more, or the noise cannot be added. Says what epsilon the run will have.
    """
    noise, algorithm, up = trainer.privacy, type(trainer.algorithm), trainer.channel.up
    if not isinstance(noise, Noise):
        return None
    by_example, sizes = noise.level == "example", trainer.partition.train_sizes
    covered = vars(algorithm).get("protected_by", ())
    other = "local" if "local" in covered else "none"
    for unfit, what in (
        (getattr(strategy, "privacy", None) is not None, "strategy: it adds noise of its own; use privacy=none"),
        (
            noise.level not in covered,
            f"strategy: privacy={noise.level} does not cover all that {algorithm.__name__} sends; use privacy={other}",
        ),
        (
            getattr(strategy, "reads_losses", False) or type(schedule).learn is not Schedule.learn,
            "strategy: its server goes by the clients' losses, which have no noise; use privacy=none",
        ),
        (up.reads_loss, "compression: it goes by the clients' losses, which have no noise; use another"),
        (
            by_example and trainer.weighting.hidden,
            "privacy=example: only its site knows how many rows a client has, and so its epsilon; use privacy=local",
        ),
        (
            by_example and type(trainer.drift) is not Drift,
            "data_drift: changes a client's rows, and epsilon is for the same ones; use data_drift=none",
        ),
        (
            by_example and cfg.local.precision != "float32",
            f"local.precision={cfg.local.precision}: examples are taken one by one in float32 only",
        ),
        (
            by_example and noise.delta * sizes.max() >= 1,
            f"privacy.delta={noise.delta}: must be well below 1 / {sizes.max()}, the share of one of a client's rows",
        ),
    ):
        if unfit:
            raise ConfigError(what)
    few = np.arange(min(8, trainer.data.num_samples))
    noise.suit(trainer.task, trainer.flat.model, trainer.task.gather(trainer.data.train, few, trainer.device))
    _check_statistics(trainer)
    others = (0, len(trainer.unseen.ends))  # who are only evaluated
    steps = trainer.algorithm.steps(sizes, trainer.local)
    spent = Spent(noise, np.pad(sizes, others), np.pad(steps, others), cfg.local.batch_size)
    epsilon, client = spent.worst(cfg.num_rounds)
    weak = ": no privacy; raise privacy.noise_multiplier" if epsilon > WEAK else ""
    whose = f"client {client}, which has {sizes[client]} rows" if by_example else "a client"
    turns = f"{cfg.num_rounds} turns of {whose}"
    note(f"epsilon is {epsilon:,.4g} for delta {noise.delta:g} after {turns}{weak}")
    note("it covers the clients' updates, for who does not know the seed; losses and metrics are as they are")
    return spent


def _check_statistics(trainer: Trainer) -> None:
    """Raise ConfigError where BatchNorm's statistics travel."""
    statistics = any(map(is_statistic, trainer.flat.layout.shapes))
    wish = "BatchNorm's statistics would leave the clients without noise; add model.norm=group"
    require("model.norm", "batch", not statistics, wish)
