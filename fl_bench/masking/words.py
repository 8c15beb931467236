"""Numbers as whole words that add up: what a client says beside its model, for sums that nobody can take apart.

A float is a whole number of 2**-1074, of which LIMBS words hold LIMB bits each. Their sums are exact, and read as a
float they are what `math.fsum` gives of the numbers themselves: metrics are the same with masks and without.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_bench.metrics import Mean

LIMB, LIMBS = 32, 66  # so that 2**31 numbers can be added
UNIT = 1074  # the smallest float is 2**-UNIT
ODD = (math.inf, -math.inf, math.nan)  # are counted, a word each
FLOAT = LIMBS + len(ODD)  # words


@dataclass(frozen=True)
class Numbers:
    """What clients say together of their turns, beside the sum of their models."""

    weight: int
    steps: int
    metrics: Mapping[str, Mean]
    reply: Mapping[str, Mean]  # of the numbers for the server half of the strategy

    @property
    def names(self) -> list[list[str]]:
        """Those of the metrics and of the reply, by which `from_words` finds them."""
        return [list(self.metrics), list(self.reply)]

    def to_words(self) -> NDArray[np.int64]:
        means = [*self.metrics.values(), *self.reply.values()]
        parts = [word for mean in means for word in (mean.count, *to_words(float(mean.total)))]
        return np.array([self.weight, self.steps, *parts], np.int64)

    @staticmethod
    def count(names: list[list[str]]) -> int:
        """How many words numbers of these names have."""
        return 2 + (1 + FLOAT) * sum(map(len, names))

    @classmethod
    def from_words(cls, words: NDArray[np.int64], names: list[list[str]]) -> "Numbers":
        """The numbers of these names, of which there must be `count` words."""
        weight, steps, *rest = words.tolist()
        means = [Mean(from_words(rest[i + 1 : i + 1 + FLOAT]), rest[i]) for i in range(0, len(rest), 1 + FLOAT)]
        found = iter(means)
        metrics, reply = ({name: next(found) for name in some} for some in names)
        return cls(weight, steps, metrics, reply)


def to_words(value: float) -> list[int]:
    """FLOAT whole numbers, each below 2**LIMB in size.

    Examples:
        >>> from_words([a + b for a, b in zip(to_words(0.1), to_words(0.2))])
        0.30000000000000004
    """
    odd = [int(value == one or (math.isnan(one) and math.isnan(value))) for one in ODD]
    whole = 0 if any(odd) else int(Fraction(value) * 2**UNIT)
    sign, size = (-1 if whole < 0 else 1), abs(whole)
    return [*(sign * (size >> LIMB * place & 2**LIMB - 1) for place in range(LIMBS)), *odd]


def from_words(words: Any) -> float:
    """The float of a sum of such numbers, rounded once."""
    above, below, nan = words[LIMBS:]
    if nan or (above and below):
        return math.nan
    if above or below:
        return math.inf if above else -math.inf
    whole = sum(word << LIMB * place for place, word in enumerate(words[:LIMBS]))
    try:
        return float(whole / 2**UNIT)
    except OverflowError:
        return math.inf if whole > 0 else -math.inf
