"""What robust rules are made of; by itself the strategy's mean, as it is."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_bench.robust.before import HonestMajority, Mixing

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

Floats = NDArray[np.float64]


class Told(NamedTuple):
    """What a rule is told beside the updates."""

    clients: Sequence[int]  # whose updates they are; once they are mixed, their numbers say nothing
    draws: np.random.Generator  # of this round
    own: Floats | None = None  # the server's own update [N]; with a root set only


@dataclass
class Rule:
    """Stands before the mean of a strategy, which is then told the rule's update as if it were the mean.

    Must override:
        Nothing; a rule that looks at all updates together derives from `Combination`.

    May override:
        `bound`, where a look at one update is enough.

    An update is what arrives of a client less what it was sent: of the model and of the `extras` of the strategy, one
    behind the other [N]. What BatchNorm has counted is no part of it. Numbers and arrays among the attributes are saved
    in checkpoints where `keeps` says so.
    """

    before: Mixing  # what is done with the updates first
    seed: int
    centre: Floats | None = field(default=None, init=False)  # the last round's update [N]; with `follows` only
    state: "dict[str, Tensor]" = field(default_factory=dict, init=False)  # what the server keeps of turns of its own

    follows = False  # whether `bound` wants to know the last round's update
    keeps = False  # whether it remembers something else from one round to the next

    @property
    def each(self) -> bool:
        """Whether it needs every client's update at the server; each client then counts once, whatever its weight."""
        return type(self.before) is not Mixing

    @property
    def only_mean(self) -> bool:
        """Whether it goes only with a strategy that needs no more than a mean."""
        return self.each or self.follows

    @property
    def root_size(self) -> int:
        """How many training rows the server keeps, to make an update of its own."""
        return 0

    @property
    def bounds(self) -> bool:
        """Whether it has a `bound` of its own."""
        return type(self).bound is not Rule.bound

    @property
    def least(self) -> int:
        """Of how many updates it can make one, at least."""
        return 1

    @property
    def needed(self) -> int:
        """How many clients must answer, at least, so that enough updates are left after `before`."""
        first = max(self.least, self.before.least)
        return next(number for number in count(first) if self.before.left(number) >= self.least)

    def bound(self, update: Floats, centre: Floats | None) -> Floats:
        """What counts of a client's update; the very object that it was where all of it does.

        It is called wherever an update is added up, or where updates are mixed first, of what has come of that; so it
        must depend on nothing else. `centre` is the last round's update [N] for those that follow it, in the first
        round None.
        """
        return update

    def combine(self, updates: Floats, told: Told) -> Floats | None:
        """One update [N] from those that are left after `before` [n, N]; None where it trusts none of them."""
        mean: Floats = updates.mean(axis=0)
        return mean


@dataclass
class Combination(Rule):
    """A rule that makes one update of all.

    Must override:
        `combine`.

    May override:
        `least`.

    Examples:
        >>> class Shortest(Combination):
        ...     def combine(self, updates, told):
        ...         return updates[np.linalg.norm(updates, axis=1).argmin()]
        >>> told = Told([0, 1], np.random.default_rng(0))
        >>> Shortest(Mixing(), seed=0).combine(np.array([[3.0, 4.0], [0.0, 1.0]]), told)
        array([0., 1.])
    """

    @property
    def each(self) -> bool:
        """Always."""
        return True

    @abstractmethod
    def combine(self, updates: Floats, told: Told) -> Floats | None:
        """One update [N] from those that are left after `before` [n, N]; None where it trusts none of them."""


@dataclass
class Tolerant(HonestMajority, Combination):
    """A rule that is told how many of a round may be malicious."""
