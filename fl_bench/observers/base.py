"""What an observer is: it is told of each round when the round is over."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fl_bench.errors import known
from fl_bench.federation.rounds import Round, RoundFailed
from fl_bench.storage.run_json import STATUS


class Observer:
    """Sees the rounds of a run, one after another; a subclass overrides what it needs.

    Observers stand in a list and see a round in its order: first who writes it to disk, then who may end the run, then
    the checkpoint, and last who tells people. `keeps` is the name under which a checkpoint keeps what the observer
    knows, by its `__getstate__` and `__setstate__` (see fl_bench/storage/snapshot.py); empty for nothing.
    """

    keeps = ""

    @property
    def stops(self) -> bool:
        """Whether there should be no next round."""
        return False

    def begin(self) -> None:
        """The workers are there, and the rounds begin."""

    def see(self, round: Round) -> None:
        """A round is over. What is raised here ends the run."""

    def fail(self, failed: RoundFailed) -> None:
        """A round could not go on, and so does not the run."""

    def close(self, status: str) -> None:
        """There are no more rounds; `status` is that of run.json: done, failed, invalid or interrupted."""


def tell(observers: Sequence[Observer], rounds: Iterator[Round]) -> Round | None:
    """Tell the observers of each round, until there are no more, or one of them wants no more; returns the last."""
    last = None
    for observer in observers:
        observer.begin()
    try:
        while not any(observer.stops for observer in observers) and (round := next(rounds, None)):
            for observer in observers:
                observer.see(round)
            last = round
    except RoundFailed as failed:
        for observer in observers:
            observer.fail(failed)
        raise
    return last


@contextmanager
def closing(observers: Sequence[Observer]) -> Iterator[None]:
    """Close them at the end, whatever ends it."""
    status = STATUS[0]
    try:
        yield
    except BaseException as error:
        status = STATUS[known(error).exit_code]
        raise
    finally:
        for observer in observers:
            observer.close(status)
