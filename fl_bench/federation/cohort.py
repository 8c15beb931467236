"""What a strategy sees of the federation while it configures a round."""

from collections.abc import Iterable
from typing import NoReturn

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl_bench.errors import RunError
from fl_bench.network.schedule import Plan


class Cohort(Grid):
    """The clients of a plan as the nodes of a Grid. A strategy sends by returning messages, and in no other way."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def get_node_ids(self) -> Iterable[int]:
        return list(self._plan.asked)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> NoReturn:
        raise RunError("the strategy sends messages while it configures a round; it must return them instead")

    def pull_messages(self, message_ids: Iterable[str]) -> NoReturn:
        self.push_messages(())

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> NoReturn:
        self.push_messages(messages)

    def set_run(self, run: Run) -> None:
        """There is one run only."""

    @property
    def run(self) -> Run:
        return Run.create_empty(run_id=1)
