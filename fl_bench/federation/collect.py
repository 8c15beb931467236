"""How replies are waited for, on any of Flower's grids."""

import time
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

PAUSE_SECONDS = 0.01  # where nobody has answered yet: Flower's own grids do not wait


def collect(grid: Grid, message_ids: Iterable[str], timeout: float | None = None) -> list[Message]:
    """The replies to these messages, once all are there, or those that are when the seconds are over."""
    pending = set(message_ids)
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    replies: list[Message] = []
    while pending:
        if not (arrived := list(grid.pull_messages(pending))):
            time.sleep(PAUSE_SECONDS)
        replies += arrived
        pending -= {reply.metadata.reply_to_message_id for reply in arrived}
        if time.monotonic() > deadline:
            break
    return replies
