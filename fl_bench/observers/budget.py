"""Ends a run before more is told of its clients than may be."""

from fl_bench.errors import note
from fl_bench.federation.rounds import Round
from fl_bench.observers.base import Observer
from fl_bench.strategies.accountant import Privacy


class Budget(Observer):
    """`done`: how many rounds there have been."""

    def __init__(self, privacy: Privacy, done: int, num_rounds: int) -> None:
        self.privacy, self.done, self.num_rounds = privacy, done, num_rounds

    def begin(self) -> None:
        self._say()

    def see(self, round: Round) -> None:
        self.done = round.number
        self._say()

    def _say(self) -> None:
        if self.stops:
            then = f"with another, epsilon would be {self.privacy.epsilon(self.done + 1):.4g}"
            note(f"round {self.done} is the last: {then}, and strategy.max_epsilon is {self.privacy.max_epsilon:g}")

    @property
    def stops(self) -> bool:
        return self._is_last(self.done)

    def ends_with(self, round: Round) -> bool:
        return self._is_last(round.number)

    def _is_last(self, number: int) -> bool:
        return number < self.num_rounds and not self.privacy.lasts(number + 1)
