"""The Grid of the inline engine."""

from collections.abc import Iterable

from flwr.app import Message

from fl_bench.engines.grid import OneRun, context
from fl_bench.federation.client import app

NODE = 1


class InlineGrid(OneRun):
    """A Grid of one node, which does its work when the answer is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._pushed: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return [NODE]

    def push(self, message: Message) -> None:
        self._pushed[message.metadata.message_id] = message

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [app(self._pushed.pop(message_id), context(NODE)) for message_id in self.order(message_ids)]

    def order(self, message_ids: Iterable[str]) -> list[str]:
        """These messages as they were pushed."""
        wanted = set(message_ids)
        return [message_id for message_id in self._pushed if message_id in wanted]
