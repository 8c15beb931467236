"""Graphs of n nodes as symmetric matrices, bool [n, n], and what nodes weigh in each other's means."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

Linked = NDArray[np.bool_]
DRAWS = 100  # of a graph, until one is connected


def ring(n: int) -> Linked:
    """Each node and the next, the last and the first."""
    return torus(1, n)


def torus(rows: int, columns: int) -> Linked:
    """Each node of a grid and its four neighbours, where the last row is beside the first, and the last column too."""
    numbers = np.arange(rows * columns).reshape(rows, columns)
    linked = np.zeros((numbers.size, numbers.size), bool)
    for axis in (0, 1):
        linked[numbers.ravel(), np.roll(numbers, 1, axis).ravel()] = True
    return _symmetric(linked)


def complete(n: int) -> Linked:
    return ~np.eye(n, dtype=bool)


def regular(n: int, degree: int, draws: np.random.Generator) -> Linked:
    """A connected graph in which each node has `degree` links, n * degree even: a circle whose links are swapped.

    A swap makes of the links a-b and c-d those a-d and c-b, which changes no degree. Raises ValueError.
    """
    steps = np.arange(1, n)
    near = np.minimum(steps, n - steps) <= degree // 2  # the nodes that are so far along the circle
    if degree % 2:
        near |= 2 * steps == n
    linked = np.zeros((n, n), bool)
    for step in steps[near]:
        linked[np.arange(n), (np.arange(n) + step) % n] = True

    def swapped() -> Linked:
        ends = np.argwhere(np.triu(linked))
        for _ in range(10 * len(ends)):
            one, other, turned = (int(draws.integers(high)) for high in (len(ends), len(ends), 2))
            a, b, c, d = np.append(ends[one], np.roll(ends[other], turned)).tolist()
            if len({a, b, c, d}) == 4 and not linked[a, d] and not linked[c, b]:
                linked[[a, b, c, d], [b, a, d, c]] = False
                linked[[a, d, c, b], [d, a, b, c]] = True
                ends[one], ends[other] = (a, d), (c, b)
        return linked

    return _connected(swapped)


def erdos_renyi(n: int, probability: float, draws: np.random.Generator) -> Linked:
    """A connected graph in which each two nodes are linked with this probability. Raises ValueError."""
    return _connected(lambda: _symmetric(np.triu(draws.random((n, n)) < probability, 1)))


def metropolis_hastings(linked: Linked) -> NDArray[np.float64]:
    """What node j weighs in the mean of node i [n, n]: 1 / (1 + the larger number of links of the two); i has the rest.

    The Metropolis weights of Xiao, Boyd and Lall 2005, "A scheme for robust distributed sensor fusion based on average
    consensus". They are symmetric and add up to 1. Where all nodes have d links, they are equal: 1 / (1 + d).
    """
    degrees = linked.sum(axis=1)
    matrix = np.where(linked, 1 / (1 + np.maximum.outer(degrees, degrees)), 0.0)
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix


def parts(linked: NDArray) -> int:
    """Into how many parts that are not linked a graph falls."""
    return int(connected_components(linked, directed=False)[0])


def _symmetric(linked: Linked) -> Linked:
    linked = linked | linked.T
    np.fill_diagonal(linked, False)
    return linked


def _connected(draw: Callable[[], Linked]) -> Linked:
    """The first connected graph that is drawn. Raises ValueError."""
    for _ in range(DRAWS):
        if parts(linked := draw()) == 1:
            return linked
    raise ValueError(f"none of {DRAWS} drawn graphs is connected; let it have more links")
