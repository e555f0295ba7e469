"""Bytes at addresses: what is shared until it is written, what is inside, what is zero."""

from __future__ import annotations

import numpy as np
import pytest

from spidl.link.memory import Memory, among, is_zeros, zeros


def u64(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def test_zeros_take_no_memory_until_written() -> None:
    memory = Memory([(0x1000, zeros(1 << 40)), (1 << 50, np.ones(16, np.uint8))])
    assert memory.read_words(u64(0x1000, (1 << 40) - 8, 1 << 50)).tolist() == [
        0, 0, 0x0101010101010101,
    ]  # fmt: skip
    assert memory.read_words(u64(0x1003), 2).tolist() == [0]
    assert is_zeros(memory.read_bytes(0x2000, 1 << 39))
    assert is_zeros(memory.copy().blocks[0][1])


def test_zeros_are_copied_when_written() -> None:
    memory = Memory([(0x1000, zeros(0x2000))])
    other = memory.copy()
    memory.write_words(u64(0x1008), u64(5))
    assert memory.read_words(u64(0x1000, 0x1008)).tolist() == [0, 5]
    assert other.read_words(u64(0x1008)).tolist() == [0]


def test_read_only_content_is_copied_when_written() -> None:
    file = np.frombuffer(bytes(range(16)), np.uint8)
    memory = Memory([(0x1000, file)])
    memory.write_bytes(0x1001, np.array([9], np.uint8))
    assert memory.read_bytes(0x1000, 3).tolist() == [0, 9, 2]
    assert file[1] == 1


def test_a_copy_is_independent() -> None:
    memory = Memory([(0x1000, np.zeros(16, np.uint8))])
    other = memory.copy()
    other.write_words(u64(0x1000), u64(1))
    assert memory.read_words(u64(0x1000)).tolist() == [0]


@pytest.mark.parametrize(
    ("address", "width", "inside"),
    [
        (0xFFF, 1, False),
        (0x1000, 8, True),
        (0x1008, 8, True),
        (0x1009, 8, False),
        (0x100F, 1, True),
        (0x1010, 1, False),
        (0x1FFF, 1, False),
        (0x2000, 8, True),
        (2**64 - 1, 8, False),
    ],
)
def test_holds_says_what_reading_does(address: int, width: int, inside: bool) -> None:
    memory = Memory([(0x1000, np.zeros(16, np.uint8)), (0x2000, np.zeros(16, np.uint8))])
    assert memory.holds(u64(address), width).tolist() == [inside]
    if inside:
        memory.read_words(u64(address), width)
    else:
        with pytest.raises(LookupError):
            memory.read_words(u64(address), width)


def test_nothing_is_inside_no_memory() -> None:
    assert Memory([]).holds(u64(0, 1)).tolist() == [False, False]


def test_among() -> None:
    assert among(u64(1, 5, 9, 10), u64(1, 9)).tolist() == [True, False, True, False]
    assert among(u64(1), u64()).tolist() == [False]
    assert among(u64(), u64(1)).tolist() == []
