"""Checks that any strategy can be put to: `fl-bench check strategy=NAME`.

A strategy's yaml says under `check` with which words it is FedAvg (`neutral`; `fedavg` are those that FedAvg then
needs), what its server half computes (`reference`), where its idea must show (`effect`), and which checks it cannot
satisfy, and why (`impossible`). `neutral` and `one_client` are of that setting, the others of the strategy as it is.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from fl_bench import rng
from fl_bench.build import call, find_target
from fl_bench.data.arrays import batches
from fl_bench.engines.base import Connect
from fl_bench.engines.inline import Inline
from fl_bench.engines.inline_grid import InlineGrid
from fl_bench.errors import ConfigError, in_one_line
from fl_bench.federation.local import PRIVATE, Trainer
from fl_bench.runs.kit import TELLING, Compose, Failed, Kit, Runs, Unfit, aggregations
from fl_bench.strategies.base import LocalAlgorithm
from fl_bench.strategies.layers import is_statistic
from fl_bench.strategies.turn import Turn

ROUNDING = 1e-6  # how far apart two models may be that differ by float32's rounding only
FAILS = 1  # the client that does, where one must
NORM = "model.norm=batch"
EVALUATED = ("evaluate.clients=true", "num_rounds=2")


def neutral(kit: Kit) -> str:
    """With its neutral setting it is FedAvg."""
    ours = kit.run(kit.compose(*kit.about["neutral"]))
    fedavg = kit.fedavg.run(kit.compose_fedavg(*kit.about["fedavg"]))
    return _same(_model(ours), _model(fedavg), "FedAvg's model")


def one_client(kit: Kit) -> str:
    """With its neutral setting and one client it is plain training."""
    ours = kit.run(kit.compose(*(kit.about["neutral"] or ()), "num_clients=1"))
    cfg = kit.compose_fedavg(*kit.about["fedavg"], "num_clients=1")
    trainer = Trainer(kit.fedavg.run(cfg).with_name("scratch") / "data")
    model, rows = trainer.flat.model.train(), trainer.partition.train_rows(0)
    count = cfg.local.steps or cfg.local.epochs * -(-len(rows) // cfg.local.batch_size)
    for round in range(1, cfg.num_rounds + 1):
        optimizer = trainer.task.optimizer(model, trainer.local)
        rng.seed_torch(cfg.seed, "torch", round)
        chances = trainer.augment.chances(cfg.seed, "batches", round, 0)
        for part in islice(batches(rows, cfg.local.batch_size, rng.generator(cfg.seed, "batches", round)), count):
            batch = trainer.examples(part, chances(len(part)), round)
            trainer.task.step(model, batch, optimizer, lambda: None)
    return _same(_model(ours), {k: t.cpu() for k, t in model.state_dict().items()}, "the model of a plain loop")


def order(kit: Kit) -> str:
    """Neither the order of the clients nor how they are grouped changes a bit."""
    one = kit.run(kit.compose(*EVALUATED))
    cfg = kit.compose(*EVALUATED, "engine.packing=false")
    other = kit.new_run(cfg, call(Backwards, cfg.engine))
    how = "when clients take their turns one by one, the last first"
    if different := [str(name) for name, _ in _contents(one).items() ^ _contents(other).items()]:
        raise Failed(f"{min(different)} differs {how}")
    return f"the same bytes {how}"


def dropped(kit: Kit) -> str:
    """A client that fails keeps the state that it had, and the others' work is what it would have been."""
    cfg = kit.compose(*EVALUATED)
    whole, before = kit.run(cfg), kit.run(kit.compose(*EVALUATED, "num_rounds=1"))
    half = OmegaConf.to_container(cfg.strategy.client, resolve=True)
    cfg.strategy.client = {"_target_": f"{__name__}.failing", "algorithm": half, "client": FAILS, "round": 2}
    failed = kit.run(cfg)
    tables = [pd.read_csv(folder / "clients.csv", dtype=str).query("round == '2'") for folder in (failed, whole)]
    clients, expected = (table.set_index("client") for table in tables)
    if clients.status.get(str(FAILS)) != "failed":
        raise Failed(f"client {FAILS} did not take part in round 2")
    trained = [name for name in map(str, expected) if not name.startswith("client_")]  # evaluated is the next model
    if not clients.drop(str(FAILS))[trained].equals(expected.drop(str(FAILS))[trained]):
        raise Failed("the other clients' rows are not what they were without the failure")
    states = [file.read_bytes() for folder in (failed, before) for file in (folder / "state" / str(FAILS)).glob("*")]
    if states and (len(states) != 2 or states[0] != states[1]):
        raise Failed("its state is not that of the round before")
    return "it keeps its state" if states else "it has no state to lose"


def statistics(kit: Kit) -> str:
    """What BatchNorm has counted is averaged, and never stepped as if it were weights."""
    rounds = aggregations(kit, *(() if kit.elsewhere else (NORM,)))
    names = [name for name in (rounds[0].made if rounds else ()) if is_statistic(name)]
    if not names:
        raise Unfit("no statistics of BatchNorm reach the server")
    for number, round in enumerate(rounds, 1):
        for name in names:
            clients = np.stack([model[name] for model in round.models])
            low, high = clients.min(axis=0) - ROUNDING, clients.max(axis=0) + ROUNDING
            if ((round.made[name] < low) | (round.made[name] > high)).any():
                raise Failed(f"round {number}: {name} is outside of what the clients have")
    return "BatchNorm's stay between those of the clients"


