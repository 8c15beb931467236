"""The driver's line to the link, and the link's own start: the inside of Flower's server side, in this module only
(flwr 1.41).

The driver is the ServerApp of its run: it starts a run with an app that has no code of its own, and takes the task of
the run's server itself. The link must run with `--isolation process`, so that nobody else takes it.
"""

import hashlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import AcquireTaskRequest, GetNodesRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import exponential
from flwr.supercore.retry.retry_invoker import RetryState
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fl_bench.errors import RunError, note

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
LOST = (  # codes of the link's own errors: a site is not there, or its answer is not
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
)
CLAIM = "/flwr.proto.Runtime/AcquireTask"


class LinkGrid(HttpGrid):
    """Flower's Grid over the link, for which it waits while the link is away. Its `send_and_receive` sleeps 3 s at a
    time: who uses this pushes and pulls.
    """

    def __init__(self, address: str, ca: bytes, token: str) -> None:
        super().__init__(address, insecure=False, root_certificates=ca, token=token)
        invoker = self._retry_invoker
        invoker.wait_gen_factory = lambda: exponential(max_delay=LONGEST_SECONDS)
        before = invoker.on_backoff

        def told(state: RetryState) -> None:
            if state.tries == TOLD_AFTER:
                note(f"engine.link={address}: does not answer; trying until it does")
            if before is not None:
                before(state)

        invoker.on_backoff = told

    def finish(self, status: str, why: str) -> None:
        """Tell the link how the run has ended, unless it has been away for too long."""
        self._retry_invoker.max_time = END_SECONDS
        with suppress(httpx.HTTPError, RunNotRunningException):  # it may have been ended there
            self._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=why))
        self.close()

    def present(self) -> list[NodeInfo]:
        """The sites that are there, with their public keys and when each has come."""
        return list(self._runtime_client.GetNodes(GetNodesRequest()).nodes)


@contextmanager
def run_at(address: str, ca: bytes, claim: bytes) -> Iterator[LinkGrid]:
    """A new run at the link at `address`, whose server is this process. Raises RunError where there is none."""
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
        fab, _ = build_fab_from_files({"pyproject.toml": APP})
        started = control.StartRun(StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {}))))
        taken = link.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
        if taken.task.run_id != started.run_id:
            control.StopRun(StopRunRequest(run_id=started.run_id))
            raise RunError(f"engine.link={address}: another run was waiting there, and is given up; begin again")
    grid = LinkGrid(address, ca, taken.token)
    beats = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
    status, why = SubStatus.FAILED, ""
    try:
        with _in_one_line(address):
            beats.start()
            task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, started.run_id
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
        if beats.is_running:
            beats.stop()
        grid.finish(status, why)


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
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            break
        time.sleep(0.1)
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
        raise RunError(f"engine.link={address}: cannot be reached: {error}") from error
