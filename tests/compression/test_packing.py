"""Numbers in as few bits as they need."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fl_bench.compression.packing import pack, packed_bytes, unpack


@given(st.integers(1, 32).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1)))))
def test_there_and_back(case: tuple[int, list[int]]) -> None:
    bits, numbers = case
    data = pack(np.array(numbers, np.uint32), bits)
    assert len(data) == packed_bytes(len(numbers), bits)
    assert unpack(data, len(numbers), bits).tolist() == numbers


def test_the_bits_themselves() -> None:
    # 5, 1, 7, 2 in three bits each, the first lowest: 010 111 001 101 = 0b0101_1100_1101
    assert pack(np.array([5, 1, 7, 2], np.uint32), 3) == bytes([0b1100_1101, 0b0101])
    # of ten bits the low bytes stand first: 0x3FF and 0x102, then the two high bits of each, 0b01_11
    assert pack(np.array([0x3FF, 0x102], np.uint32), 10) == bytes([0xFF, 0x02, 0b0111])


def test_bytes_are_rounded_up() -> None:
    assert [packed_bytes(3, bits) for bits in (1, 2, 3, 8, 9)] == [1, 1, 2, 3, 4]
