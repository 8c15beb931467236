"""The sign of life of a run, which has a process of its own."""

from collections.abc import Callable

from fl_bench.federation.rounds import Round
from fl_bench.observers.base import Observer


class Heartbeat(Observer):
    """Starts the timeout of a round anew with each round."""

    def __init__(self, arm: Callable[[bool], None]) -> None:
        self.arm = arm

    def begin(self) -> None:
        self.arm(True)

    def see(self, round: Round) -> None:
        self.arm(True)

    def close(self, status: str) -> None:
        self.arm(False)
