"""Merkle trees over byte strings: RFC 6962, section 2.1, with SHA-256."""

from collections.abc import Sequence
from hashlib import sha256


def root(leaves: Sequence[bytes]) -> bytes:
    """The hash of a list of leaves (32 bytes); it commits to each of them, and to their order."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    left = _left(len(leaves))
    return _node(root(leaves[:left]), root(leaves[left:]))


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that prove a leaf to be in the tree, the nearest to it first: about log2(n) of 32 bytes."""
    if len(leaves) == 1:
        return []
    left = _left(len(leaves))
    if index < left:
        return [*path(leaves[:left], index), root(leaves[left:])]
    return [*path(leaves[left:], index - left), root(leaves[:left])]


def root_by(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a path proves: that of the tree of `size` leaves where this one stands at `index`.

    Raises ValueError where no tree has such a path.
    """
    if not 0 <= index < size or (size == 1) != (not path):
        raise ValueError(f"a path of {len(path)} hashes does not lead from leaf {index} of {size} to the root")
    if size == 1:
        return root([leaf])
    left = _left(size)
    if index < left:
        return _node(root_by(leaf, index, left, path[:-1]), path[-1])
    return _node(path[-1], root_by(leaf, index - left, size - left, path[:-1]))


def _left(size: int) -> int:
    """The leaves of the left subtree: the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
