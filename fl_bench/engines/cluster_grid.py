"""The Grid over machines that need share no disk.

The driver asks each worker once whether it sees the folders of the run. A machine that does not see the data is sent
it, in pieces, and keeps it in a temporary folder of its own. A worker that does not write into the driver's very folder
is sent, with each message, the files of what its clients keep, and sends back those that it has written: the driver
writes them, as that worker would have.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NamedTuple

import numpy as np
import ray
from flwr.app import Context, Error, Message, MessageType, RecordDict
from numpy.typing import NDArray
from ray import ObjectRef

from fl_bench.engines.ray_grid import PULL_SECONDS, RayGrid, Worker, app_of, reason
from fl_bench.errors import RunError, WorkerDied, disk_trouble
from fl_bench.federation.exchange import RECORD, STATES, Job, Trouble
from fl_bench.federation.parts import CONFIG
from fl_bench.machine import identity, package
from fl_bench.storage.buffers import contents, to_record
from fl_bench.storage.files import naming, write
from fl_bench.storage.states import ClientStates, Files
from fl_bench.storage.temporary import locked_folder, remove_left

PIECE = 2**26  # bytes of data that travel at once, through Ray's shared memory
GRACE_SECONDS = 10  # for the workers to remove their machines' folders
Piece = NDArray[np.uint8]

_held = ExitStack()  # in a worker: the temporary folder of its machine, if it is the one that has made it


class View(NamedTuple):
    """What a worker sees."""

    data: bool  # the folder of the data, which nobody changes
    states: bool  # the folder of the run, and what others have just written there


class ClusterGrid(RayGrid):
    """A Grid whose workers may be on several machines."""

    def __init__(self, workers: Mapping[int, Worker]) -> None:
        super().__init__(workers)
        self._views: dict[int, View] = {}  # by worker, once there has been a job
        self._hosts: dict[str, tuple[int, str]] = {}  # by machine that was sent the data: a worker there, and where

    def push(self, message: Message) -> None:
        if RECORD in message.content:
            job, node = Job.of(message), message.metadata.dst_node_id
            if not self._views:
                run = Path(job.states).parent  # which is there before anybody keeps anything
                look = partial(_look, job.folder, str(run), identity(run))
                self._views = self._ask(dict.fromkeys(self.workers, look))
                self._send_data(Path(job.folder))
            if host := self._hosts.get(self.workers[node].place.machine):
                message.content.update(job.beside(RecordDict(), folder=host[1]))
        super().push(message)

    def app(self, message: Message) -> Callable[[], Callable[[Message, Context], Message]]:
        if RECORD not in message.content or self._views[message.metadata.dst_node_id].states:
            return super().app(message)
        job = Job.of(message)
        before = job.round + (message.metadata.message_type == MessageType.EVALUATE)
        return partial(_carrying, package(), _states(job).pack(job.clients, before))

    def receive(self, message: Message, future: ObjectRef) -> Message:
        reply = super().receive(message, future)
        if reply.has_error():
            host = self.workers[message.metadata.dst_node_id].place.host
            reply = Message(Error(reply.error.code, f"on {host} {reply.error.reason}"), reply_to=message)
        if reply.has_content() and STATES in reply.content:
            files = reply.content.array_records[STATES]
            _states(Job.of(message)).unpack({name: contents(array) for name, array in files.items()}, write)
        return reply

    def close(self) -> None:
        told = [self._tell(node, _remove) for node, _ in self._hosts.values()]
        if told:
            ray.wait(told, num_returns=len(told), timeout=GRACE_SECONDS)

    def _send_data(self, folder: Path) -> None:
        """Let each machine that does not see the data have it."""
        without = {self.workers[node].place.machine: node for node, view in self._views.items() if not view.data}
        if not without:
            return
        made = self._ask(dict.fromkeys(without.values(), _make))
        self._hosts = {machine: (node, made[node]) for machine, node in without.items()}
        parts = os.walk(folder, followlinks=True)  # a model lies behind a link
        for file in sorted(Path(part, name) for part, _, names in parts for name in names):
            name = str(file.relative_to(folder))
            for piece in _pieces(file):
                self._ask({node: partial(_append, there, name) for node, there in made.items()}, ray.put(piece))

    def _tell(self, node: int, function: Callable[..., Any], given: Any = None) -> ObjectRef:
        """Have a worker call a function of this module with what is given."""
        future: ObjectRef = self.workers[node].actor.run.remote(partial(partial, function), given, str(node), None)
        return future

    def _ask(self, functions: dict[int, Callable[..., Any]], given: Any = None) -> dict[int, Any]:
        """What these workers answer, all at once."""
        asked = {self._tell(node, function, given): node for node, function in functions.items()}
        waiting = list(asked)
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=PULL_SECONDS)
            if self.stop.is_set():
                raise KeyboardInterrupt
        answers = {}
        for future, node in asked.items():
            where = self.workers[node].place.host
            try:
                answers[node] = ray.get(future)[1]
            except ray.exceptions.RayTaskError as error:
                raise RunError(f"engine.ray: {where} cannot have the data: {reason(error)}") from error
            except ray.exceptions.RayError as error:
                raise WorkerDied(f"engine.ray: on {where} a worker died: {error}", False) from error
        return answers


def _pieces(file: Path) -> Iterator[Piece]:
    """Its content; of an empty file there is one piece, too."""
    with file.open("rb") as stream:
        yield np.frombuffer(stream.read(PIECE), np.uint8)
        while content := stream.read(PIECE):
            yield np.frombuffer(content, np.uint8)


def _states(job: Job) -> ClientStates:
    return ClientStates(Path(job.states), job.run)


def _look(data: str, run: str, drivers: tuple[str, int, int], message: Any, context: Any) -> View:
    """What this worker sees. The name of the data's folder is random: no other folder has it."""
    states = Path(run).exists() and identity(Path(run)) == drivers
    return View(Path(data, CONFIG).exists(), states)


def _make(message: Any, context: Any) -> str:
    """An empty folder for the data, in a temporary one that this worker holds."""
    remove_left(gettempdir())
    folder = _held.enter_context(locked_folder(gettempdir())) / "data"
    folder.mkdir()
    return str(folder)


def _append(folder: str, name: str, message: Piece, context: Any) -> None:
    file = Path(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), file.open("ab") as stream:
        stream.write(message.data)


def _remove(message: Any, context: Any) -> None:
    _held.close()


def _carrying(commands: tuple[str, str], files: Files) -> Callable[[Message, Context], Message]:
    """The app for clients who have kept these files, and who are given a folder to write others."""

    def app(message: Message, context: Context) -> Message:
        job = Job.of(message)
        try:
            with TemporaryDirectory(dir=Path(job.folder).parent) as folder:
                states = ClientStates(Path(folder), job.run)
                states.unpack(files, Path.write_bytes)
                message.content.update(job.beside(RecordDict(), states=folder))
                reply = app_of(commands)(message, context)
                if reply.has_content():
                    kept = states.pack(job.clients, before=job.round + 1)
                    new = {name: file for name, file in kept.items() if name not in files}
                    reply.content[STATES] = to_record(new)
                return reply
        except OSError as error:
            if trouble := disk_trouble(error):
                return Message(Error(Trouble.DISK, trouble), reply_to=message)
            raise

    return app
