"""Rules that shorten updates, each by itself: the server need not have them all at once."""

from dataclasses import dataclass

import numpy as np

from fl_bench.robust.base import Floats, Rule


@dataclass
class NormBound(Rule):
    """No update is longer than `longest`: Sun et al. 2019, "Can You Really Backdoor Federated Learning?",
    arXiv:1911.07963, without their noise.
    """

    longest: float

    def __post_init__(self) -> None:
        if not self.longest > 0:
            raise ValueError(f"longest={self.longest}: must be a positive number")

    def bound(self, update: Floats, centre: Floats | None) -> Floats:
        return shortened(update, self.longest)


@dataclass
class CenteredClipping(Rule):
    """No update is further than `radius` from the last round's: Karimireddy et al. 2021, "Learning from History for
    Byzantine Robust Optimization", arXiv:2012.10333, algorithm 2 with one iteration, as they take it.

    v is the last round's update, at first 0; u becomes v + (u - v) min(1, radius / |u - v|). Their clients send a
    momentum of their gradients; here they send updates, of many steps.
    """

    radius: float

    follows = True

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ValueError(f"radius={self.radius}: must be a positive number")

    def bound(self, update: Floats, centre: Floats | None) -> Floats:
        middle = np.zeros_like(update) if centre is None else centre
        away = update - middle
        near = shortened(away, self.radius)
        return update if near is away else middle + near


def shortened(vector: Floats, longest: float) -> Floats:
    """The vector, or where it is longer, one of this length with its direction."""
    length = np.linalg.norm(vector)
    with np.errstate(invalid="ignore"):  # of infinite numbers none are left, which who adds them up finds
        return vector if length <= longest else vector * (longest / length)
