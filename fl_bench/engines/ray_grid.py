"""The Grid of the simulation, and the only place that imports Flower's simulation runtime.

The workers are the actors of Flower's simulation. Its own loop around them is not used: it hands out messages every
0.1 s, sends each client's its own copy of the model, and fails for ever when a worker dies.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import flwr
import ray
import torch
from flwr.app import ArrayRecord, Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from ray import ObjectRef
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fl_bench.engines.cluster import connect as connect_ray
from fl_bench.engines.grid import OneRun, context
from fl_bench.errors import ConfigError, RunError, WorkerDied
from fl_bench.federation.collect import collect
from fl_bench.federation.exchange import Trouble
from fl_bench.machine import package

PULL_SECONDS = 0.1  # between two looks for Ctrl-C


@contextmanager
def start(kind: type["RayGrid"], resources: Mapping[str, float], address: str | None) -> Iterator[Callable[[], Grid]]:
    """Start as many workers as the resources of each allow; what this yields waits for them and gives the Grid.

    From then on Ctrl-C and SIGTERM raise KeyboardInterrupt where the Grid is asked for answers, and nowhere else, so
    that files are whole.
    """
    with ExitStack() as end:
        end.callback(ray.shutdown)
        connect_ray(address, torch.cuda.device_count())
        wanted = {name: float(value) for name, value in resources.items()}
        actor, workers = _flowers_actor(), {}
        for node, place in enumerate(_places(resources), start=1):
            there = NodeAffinitySchedulingStrategy(place.machine, soft=False)
            workers[node] = Worker(actor.options(**wanted, scheduling_strategy=there).remote(), place)
        grid = kind(workers)
        end.callback(grid.close)
        warm_up = grid.push_messages(Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids())

        def connect() -> Grid:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: grid.stop.set())
            for reply in collect(grid, warm_up):
                if reply.has_error():
                    text, code = f"a worker could not start: {reply.error.reason}", reply.error.code
                    died = code in (Trouble.WORKER_DIED, Trouble.WORKER_OUT_OF_MEMORY)
                    raise WorkerDied(text, code == Trouble.WORKER_OUT_OF_MEMORY) if died else RunError(text)
            return grid

        yield connect


class Place(NamedTuple):
    """A machine of the cluster."""

    machine: str  # its id in Ray
    host: str  # its name


class Worker(NamedTuple):
    """An actor of Flower's simulation, and where it is."""

    actor: Any
    place: Place


class RayGrid(OneRun):
    """A Grid whose nodes are workers, each an actor in a process of its own."""

    def __init__(self, workers: Mapping[int, Worker]) -> None:
        super().__init__()
        self.workers = workers
        self.stop = threading.Event()
        self._running: dict[str, tuple[Message, ObjectRef]] = {}
        self._lent: dict[int, tuple[ArrayRecord, Lent]] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.workers)

    def push(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        if not self._running:  # what was lent in the last exchange may have changed
            self._lent.clear()
        for name, arrays in message.content.array_records.items():
            message.content[name] = self._lend(arrays)
        future = self.workers[node].actor.run.remote(self.app(message), message, str(node), context(node))
        self._running[message.metadata.message_id] = (message, future)

    def app(self, message: Message) -> Callable[[], Callable[[Message, Context], Message]]:
        """What gives a worker the app for this message."""
        return partial(app_of, package())

    def close(self) -> None:
        """The workers are about to end."""

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Those of the replies that are there, or come within a moment."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        by_future = {self._running[message_id][1]: message_id for message_id in message_ids}
        done, _ = ray.wait(list(by_future), num_returns=len(by_future), timeout=PULL_SECONDS)
        return [self.receive(*self._running.pop(by_future[future])) for future in done]

    def _lend(self, arrays: ArrayRecord) -> "Lent":
        """The record in shared memory, once for all the messages of an exchange."""
        if id(arrays) not in self._lent:
            self._lent[id(arrays)] = (arrays, Lent(ray.put(arrays)))
        return self._lent[id(arrays)][1]

    def receive(self, message: Message, future: ObjectRef) -> Message:
        """The answer to a message, or the error that says why there is none."""
        try:
            reply: Message = ray.get(future)[1]
        except ray.exceptions.RayTaskError as error:
            reply = Message(Error(Trouble.WORKER_FAILED, f"failed: {reason(error)}"), reply_to=message)
        except ray.exceptions.OutOfMemoryError as error:
            reply = Message(Error(Trouble.WORKER_OUT_OF_MEMORY, f"died: {error}"), reply_to=message)
        except ray.exceptions.RayError as error:
            reply = Message(Error(Trouble.WORKER_DIED, f"died: {error}"), reply_to=message)
        return reply


def reason(error: ray.exceptions.RayTaskError) -> str:
    """What was raised in a worker, without what Flower puts before it, twice, and Ray behind it."""
    return str(error.cause).rpartition("Exception ClientAppException occurred. Message: ")[2].split("\ntraceback:")[0]


class Lent(ArrayRecord):
    """An ArrayRecord in Ray's shared memory: pickled as a reference, unpickled as the record itself."""

    def __init__(self, reference: ObjectRef) -> None:
        super().__init__()
        self.reference = reference

    def __reduce__(self) -> tuple[Callable[[ObjectRef], Any], tuple[ObjectRef]]:
        return ray.get, (self.reference,)


def app_of(commands: tuple[str, str]) -> Callable[[Message, Context], Message]:
    """What a worker runs, once its package is known to be the command's."""
    from fl_bench.federation.client import app

    ours = package()
    if ours[0] == commands[0]:
        return app
    why = f"its fl-bench is {' in '.join(ours)}, and that of the command is {' in '.join(commands)}"
    return lambda message, context: Message(Error(Trouble.WORKER_FAILED, why), reply_to=message)


def _flowers_actor() -> Any:
    """The actor class of Flower's simulation: flwr.simulation.ray_transport.ray_actor.ClientAppActor.

    From its file: the package around it imports databases and web servers, for a second here and in every worker.
    """
    file = Path(str(flwr.__file__)).parent / "simulation" / "ray_transport" / "ray_actor.py"
    return run_path(str(file))["ClientAppActor"]


def _places(resources: Mapping[str, float]) -> list[Place]:
    """The places of as many workers as fit. A share of a GPU is of one GPU, and Ray counts in ten thousandths."""
    cpus, gpus = resources["num_cpus"], resources["num_gpus"]

    def fit(machine: dict[str, float]) -> int:
        by_cpu, has = int(machine.get("CPU", 0) / cpus), machine.get("GPU", 0)
        if not gpus:
            return by_cpu
        return min(by_cpu, int(has) * int(1 / gpus + 1e-6) if gpus < 1 else int(has / gpus))

    alive = [node for node in ray.nodes() if node["Alive"] and _listens(node)]
    found = [(Place(node["NodeID"], node["NodeManagerHostname"]), fit(node["Resources"])) for node in alive]
    places = [place for place, count in found for _ in range(count)]
    if not places:
        raise ConfigError(f"engine.client_resources={dict(resources)}: no machine has that much")
    return places


def _listens(node: Mapping[str, Any]) -> bool:
    """Whether a machine is there: of one that has died Ray knows only after half a minute, and workers would wait."""
    with suppress(OSError):
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=3).close()
        return True
    return False
