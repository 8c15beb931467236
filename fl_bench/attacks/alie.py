"""A little is enough: Baruch et al. 2019, "A Little Is Enough: Circumventing Defenses For Distributed Learning",
arXiv:1902.06156, algorithm 3.
"""

from dataclasses import dataclass
from statistics import NormalDist

from fl_bench.attacks.base import Floats, Knows, Malicious


@dataclass
class Alie(Malicious):
    """All send mean - z * std of their honest updates, number by number: so near that some honest ones lie further out.

    Of n clients, m of them malicious, s = floor(n / 2 + 1) - m honest ones must agree with them to be more than half:
    z is where a normal distribution has (n - m - s) / (n - m) of itself below. Where the malicious are more than half
    already, s is 1. One alone knows no deviation, and sends what it has.
    """

    z: float | None

    knows = Knows.COLLUDERS

    def together(self, own: Floats, honest: Floats, answered: int) -> Floats:
        z = usual(answered, len(own)) if self.z is None else self.z
        found: Floats = own.mean(axis=0) - z * own.std(axis=0)
        return found


def usual(answered: int, malicious: int) -> float:
    """The paper's z.

    Examples:
        >>> round(usual(50, 24), 3)  # two more are needed of 26
        1.426
    """
    others, needed = answered - malicious, max(1, answered // 2 + 1 - malicious)
    return NormalDist().inv_cdf((others - needed) / others) if others > needed else 0.0
