"""What the Grids of all engines share: messages get an id, and are of the one run that there is."""

import uuid
from abc import abstractmethod
from collections.abc import Iterable

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl_bench.federation.collect import collect

RUN, SERVER = 1, 1


class OneRun(Grid):
    """A Grid for one experiment in this process and its workers, without the link between Flower's machines."""

    def __init__(self) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, SERVER  # messages bear it

    @abstractmethod
    def push(self, message: Message) -> None:
        """Hand a message to its node."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())  # as Flower's own grids do
            ids.append(message.metadata.message_id)
            self.push(message)
        return ids

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return collect(self, self.push_messages(messages), timeout)

    def set_run(self, run: Run) -> None:
        """There is no SuperLink that would need to know."""

    @property
    def run(self) -> Run:
        return Run.create_empty(run_id=RUN)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


def context(node: int) -> Context:
    """What a ClientApp is given besides a message; ours keeps nothing in it."""
    return Context(run_id=RUN, node_id=node, node_config={}, state=RecordDict(), run_config={})
