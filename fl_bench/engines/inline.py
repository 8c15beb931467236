"""Everything in this process: for the debugger, for CI, and for runs so small that starting Ray is most of them."""

import uuid
from collections.abc import Callable, Iterable

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from omegaconf import DictConfig

from fl_bench.federation.client import app

NODE = 1


class InlineGrid(Grid):
    """A Grid of one node, which does its work when the answer is asked for."""

    def __init__(self) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, NODE  # messages bear it
        self._pushed: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return [NODE]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())  # as Flower's own grids do
            ids.append(message.metadata.message_id)
            self._pushed[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        context = Context(run_id=1, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
        return [app(self._pushed.pop(message_id), context) for message_id in self.order(message_ids)]

    def order(self, message_ids: Iterable[str]) -> list[str]:
        """These messages as they were pushed."""
        wanted = set(message_ids)
        return [message_id for message_id in self._pushed if message_id in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Run) -> None:
        """There is no SuperLink that would need to know."""

    @property
    def run(self) -> Run:
        return Run.create_empty(run_id=TaskIdentity.run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


def run(engine: DictConfig, max_messages: int, server: Callable[[Grid, int, Callable[[], bool]], None]) -> None:
    """Call `server(grid, num_nodes, interrupted)`; Ctrl-C raises KeyboardInterrupt by itself here."""
    server(InlineGrid(), 1, lambda: False)
