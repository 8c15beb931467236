"""The driver's line to the link, and the link's own start: the inside of Flower's server side, in this module only
(flwr 1.41).

The driver is the ServerApp of its run: it starts a run with an app that has no code of its own, and takes the task of
the run's server itself. The link must run with `--isolation process`, so that nobody else takes it.
"""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import exponential
from flwr.supercore.retry.retry_invoker import RetryState
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid, http_grid

from fl_bench.deployment.transport import BROKEN, pull_parts, refuses_tls, with_remedy
from fl_bench.errors import ConfigError, RunError, note

APP = b"""[project]
name = "fl-bench-run"
version = "1"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "fl-bench"
[tool.flwr.app.components]
serverapp = "fl_bench.deployment:none"
clientapp = "fl_bench.deployment.stock:app"
"""
READY_SECONDS, END_SECONDS = 60, 5  # for a link to listen, to hear of the end of a run
LONGEST_SECONDS, TOLD_AFTER = 2, 4  # between two tries to reach it again; tries
GONE, AWAY = (401, 403), (502, 503, 504)  # statuses of a link that has no such run, and of one that just starts
LOST = (  # codes of the link's own errors: a site is not there, or its answer is not
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
)
CLAIM = "/flwr.proto.Runtime/AcquireTask"


class RunLost(RunError):
    """The link does not know the run of this process any more."""

    resumable = True


