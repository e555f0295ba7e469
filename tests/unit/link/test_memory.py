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


PAGE = 4096
FAR = 0x5555_0000_0000
"""Too far from the low addresses of a program with fixed ones for a table of all pages."""


def flat_memory(low: int, high: int) -> tuple[Memory, np.ndarray[tuple[int], np.dtype[np.uint8]]]:
    """Two arrays that are one, with zeros and a view of a file between them."""
    flat = np.arange(4 * PAGE).astype(np.uint8)
    file = np.frombuffer(bytes(PAGE), np.uint8)
    blocks = [
        (low, flat[:PAGE]),
        (low + PAGE, file),
        (low + 3 * PAGE, zeros(PAGE)),
        (high, flat[PAGE:]),
    ]
    return Memory(blocks, flat), flat


@pytest.mark.parametrize(("low", "high"), [(0x40_0000, 0x41_0000), (0x40_0000, FAR)])
def test_a_batch_in_one_array(low: int, high: int) -> None:
    memory, flat = flat_memory(low, high)
    addresses = u64(high + 8, low, high + 3 * PAGE - 8, low + PAGE - 8)
    where = memory.locate(addresses)
    assert where is not None
    assert (where * 8).tolist() == [PAGE + 8, 0, 4 * PAGE - 8, PAGE - 8]
    assert memory.flat_words == 4 * PAGE // 8
    before = memory.read_words(addresses).tolist()
    assert before == flat.view(np.uint64)[where].tolist()
    memory.write_words(addresses, u64(1, 2, 3, 4))
    assert memory.read_words(addresses).tolist() == [1, 2, 3, 4]
    assert memory.read_bytes(low, 1).tolist() == [2]


@pytest.mark.parametrize("high", [0x41_0000, FAR])
@pytest.mark.parametrize("offset", [PAGE, 3 * PAGE, 4, PAGE - 4])
def test_what_does_not_lie_in_the_one_array(high: int, offset: int) -> None:
    memory, _ = flat_memory(0x40_0000, high)
    address = u64(0x40_0000 + offset)
    assert memory.locate(u64(high)) is not None
    assert memory.locate(np.concatenate([u64(high), address])) is None
    if offset == PAGE - 4:
        with pytest.raises(LookupError):
            memory.read_words(address)
        return
    memory.write_words(np.concatenate([u64(high), address]), u64(7, 9))
    assert memory.read_words(np.concatenate([address, u64(high)])).tolist() == [9, 7]


@pytest.mark.parametrize("high", [0x41_0000, FAR])
@pytest.mark.parametrize("address", [0, 0x3F_FFF8, 0x40_2000, 0x40_4000, 2**64 - 8])
def test_outside_of_everything(high: int, address: int) -> None:
    memory, _ = flat_memory(0x40_0000, high)
    batch = u64(high, address)
    assert memory.locate(batch) is None
    assert memory.holds(batch).tolist() == [True, False]
    for call in (lambda: memory.read_words(batch), lambda: memory.write_words(batch, batch)):
        with pytest.raises(LookupError) as caught:
            call()
        assert caught.value.args == (address,)


def test_a_batch_over_many_blocks() -> None:
    memory = Memory([(0x1000 * i, np.zeros(16, np.uint8)) for i in range(1, 30)])
    addresses = np.arange(29, 0, -1).astype(np.uint64) * np.uint64(0x1000) + np.uint64(8)
    memory.write_words(addresses, addresses)
    assert memory.read_words(addresses[::2]).tolist() == addresses[::2].tolist()
    assert memory.read_words(addresses - np.uint64(8)).tolist() == [0] * 29


def test_joined_has_both_and_copies_what_is_new() -> None:
    memory, _ = flat_memory(0x40_0000, 0x41_0000)
    assert memory.joined([]) is memory
    new = np.ones(PAGE, np.uint8)
    both = memory.joined([(0x50_0000, new)])
    both.write_words(u64(0x40_0000, 0x50_0000), u64(5, 6))
    assert memory.read_words(u64(0x40_0000)).tolist() == [5]
    assert new[0] == 1


def test_make_writable_leaves_zeros() -> None:
    memory, _ = flat_memory(0x40_0000, 0x41_0000)
    memory.make_writable(lambda start: start != 0x41_0000)
    assert [data.flags.writeable for _, data in memory.blocks] == [True, True, False, True]
    assert is_zeros(memory.blocks[2][1])
