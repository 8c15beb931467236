"""Means that add up: a metric stays (sum, count) until it is written."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import SupportsFloat


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `count` examples as their `total`, which may still be a tensor on a device."""

    total: SupportsFloat
    count: int

    @property
    def value(self) -> float:
        return float(self.total) / self.count


def merge(parts: Iterable[Mapping[str, Mean]]) -> dict[str, Mean]:
    """The means over all parts, by name. `fsum` is exact, so neither order nor grouping of the parts matters."""
    by_name: dict[str, list[Mean]] = {}
    for part in parts:
        for name, mean in part.items():
            by_name.setdefault(name, []).append(mean)
    return {
        name: Mean(math.fsum(float(mean.total) for mean in means), sum(mean.count for mean in means))
        for name, means in by_name.items()
    }
