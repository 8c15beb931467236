"""Secrets in shares: any so many of them give the secret, fewer say nothing (Shamir 1979, "How to share a secret")."""

from collections.abc import Mapping, Sequence

PRIME = 2**255 - 19  # a share is a number below it, and so 32 bytes


def split(coefficients: Sequence[int], places: int) -> list[int]:
    """The shares at places 1, 2, ... of the first of these numbers; the others are random, one less than the threshold.

    Examples:
        >>> split([7, 2], 3)
        [9, 11, 13]
    """
    shares = []
    for place in range(1, places + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * place + coefficient) % PRIME
        shares.append(value)
    return shares


def join(shares: Mapping[int, int]) -> int:
    """The secret of which these are the shares, by place: the polynomial through them, at 0.

    Examples:
        >>> join({1: 9, 3: 13})
        7
    """
    secret = 0
    for place, share in shares.items():
        above = below = 1
        for other in shares.keys() - {place}:
            above = above * other % PRIME
            below = below * (other - place) % PRIME
        secret += share * above * pow(below, -1, PRIME)
    return secret % PRIME
