"""A site's line to the link: Flower's Fleet API, of which this is the only module that knows the inside (flwr 1.41).

Flower's own `http_request_response` ends the process where it cannot connect, and its heartbeats, of 30 s, let a site
that was killed be away for a minute.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    push_object_contents_from_iterable,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fl_bench.deployment.transport import BROKEN, pull_parts, refuses_tls, with_remedy
from fl_bench.errors import ConfigError, RunError, note

BEAT_SECONDS = HEARTBEAT_MIN_INTERVAL / 2  # the link takes a site for gone after four without a word
PATIENCE_SECONDS = 90  # for the link to let a site in that is still taken for present
TOLD_AFTER = 5  # tries: where both start together, the link does not know its sites at once
LIKELY = "another process is there with these keys, or the link has not this site's node.pub"
SHORTEST, LONGEST = 0.1, 1.0  # seconds from one look for a message to the next


class Lost(Exception):
    """The link does not know this site any more, or may have lost a message: it must introduce itself again."""


class Line:
    """A site's line to the link at `address`; `number` is a file with the site's number there, kept for its return."""

    def __init__(self, address: str, ca: bytes, key: ec.EllipticCurvePrivateKey, number: Path) -> None:
        self.address = address
        self._number = number
        self._public = public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            address, False, ca,
            [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(key, key.public_key())],
        )  # fmt: skip
        self._node = Node()
        self._over = threading.Event()  # whether this line is closed, or lost

    @contextmanager
    def present(self) -> Iterator[None]:
        """Be known to the link as long as this lasts. Raises RunError where it does not let this site in."""
        self._node = Node(node_id=self._activated())
        self._number.write_text(str(self._node.node_id))
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 0, self._node.node_id
        self._over.clear()
        beats = threading.Thread(target=self._beat, daemon=True)
        beats.start()
        try:
            yield
        finally:
            self._over.set()
            with suppress(httpx.HTTPError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def serve(self, answer: Callable[[Message], Message]) -> None:
        """Answer message by message. Raises Lost."""
        wait = SHORTEST
        while not self._over.is_set():
            message = self._next()
            if message is None:
                time.sleep(wait)
                wait = min(LONGEST, wait * 1.2)
                continue
            wait = SHORTEST
            TaskIdentity.run_id = message.metadata.run_id
            begin = time.monotonic()
            self._send(answer(message), time.monotonic() - begin)
        raise Lost

    def _activated(self) -> int:
        """The number of this site at the link."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        begun, tries = time.monotonic(), 0
        while True:
            try:
                return int(self._patient(lambda: self._client.ActivateNode(request)).node_id)
            except httpx.HTTPStatusError as error:
                why, tries = _reason(error), tries + 1
            if tries == 1 and self._number.exists():  # it was killed, and the link still takes it for present
                with suppress(httpx.HTTPError, ValueError):
                    self._client.DeactivateNode(DeactivateNodeRequest(node_id=int(self._number.read_text())))
                continue
            if time.monotonic() - begun > PATIENCE_SECONDS:
                raise RunError(f"--link {self.address}: does not let this site in: {why}; {LIKELY}")
            if tries == TOLD_AFTER:
                note(f"{self.address} does not let this site in yet: {why}; {LIKELY}; trying for {PATIENCE_SECONDS} s")
            time.sleep(LONGEST)

    def _next(self) -> Message | None:
        """The next message, if there is one that is whole."""
        response = self._lasting(self._pull)
        if not response.messages_list:
            return None
        head, tree = message_from_proto(response.messages_list[0]), response.message_object_trees[0]
        run, name = head.metadata.run_id, head.metadata.message_id
        pull = make_pull_object_fn_protobuf(self._asking(self._client.PullObject), self._node, run)
        try:
            parts = pull_parts([part.object_id for part in iterate_object_tree(tree)], pull)
            make_confirm_message_received_fn_protobuf(
                self._asking(self._client.ConfirmMessageReceived), self._node, run
            )(name)
            message = inflate_object_from_contents(name, parts)
        except ObjectPullError as error:  # who has sent it sends it again to a site that has come anew
            raise Lost from error
        except (httpx.HTTPStatusError, ValueError) as error:
            note(f"a message is left out: its run is over, or it cannot be read: {_reason(error)}")
            return None
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = name
        return message

    def _pull(self) -> PullMessagesResponse:
        try:
            return self._client.PullMessages(PullMessagesRequest(node=self._node))
        except BROKEN as error:  # the link hands a message out once, and it may have been on its way
            raise Lost from error

    def _send(self, reply: Message, seconds: float) -> None:
        """Send an answer; where its run is over meanwhile, nobody waits for it."""
        run = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
            head = remove_content_from_message(reply) if reply.has_content() else reply
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(head)],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
            try:
                response = self._patient(lambda: self._client.PushMessages(request))
                push = make_push_object_fn_protobuf(
                    self._asking(self._client.PushObject), self._node, run, response.session_id
                )
                push_object_contents_from_iterable(
                    ((name, parts[name]) for name in parts if name in set(response.objects_to_push)), push
                )
            except (ObjectPushError, httpx.HTTPStatusError) as error:
                note(f"an answer was not wanted any more: {_reason(error)}")

    def _beat(self) -> None:
        """Tell the link again and again that this site is here."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        while not self._over.wait(BEAT_SECONDS):
            with suppress(httpx.TransportError):
                try:
                    known = self._client.SendNodeHeartbeat(request).success
                except httpx.HTTPStatusError as error:
                    known = error.response.status_code >= 500  # it is only just starting
                if not known:
                    self._over.set()

    def _asking(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda request: self._patient(lambda: call(request))

    def _lasting(self, call: Callable[[], Any]) -> Any:
        """What `_patient` returns; raises Lost where the link does not want this site."""
        try:
            return self._patient(call)
        except httpx.HTTPStatusError as error:
            raise Lost from error

    def _patient(self, call: Callable[[], Any]) -> Any:
        """What the link answers, however long it is away. Raises ConfigError where it never will, as TLS refuses."""
        wait, told = SHORTEST, False
        while True:
            try:
                return call()
            except httpx.TransportError as error:
                if refuses_tls(error):
                    raise ConfigError(f"--link {self.address}: {with_remedy(error)}") from error
                why = str(error)
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in (502, 503, 504):
                    raise
                why = str(error)
            if not told and wait == LONGEST:
                note(f"{self.address} does not answer ({why}): trying until it does")
                told = True
            time.sleep(wait)
            wait = min(LONGEST, wait * 2)


def _reason(error: Exception) -> str:
    """What Flower says of an error."""
    if isinstance(error, httpx.HTTPStatusError) and (found := FlowerError.from_json(error.response.text)):
        return f"[{found.code}] {found.message}"
    return str(error)