class LinkGrid(HttpGrid):
    """Flower's Grid over the link, for which it waits while the link is away. Its `send_and_receive` sleeps 3 s at a
    time: who uses this pushes and pulls.
    """

    def __init__(self, address: str, ca: bytes, token: str) -> None:
        http_grid.pull_objects = pull_parts  # type: ignore[attr-defined]
        super().__init__(address, insecure=False, root_certificates=ca, token=token)
        self._broken = False  # whether the connection broke while the link was asked
        invoker = self._retry_invoker
        invoker.wait_gen_factory = lambda: exponential(max_delay=LONGEST_SECONDS)

        def told(state: RetryState) -> None:
            self._broken |= isinstance(state.exception, BROKEN)
            if state.tries == TOLD_AFTER:
                note(f"engine.link={address}: does not answer; trying until it does")

        def is_over(error: Exception) -> bool:
            if not isinstance(error, httpx.HTTPStatusError):
                return refuses_tls(error)
            if error.response.status_code in GONE:  # where Flower would end this process as Ctrl-C does
                why = "the run was stopped there, or the link was started anew without the --database that it had"
                raise RunLost(f"engine.link={address}: does not know this run any more: {why}")
            return error.response.status_code not in AWAY

        invoker.on_success = invoker.on_giveup = None  # they only log
        invoker.on_backoff, invoker.should_giveup, invoker.wait_function = told, is_over, time.sleep

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """The names of the messages; none where the link has begun anew, and forgotten what it was just being sent."""
        try:
            return list(super().push_messages(messages))
        except ObjectPushError:
            return []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The answers that are there. The link hands each out once: where the connection breaks meanwhile, those that
        have not come are said to be lost.
        """
        asked, self._broken = set(message_ids), False
        found = list(super().pull_messages(asked))
        if self._broken:
            lost = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "the connection to the link broke")
            asked -= {message.metadata.reply_to_message_id for message in found}
            heads = [Metadata(self.run.run_id, "", 0, 0, name, "", 0, 0, "query") for name in asked]
            found += [make_message(head, error=lost) for head in heads]
        return found

    def beat(self) -> bool:
        """Tell the link that this process is there. Where it is not wanted any more, who asks for answers hears it."""
        with suppress(httpx.HTTPError, RunLost):
            self._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        return True

    def hurry(self) -> None:
        """From now on wait for the link no longer than a moment."""
        self._retry_invoker.max_time = END_SECONDS

    def finish(self, status: str, why: str) -> None:
        """Tell the link how the run has ended, unless it has been away for too long."""
        with suppress(httpx.HTTPError, RunLost):  # it may have been ended there
            self._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=why))
        self.close()

    def present(self) -> list[NodeInfo]:
        """The sites that are there, with their public keys and when each has come."""
        return list(self._runtime_client.GetNodes(GetNodesRequest()).nodes)


@contextmanager
def run_at(address: str, ca: bytes, claim: bytes) -> Iterator[LinkGrid]:
    """A new run at the link at `address`, whose server is this process.

    Raises RunError where there is none, and ConfigError where its TLS does not fit ours.
    """
    with ExitStack() as stack, _in_one_line(address):
        control = stack.enter_context(_control(address, ca))
        link = stack.enter_context(
            RuntimeHttpClient.from_server_address(
                address, False, ca,
                [
                    RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                    SuperExecAuthHttpInterceptor(master_secret=claim, protected_methods={CLAIM}),
                ],
            )
        )  # fmt: skip
        run = begin(control)
        while (
            taken := link.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
        ).task.run_id != run:
            if not taken.task.run_id:
                raise RunError(f"engine.link={address}: another driver began at the same moment; begin again")
            control.StopRun(StopRunRequest(run_id=taken.task.run_id))  # of a driver that was killed just then
    grid = LinkGrid(address, ca, taken.token)
    beats = HeartbeatSender(grid.beat)
    status, why = SubStatus.FAILED, ""
    try:
        with _in_one_line(address):
            beats.start()
            task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, run
            TaskIdentity.node_id = task.context.node_id
            grid.set_run(run_from_proto(task.run))
            yield grid
        status = SubStatus.COMPLETED
    except KeyboardInterrupt:
        status, why = SubStatus.STOPPED, "Ctrl-C"
        raise
    except Exception as error:
        why = str(error)
        raise
    finally:
        grid.hurry()
        if beats.is_running:
            beats.stop()
        grid.finish(status, why)


def begin(control: ControlHttpClient) -> int:
    """Start a run that has no server yet, and return its number."""
    fab, _ = build_fab_from_files({"pyproject.toml": APP})
    request = StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})))
    return int(control.StartRun(request).run_id)


def superlink(words: Sequence[str]) -> None:
    """Be Flower's SuperLink, as if it had been given these words, until a signal ends it."""
    from flwr.supercore.logger import console_handler
    from flwr.superlink.cli import flower_superlink  # with databases and web servers

    if not os.environ.get("FL_BENCH_DEBUG"):
        console_handler.setLevel(logging.CRITICAL)  # the web server's level follows it
    sys.argv = ["flower-superlink", *words]
    flower_superlink()


def register(address: str, ca: bytes, nodes: Mapping[str, bytes]) -> None:
    """As soon as the link listens, let these sites in, by their names and public keys. Who is known stays so."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return _registered(address, ca, nodes)
        except httpx.TransportError as error:
            if refuses_tls(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _registered(address: str, ca: bytes, nodes: Mapping[str, bytes]) -> None:
    with _control(address, ca) as control:
        for name, key in nodes.items():
            try:
                control.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
            except httpx.HTTPStatusError as error:
                found = FlowerError.from_json(error.response.text)
                if found is None or found.code != ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                    raise


def _control(address: str, ca: bytes) -> ControlHttpClient:
    return ControlHttpClient.from_server_address(
        address, False, ca, [RuntimeVersionHttpInterceptor(component_name="flwr")]
    )


@contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    """Says what the link says, or why it says nothing."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        found: Any = FlowerError.from_json(error.response.text)
        why = f"[{found.code}] {found.message}" if found else str(error)
        raise RunError(f"engine.link={address}: {why}") from error
    except httpx.TransportError as error:
        kind = ConfigError if refuses_tls(error) else RunError
        raise kind(f"engine.link={address}: cannot be reached: {with_remedy(error)}") from error
