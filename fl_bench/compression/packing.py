"""Small unsigned numbers, each in as few bits as it needs."""

import numpy as np
from numpy.typing import NDArray

Unsigned = NDArray[np.uint32]
EIGHT = np.arange(8, dtype=np.uint64)


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes `count` numbers of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(values: Unsigned, bits: int) -> bytes:
    """The low `bits` of each value one after another, in packed_bytes(len(values), bits) bytes.

    Eight values of at most eight bits fill a word of 64; of wider ones, their low bytes go first, then the rest.
    """
    if bits > 8:
        return values.astype(np.uint8).tobytes() + pack(values >> np.uint32(8), bits - 8)
    eights = np.zeros((-(-len(values) // 8), 8), np.uint64)
    eights.ravel()[: len(values)] = values
    words = np.bitwise_or.reduce(eights << EIGHT * np.uint64(bits), axis=1)
    octets = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :bits]
    return bytes(octets.tobytes()[: packed_bytes(len(values), bits)])


def unpack(data: bytes, count: int, bits: int) -> Unsigned:
    """The `count` values that `pack` has made `data` of."""
    if bits > 8:
        low = np.frombuffer(data[:count], np.uint8)
        return low | unpack(data[count:], count, bits - 8) << np.uint32(8)
    octets = np.zeros((-(-count // 8), 8), np.uint8)
    octets[:, :bits] = np.frombuffer(data.ljust(len(octets) * bits, b"\0"), np.uint8).reshape(-1, bits)
    eights = octets.view("<u8") >> EIGHT * np.uint64(bits) & np.uint64(2**bits - 1)
    values: Unsigned = eights.ravel()[:count].astype(np.uint32)
    return values
