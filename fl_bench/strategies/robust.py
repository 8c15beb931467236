"""Rules that withstand f malicious clients among the n of a round: Krum, Multi-Krum, Bulyan and the trimmed mean.

Krum and Multi-Krum: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
NeurIPS. Bulyan: El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium",
arXiv:1802.07927. Trimmed mean: Yin et al. 2018, "Byzantine-Robust Distributed Learning", arXiv:1803.01498. As in these,
every client counts once, whatever its examples.

Flower's Krum, MultiKrum and Bulyan take distances of whole models in float32, where small updates are lost in rounding;
its MultiKrum weighs by examples, its Bulyan selects all at once, and none refuses what cannot withstand anybody.
"""

from collections.abc import Iterable
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import strategy as flower

from fl_bench.strategies.updates import EachUpdate, Floats, Model, Updates


def scores(distances: Floats, malicious: int) -> Floats:
    """Krum's score of each client [n]: how far the n - f - 2 others are that are nearest, by squared distances [n, n].

    Examples:
        >>> at = np.array([0.0, 1.0, 3.0, 9.0, 9.5])
        >>> scores((at[:, None] - at) ** 2, malicious=1)
        array([10.  ,  5.  , 13.  , 36.25, 42.5 ])
    """
    others = distances[~np.eye(len(distances), dtype=bool)].reshape(len(distances), -1)
    near: Floats = np.sort(others, axis=1)[:, : max(1, len(distances) - malicious - 2)].sum(axis=1)
    return near


class MultiKrum(EachUpdate):
    """The mean of the models of the `num_nodes_to_select` lowest scores; None: of all but the malicious."""

    def __init__(
        self, num_malicious_nodes: int, clients_per_round: int, num_nodes_to_select: int | None, **options: Any
    ) -> None:
        need(2 * num_malicious_nodes + 3, num_malicious_nodes, clients_per_round)
        honest = clients_per_round - num_malicious_nodes
        if num_nodes_to_select is not None and not 1 <= num_nodes_to_select <= honest:
            wish = f"must be from 1 to {honest}, as {num_malicious_nodes} of {clients_per_round} may be malicious"
            raise ValueError(f"num_nodes_to_select={num_nodes_to_select}: {wish}")
        super().__init__(**options)
        self.malicious, self.selected = num_malicious_nodes, num_nodes_to_select

    def combine(self, updates: Updates, metrics: MetricRecord) -> Model | None:
        if too_few(len(updates), max(2 * self.malicious + 3, self.malicious + (self.selected or 0))):
            return None
        count = self.selected or len(updates) - self.malicious
        chosen = np.argsort(scores(updates.distances, self.malicious), kind="stable")[:count]
        return updates.applied(lambda rows: rows[chosen].mean(axis=0))


class Krum(MultiKrum):
    """The model of the lowest score."""

    def __init__(self, num_malicious_nodes: int, clients_per_round: int, **options: Any) -> None:
        super().__init__(num_malicious_nodes, clients_per_round, num_nodes_to_select=1, **options)


class Bulyan(EachUpdate):
    """Krum selects n - 2 f, one after the other; of each number the mean of the n - 4 f nearest to their median."""

    def __init__(self, num_malicious_nodes: int, clients_per_round: int, **options: Any) -> None:
        need(4 * num_malicious_nodes + 3, num_malicious_nodes, clients_per_round)
        super().__init__(**options)
        self.malicious = num_malicious_nodes

    def combine(self, updates: Updates, metrics: MetricRecord) -> Model | None:
        if too_few(len(updates), 4 * self.malicious + 3):
            return None
        chosen: list[int] = []
        left = np.arange(len(updates))
        while len(chosen) < len(updates) - 2 * self.malicious:
            best = scores(updates.distances[np.ix_(left, left)], self.malicious).argmin() if len(left) > 1 else 0
            chosen.append(left[best])
            left = np.delete(left, best)
        return updates.applied(lambda rows: nearest_to_median(rows[sorted(chosen)], len(chosen) - 2 * self.malicious))


def nearest_to_median(rows: Floats, count: int) -> Floats:
    """Of each column the mean of the `count` values that are nearest to its median: from [n, size] to [size].

    Examples:
        >>> nearest_to_median(np.array([[0.0], [4.0], [5.0], [90.0]]), 2)
        array([4.5])
    """
    order = np.argsort(np.abs(rows - np.median(rows, axis=0)), axis=0, kind="stable")[:count]
    mean: Floats = np.take_along_axis(rows, order, axis=0).mean(axis=0)
    return mean


class FedTrimmedAvg(flower.FedTrimmedAvg):
    """Flower's, which is the paper's; a `beta` that cuts nobody off is refused, but for 0, which says so."""

    def __init__(self, beta: float, clients_per_round: int, **options: Any) -> None:
        if not 0 <= beta < 0.5:
            raise ValueError(f"beta={beta}: must be from 0 to below 0.5")
        if beta and int(beta * clients_per_round) < 1:
            least = f"at least 1 / {clients_per_round}, or 0"
            raise ValueError(f"beta={beta}: cuts off none of {clients_per_round} clients a round; must be {least}")
        super().__init__(beta=beta, **options)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        answered = sum(not reply.has_error() for reply in replies)
        if self.beta and too_few(int(self.beta * answered), 1):
            return None, None
        return super().aggregate_train(server_round, replies)


def need(least: int, malicious: int, clients_per_round: int) -> None:
    """Raise ValueError where a round has too few clients to withstand so many malicious ones."""
    if malicious < 0:
        raise ValueError(f"num_malicious_nodes={malicious}: must be 0 or more")
    if clients_per_round < least:
        reason = f"needs {least} clients a round or more, and clients_per_round={clients_per_round}"
        raise ValueError(f"num_malicious_nodes={malicious}: {reason}")


def too_few(answered: int, least: int) -> bool:
    """Whether so few have answered that the rule could withstand nobody; then Flower's log says so."""
    if answered < least:
        log(WARNING, "it needs %s clients that answer, and has %s", least, answered)
    return answered < least
