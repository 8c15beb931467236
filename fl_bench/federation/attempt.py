"""A client's turn on a worker: what it raises is that client's failure, and nobody else's."""

import os
import signal
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fl_bench.errors import disk_trouble, in_one_line
from fl_bench.federation.exchange import Answer, Status
from fl_bench.federation.local import trainer_in
from fl_bench.federation.update import Diverged

NO_ROOM = ("CUDA error: out of memory", "ALLOC_FAILED")  # what some libraries say instead of torch.OutOfMemoryError


class OutOfTime(Exception):
    """A client's turn has taken too long."""


def attempt(turn: Callable[[int], Answer], client: int, retry: bool) -> Answer:
    """What comes of a client's turn; it is repeated once with `retry`. Raises what is wrong with the disk."""
    answer = Answer(client, Status.FAILED)
    for _ in range(2 if retry else 1):
        try:
            return turn(client)
        except (Exception, SystemExit) as error:
            if disk_trouble(error) or isinstance(error, BdbQuit) or hasattr(error, "ray_terminate_msg"):
                raise  # the last is that of a worker which somebody ends
            if os.environ.get("FL_BENCH_DEBUG"):
                traceback.print_exc()
            recover(error)
            if is_no_room(error):
                answer = Answer(client, Status.NO_ROOM, why=in_one_line(error))
                break
            why = str(error) if isinstance(error, Diverged | OutOfTime) else in_one_line(error)
            answer = Answer(client, Status.FAILED, why=why)
    if answer.status is Status.NO_ROOM:  # only here is nothing of the failed turn in use any more
        torch.cuda.empty_cache()
    return answer


def recover(error: BaseException) -> None:
    """Leave nothing half done in this process: a time limit may have stopped the turn anywhere, in torch's code too."""
    if isinstance(error, OutOfTime):
        torch.set_grad_enabled(True)
        trainer_in.cache_clear()


def is_no_room(error: BaseException) -> bool:
    """Whether a GPU had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_ROOM)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises OutOfTime in what takes longer; code that does not come back to Python is not stopped by it."""
    if seconds is None:
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime(f"it took more than engine.client_timeout_s={seconds:g}")

    previous = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)  # on the monotonic clock
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, *timer)
