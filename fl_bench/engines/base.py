"""What an engine is: it gives the server a Grid whose nodes run our ClientApp."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fl_bench.build import nearest
from fl_bench.config.rules import is_number, require, require_seconds
from fl_bench.errors import ConfigError, RunError
from fl_bench.machine import address_space, num_cpus

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fl_bench.deployment.told import Told
    from fl_bench.ledger.signers import Signers
    from fl_bench.storage.states import ClientStates

Connect = Callable[[], "Grid"]
MOST_THREADS = 256
RESOURCES = ("num_cpus", "num_gpus")
SHORT = "short"  # a link in a run's temporary folder, where its path is too long for sockets


@dataclass
class Engine(ABC):
    """Built from the config node `engine`, whose keys are the fields; an engine adds fields for keys of its own.

    It is built before anything heavy is imported, and before the process of the run is forked: a module with an
    engine imports torch, Flower and what else it needs in `workers`. The config is never changed; what an engine
    decides (a share of a GPU, fewer workers) stays in `resources`.

    >>> from fl_bench.engines.inline import Inline
    >>> engine = Inline(1, True, "off", None, client_resources={"num_cpus": 1, "num_gpus": "auto"})
    >>> engine.own_process, engine.restarts, engine.resources["num_gpus"]
    (False, 0, 'auto')
    """

    threads: int  # of torch, in every process
    packing: bool  # one message a worker, not one a client
    vectorize: Any  # how many clients to train as one program, "auto" or "off"
    client_timeout_s: float | None
    client_resources: Mapping[str, Any]  # of a worker: num_cpus, and num_gpus, a number or "auto"

    own_process: ClassVar[bool] = False  # whether the run has a process of its own, which is watched
    mapped_bytes: ClassVar[float] = 4e9  # of address space, at least; torch alone maps most of it

    def __post_init__(self) -> None:
        if (limit := address_space()) < self.mapped_bytes:
            raise RunError(
                f"ulimit -v {limit / 1024:.0f}: is too little for torch, which maps more than it uses; "
                f"{self.mapped_bytes / 1024:.0f} or unlimited would do"
            )
        self.resources = dict(self.client_resources)
        most = max(MOST_THREADS, 4 * num_cpus())  # a run of a larger machine may go on here
        require("engine.threads", self.threads, 1 <= self.threads <= most, f"must be from 1 to {most}")
        wanted = self.vectorize
        stacks = wanted in ("auto", "off") or (isinstance(wanted, int) and wanted >= 2)
        require("engine.vectorize", wanted, stacks, "must be auto, off, or a number of clients from 2")
        require_seconds("engine.client_timeout_s", self.client_timeout_s)
        self._require_resources()

    @property
    def elsewhere(self) -> bool:
        """Whether the workers may be on other machines, whose resources are not known here."""
        return False

    @property
    def restarts(self) -> int:
        """How often the process of a run is started again when it has died or hangs."""
        return 0

    @property
    def patience_s(self) -> float | None:
        """The seconds without the end of a round after which the process of a run hangs; None: never."""
        return None

    def place(self, scratch: Path) -> Path:
        """Where the prepared data lies: a new folder that all workers can read, below the run's temporary one."""
        folder = scratch / "data"
        folder.mkdir()
        return folder

    def states(self, register: "ClientStates") -> "ClientStates":
        """Where the server looks for what clients keep: in its own files, as given, unless the engine knows better."""
        return register

    def ask(self, data: Path) -> "Told | None":
        """What the sites say of training rows that only they have, once there are workers; None where none are sites.

        `data` has what they must know to answer: the config, and what the model begins from.
        """
        return None

    def signers(self, seed: int, num_clients: int) -> "Signers":
        """Who signs in the ledger of a run of so many clients, once there are workers: all by the seed, as they are
        simulated, unless they are sites with keys of their own.
        """
        from fl_bench.ledger.signers import Signers

        return Signers.of_seed(seed, num_clients)

    @abstractmethod
    def workers(self, scratch: Path) -> AbstractContextManager[Connect]:
        """Start the workers; what the context gives waits for them, and returns the Grid."""

    def shrink(self) -> None:
        """Let there be fewer workers: somebody had no memory."""

    def _require_resources(self) -> None:
        key = "engine.client_resources"
        if unknown := self.resources.keys() - RESOURCES:
            raise ConfigError(f"{key}.{min(unknown)}: unknown key; {nearest(min(unknown), RESOURCES)}")
        if missing := [name for name in RESOURCES if name not in self.resources]:
            raise ConfigError(f"{key}: needs {missing[0]}")
        cpus, gpus = (self.resources[name] for name in RESOURCES)
        most = float("inf") if self.elsewhere else num_cpus()
        wish = f"must be more than 0 and, on this machine, at most its {num_cpus()} CPUs"
        require(f"{key}.num_cpus", cpus, is_number(cpus) and 0 < cpus <= most, wish)
        shared = gpus == "auto" or (is_number(gpus) and 0 <= gpus < float("inf"))
        require(f"{key}.num_gpus", gpus, shared, "must be a number from 0, or auto")