def reference(kit: Kit) -> str:
    """Round by round the new model is what `check.reference` makes of the clients' models, in float64."""
    name = kit.about["reference"]
    try:
        rule = find_target(OmegaConf.create({"_target_": name}))
    except ConfigError as error:
        raise Failed(f"check.reference={name}: names no function") from error
    state: dict[str, Any] = {}
    largest = 0.0
    for number, round in enumerate(aggregations(kit, "num_rounds=3"), 1):
        made = round.made
        state |= {"round": number, "sent": _flat(round.sent, made), "metrics": round.metrics}
        state["parameters"] = np.concatenate([np.full(made[n].size, not is_statistic(n)) for n in made])
        weights = np.array([metrics["num-examples"] for metrics in round.metrics], np.float64)
        models, ours = np.stack([_flat(model, made) for model in round.models]), _flat(made, made)
        try:
            expected = np.asarray(rule(models, weights, state), np.float64)
        except Exception as error:  # it is a user's
            raise Failed(f"round {number}: {name} raises {in_one_line(error)}") from error
        if expected.shape != ours.shape:
            raise Failed(f"round {number}: {name} returns {expected.shape}, not the new model {ours.shape}")
        apart = float(np.abs(expected - ours).max())
        if not apart <= ROUNDING:
            raise Failed(f"round {number}: up to {apart:.1e} from {name}")
        largest = max(largest, apart)
    return f"{name} but for {largest:.0e}"


def effect(kit: Kit) -> str:
    """Where its idea must show, it is on the right side of FedAvg."""
    about = kit.about["effect"]
    metric, words = about["metric"], about["where"]
    base = (*TELLING, *words)
    ours = kit.run(kit.compose(base=base))
    fedavg = kit.fedavg.run(kit.compose_fedavg(*about.get("fedavg", ()), base=base))
    values = [float(pd.read_csv(folder / "metrics.csv")[metric].iloc[-1]) for folder in (ours, fedavg)]
    text = f"{metric} {values[0]:.4f}, FedAvg's {values[1]:.4f}"
    if not {"above": values[0] > values[1], "below": values[0] < values[1]}[about["is"]]:
        raise Failed(f"{text}, with {' '.join(words) or 'the usual words'}: it should be {about['is']}")
    return text


CHECKS: dict[str, Callable[[Kit], str]] = {
    f.__name__: f for f in (neutral, one_client, order, dropped, statistics, reference, effect)
}


def check(strategy: str, compose: Compose, words: Sequence[str], scratch: Path) -> Iterator[tuple[str, str, str]]:
    """For each check its name, "ok", "FAILED" or "-" (it cannot be satisfied, or there is nothing to), and a text.

    The runs of FedAvg stay in `scratch`, as the next strategy is compared with them too.
    """
    with TemporaryDirectory(dir=scratch) as folder:
        kit = Kit(strategy, compose, words, Path(folder), Runs(scratch))
        for name, function in CHECKS.items():
            if reason := kit.about["impossible"].get(name):
                yield name, "-", reason
            elif name == "effect" and kit.elsewhere:
                yield name, "-", "it is known for the task that its yaml names only"
            elif kit.about.get(name, ()) is None:
                yield name, "-", f"its yaml has no check.{name}"
            else:
                try:
                    yield name, "ok", function(kit)
                except Failed as error:
                    yield name, "FAILED", str(error)
                except Unfit as error:
                    yield name, "-", str(error)


class BackwardsGrid(InlineGrid):
    def order(self, message_ids: Iterable[str]) -> list[str]:
        return super().order(message_ids)[::-1]


class Backwards(Inline):
    """The inline engine with the last message first."""

    @contextlib.contextmanager
    def workers(self, scratch: Path) -> Iterator[Connect]:
        yield BackwardsGrid


def failing(algorithm: LocalAlgorithm, client: int, round: int) -> LocalAlgorithm:
    """A client half that fails for one client in one round, when all its work is done."""
    whole = algorithm.finish

    def finish(turn: Turn) -> None:
        whole(turn)
        if (turn.client, turn.round) == (client, round):
            raise RuntimeError("as the check wants it")

    algorithm.finish = finish  # type: ignore[method-assign]
    return algorithm


def _model(folder: Path) -> dict[str, Tensor]:
    """The final model of a run; where layers stay with the clients, those of client 0."""
    mine = {
        name.removeprefix(PRIVATE): tensor
        for file in (folder / "state" / "0").glob("*")
        for name, tensor in load_file(file).items()
        if name.startswith(PRIVATE)
    }
    return load_file(folder / "model.safetensors") | mine


def _flat(tensors: Mapping[str, NDArray], names: Iterable[str]) -> NDArray:
    return np.concatenate([tensors[name].ravel() for name in names])


def _same(a: dict[str, Tensor], b: dict[str, Tensor], whose: str) -> str:
    if a.keys() != b.keys():
        raise Failed(f"{', '.join(sorted(a.keys() ^ b.keys()))} is not in both this and {whose}")
    numbers = [name for name in a if a[name].is_floating_point()]  # not the counters of BatchNorm, which do not travel
    largest = max(float((a[name].double() - b[name].double()).abs().max()) for name in numbers)
    if not largest <= ROUNDING:
        raise Failed(f"up to {largest:.1e} from {whose}")
    return f"{whose} {f'but for {largest:.0e}' if largest else 'to the bit'}"


def _contents(folder: Path) -> dict[Path, bytes]:
    """The files that must not depend on anything but the config and the seed."""
    files = (file for kind in ("*.csv", "*.safetensors") for file in folder.rglob(kind) if file.name != "timing.csv")
    return {file.relative_to(folder): file.read_bytes() for file in files}
