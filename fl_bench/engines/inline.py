"""Everything in this process: for the debugger, for CI, and for runs so small that starting Ray is most of them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Message
from flwr.serverapp import Grid
from omegaconf import DictConfig

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


@contextmanager
def run(engine: DictConfig) -> Iterator[Callable[[], Grid]]:
    """An engine: what this yields gives the Grid. Ctrl-C raises KeyboardInterrupt by itself here."""
    yield InlineGrid
