"""What an observer is: it is told of each round when the round is over."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # observers are made for the tables of old runs too, without torch
    from fl_bench.federation.rounds import Round, RoundFailed


class Observer:
    """Sees the rounds of a run, one after another; a subclass overrides what it needs.

    Observers stand in a list and see a round in its order: first who writes it to disk, then who may end the run, then
    the checkpoint, and last who tells people. `keeps` is the name under which a checkpoint keeps what the observer
    knows, by its `__getstate__` and `__setstate__` (see fl_bench/storage/snapshot.py); empty for nothing.

    >>> class UntilLow(Observer):
    ...     low = False
    ...     def see(self, round):
    ...         self.low = round.row["train_loss"] < 0.1
    ...     @property
    ...     def stops(self):
    ...         return self.low
    >>> UntilLow().stops
    False
    """

    keeps = ""

    @property
    def stops(self) -> bool:
        """Whether there should be no next round."""
        return False

    def ends_with(self, round: "Round") -> bool:
        """Whether there should be none after this one, which is trained and not seen yet: then it is evaluated too."""
        return False

    def begin(self) -> None:
        """The workers are there, and the rounds begin."""

    def see(self, round: "Round") -> None:
        """A round is over. What is raised here ends the run."""

    def fail(self, failed: "RoundFailed") -> None:
        """A round could not go on, and so does not the run."""

    def close(self, status: str) -> None:
        """There are no more rounds; `status` is that of run.json: done, failed, invalid or interrupted."""
