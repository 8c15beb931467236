"""What a check of a strategy stands on: small runs, each in a folder of its own, and what their rounds were made of."""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from fl_bench.build import build
from fl_bench.config import rules
from fl_bench.engines.base import Engine
from fl_bench.errors import ConfigError, FlBenchError, in_one_line
from fl_bench.federation.rounds import Experiment
from fl_bench.observers.recorder import Recorder
from fl_bench.robust.base import Rule
from fl_bench.runs.execute import run
from fl_bench.storage.buffers import arrays_in
from fl_bench.storage.checkpoint import Store

Compose = Callable[[Sequence[str]], DictConfig]  # from words of the command line to the config

PLAIN = ("engine=inline", "figures=false", "checkpoint.every=0")
SMALL = (*PLAIN, "num_clients=5", "partition=linear", "num_rounds=2", "local.steps=2")  # of unequal clients
DATA = ("task=cifar", "data=synthetic", "data.num_samples=200")  # unless the user names another task or data
TELLING = (*PLAIN, "task=mnist", "partition=pathological", "evaluate.clients=true", "num_rounds=5")


class Failed(Exception):
    """A check that did not hold: the message says what was found."""


class Unfit(Exception):
    """A check that cannot be made, since the strategy does not fit the task or the data."""


class Runs:
    """Small runs below `folder`, each in one of its own, and those of a config only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, cfg: DictConfig) -> Path:
        """The folder of the run with this config; that of its data is beside it."""
        link = self.folder / hashlib.sha256(OmegaConf.to_yaml(cfg, resolve=True).encode()).hexdigest()
        if not link.exists():
            link.symlink_to(self.new_run(cfg).parent)
        return link.resolve() / "run"

    def new_run(
        self, cfg: DictConfig, engine: Engine | None = None, watch: Callable[[Experiment], None] = lambda made: None
    ) -> Path:
        """The same, made again: on this engine, watched."""

        def observe(made: Experiment) -> list[Recorder]:
            watch(made)
            return [Recorder(store.tables)]

        home = Path(tempfile.mkdtemp(dir=self.folder))
        folder, scratch = home / "run", home / "scratch"
        folder.mkdir()
        scratch.mkdir()
        store = Store(folder, 0)
        try:
            engine = engine or build(cfg.engine, Engine)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run(cfg, engine, scratch, store, None, observe)
        except ConfigError as error:
            raise Unfit(str(error)) from error
        except Exception as error:
            raise Failed(str(error) if isinstance(error, FlBenchError) else in_one_line(error)) from error
        return folder


class Kit(Runs):
    """One strategy, and the runs that its checks need; `fedavg` has those that it is compared with."""

    def __init__(self, strategy: str, compose: Compose, words: Sequence[str], folder: Path, fedavg: Runs) -> None:
        super().__init__(folder)
        self.strategy, self.words, self.fedavg = strategy, words, fedavg
        self.elsewhere = any(word.startswith(("task=", "data=")) for word in words)
        self.small = SMALL if self.elsewhere else (*SMALL, *DATA)
        self._compose = compose
        self.about: dict[str, Any] = OmegaConf.to_container(compose([f"strategy={strategy}"]).strategy.check)  # type: ignore[assignment]

    def compose(self, *words: str, base: Sequence[str] = ()) -> DictConfig:
        """The config of a run of this strategy."""
        return self._checked([f"strategy={self.strategy}", *(base or self.small), *self.words, *words])

    def compose_fedavg(self, *words: str, base: Sequence[str] = ()) -> DictConfig:
        """The same for FedAvg, which leaves out what only this strategy knows."""
        known = [word for word in (*(base or self.small), *self.words, *words) if not word.startswith("strategy.")]
        return self._checked(["strategy=fedavg", *known])

    def _checked(self, words: Sequence[str]) -> DictConfig:
        cfg = self._compose(words)
        rules.validate(cfg)
        return cfg


@dataclass(frozen=True)
class Aggregation:
    """What a server half was given in a round, and what it has made of it; tensors by name."""

    sent: Mapping[str, NDArray]
    models: Sequence[Mapping[str, NDArray]]  # of the clients, in their order
    metrics: Sequence[Mapping[str, Any]]  # what each client has said beside its model
    made: Mapping[str, NDArray]


def aggregations(kit: Kit, *words: str) -> list[Aggregation]:
    """Those of a run in which the server half is given each client's model, or with a rule only one."""
    cfg = kit.compose(*words)
    cfg.strategy.needs_each_client = not build(cfg.robust, Rule, seed=cfg.seed).only_mean
    found: list[Aggregation] = []

    def watch(made: Experiment) -> None:
        strategy = made.strategy
        configure, aggregate = strategy.configure_train, strategy.aggregate_train
        sent: list[ArrayRecord] = []

        def configured(server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
            sent.append(arrays)
            return configure(server_round, arrays, config, grid)

        def aggregated(server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
            replies = list(replies)
            contents = [reply.content for reply in replies if not reply.has_error()]
            models = [_tensors(arrays_in(content)) for content in contents]
            metrics = [dict(next(iter(content.metric_records.values()))) for content in contents]
            record, said = aggregate(server_round, replies)
            if record is not None:
                found.append(Aggregation(_tensors(sent[-1]), models, metrics, _tensors(record)))
            return record, said

        strategy.configure_train, strategy.aggregate_train = configured, aggregated  # type: ignore[method-assign]

    kit.new_run(cfg, watch=watch)
    return found


def _tensors(record: ArrayRecord) -> dict[str, NDArray]:
    return {name: np.array(array.numpy(), np.float64) for name, array in record.items()}
