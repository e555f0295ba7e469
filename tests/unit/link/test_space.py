"""The address space: mappings that do not overlap, and what lies where after the writes."""

from __future__ import annotations

import numpy as np
import pytest

from spidl.link.actions import Protection
from spidl.link.space import AddressSpace, Mapping, Provenance, page_down, page_up
from spidl.testing import expect

BY = Provenance("load", "test", "lib.so")
RW = Protection.READ | Protection.WRITE


def pages(start: int, count: int = 1, content: bytes = b"") -> Mapping:
    data = np.frombuffer(content, np.uint8)
    return Mapping(start, 4096 * count, RW, BY, filled=len(data), content=data)


def u64(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def test_pages_round() -> None:
    assert [page_down(x) for x in (0, 1, 4095, 4096, 4097)] == [0, 0, 0, 4096, 4096]
    assert [page_up(x) for x in (0, 1, 4095, 4096, 4097)] == [0, 4096, 4096, 4096, 8192]


def test_allocate_aligns_and_never_hands_out_twice() -> None:
    space = AddressSpace(0x10000)
    assert space.allocate(1) == 0x10000
    assert space.allocate(4097) == 0x11000
    assert space.allocate(1, 0x200000) == 0x200000
    assert space.allocate(1) == 0x201000


def test_each_link_gets_a_base_of_its_own() -> None:
    assert len({AddressSpace().base for _ in range(4)}) > 1


@pytest.mark.parametrize(
    ("start", "count"), [(0x10000, 1), (0x11000, 1), (0xF000, 2), (0x12000, 5), (0xF000, 9)]
)
def test_overlap(start: int, count: int) -> None:
    space = AddressSpace(0)
    space.map(pages(0x10000, 3))
    with expect("load/overlap") as expected:
        space.map(pages(start, count))
    assert "0x10000-0x13000" in expected.diagnostic.message


def test_neighbours_do_not_overlap() -> None:
    space = AddressSpace(0)
    for start in (0x12000, 0x10000, 0x11000, 0x13000):
        space.map(pages(start))
    assert len(space.mappings) == 4
    found = space.at(0x11FFF)
    assert found is not None
    assert found.start == 0x11000
    assert space.at(0xFFFF) is None
    assert space.at(0x14000) is None


def test_memory_is_content_then_zeros_then_writes() -> None:
    space = AddressSpace(0)
    space.map(pages(0x10000, 1, b"\1\2\3\4"))
    space.write(u64(0x10002, 0x10010), u64(0xBBAA, 7), BY, width=2)
    memory = space.memory
    assert memory.read_bytes(0x10000, 8).tobytes() == b"\1\2\xaa\xbb\0\0\0\0"
    space.write(u64(0x10010), u64(2**64 - 1), BY)
    assert space.memory.read_words(u64(0x10010)).tolist() == [2**64 - 1], "later writes win"


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", [0, 1, 3, 8])
def test_words_of_each_width_at_any_alignment(width: int, offset: int) -> None:
    space = AddressSpace(0)
    space.map(pages(0x10000))
    at = u64(0x10000 + offset, 0x10100 + offset)
    values = u64(0x1122334455667788, 0xFFEEDDCCBBAA9988)
    space.write(at, values, BY, width=width)
    mask = 2 ** (8 * width) - 1
    assert space.memory.read_words(at, width).tolist() == [int(v) & mask for v in values]
    behind = space.memory.read_bytes(0x10000 + offset + width, 4)
    assert not behind.any(), "nothing behind the word is touched"


def test_bytes_may_cross_mappings() -> None:
    space = AddressSpace(0)
    space.map(pages(0x10000))
    space.map(pages(0x11000))
    space.patch(0x10FFE, b"abcd", BY)
    assert space.memory.read_bytes(0x10FFC, 8).tobytes() == b"\0\0abcd\0\0"


@pytest.mark.parametrize("address", [0xFFF8, 0x11000, 0x10FFC])
def test_a_word_outside_is_an_error_that_names_the_writer(address: int) -> None:
    space = AddressSpace(0)
    space.map(pages(0x10000))
    space.write(u64(address), u64(1), BY)
    with expect("relocate/outside") as expected:
        assert space.memory
    assert "test in load of lib.so" in expected.diagnostic.message


def test_who_wrote_a_byte() -> None:
    space = AddressSpace(0)
    space.map(pages(0x10000))
    space.write(u64(0x10000, 0x10008), u64(1, 2), BY)
    space.patch(0x1000C, b"xyz", Provenance("relocate", "other", "lib.so"))
    found = [(write.by.module, row) for write, row in space.writers(0x1000D)]
    assert found == [("test", 1), ("other", 1)]
    assert [row for _, row in space.writers(0x10000)] == [0]
    assert list(space.writers(0x10010)) == []


def filled_space() -> AddressSpace:
    """Three mappings, of which one is filled in part; words and bytes over all of them."""
    space = AddressSpace(0)
    space.map(pages(0x10000, 3, bytes(range(256)) * 40))
    space.map(pages(0x13000))
    space.map(pages(0x20000, 2, b"\7" * 8192))
    space.write(u64(0x10008, 0x13010, 0x20FFC), u64(1, 2, 3), BY)
    space.write(u64(0x10004, 0x11FFE), u64(5, 6), BY, width=4)
    space.patch(0x12FF0, bytes(range(100, 132)), BY)
    space.write(u64(0x13008), u64(9), BY)
    return space


@pytest.mark.parametrize(
    "addresses",
    [
        (0x10000, 0x10008),
        (0x10004, 0x11FFE),
        (0x12700, 0x12FF8),
        (0x13000, 0x13008, 0x13010),
        (0x11FFC, 0x20FFC),
        (0x20000, 0x10000),
        (),
    ],
)
def test_reading_a_part_is_reading_the_whole(addresses: tuple[int, ...]) -> None:
    part, whole = filled_space(), filled_space()
    expected = whole.memory.read_words(u64(*addresses)).tolist()
    assert part.read_words(u64(*addresses), BY).tolist() == expected
    for address in addresses:
        part.copy(0x21000, address, 0x20, BY)
        whole.patch(0x21000, whole.memory.read_bytes(address, 0x20).tobytes(), BY)
        assert part.memory.read_bytes(0x20000, 8192).tobytes() == (
            whole.memory.read_bytes(0x20000, 8192).tobytes()
        )


def test_reading_a_part_leaves_the_content_alone() -> None:
    content = np.full(4096, 7, np.uint8)
    content.flags.writeable = False
    space = AddressSpace(0)
    space.map(Mapping(0x10000, 8192, RW, BY, filled=4096, content=content))
    space.write(u64(0x10000, 0x11000), u64(1, 2), BY)
    assert space.read_words(u64(0x10000, 0x11000), BY).tolist() == [1, 2]
    assert content[0] == 7


@pytest.mark.parametrize("address", [0xFF8, 0xFFFC, 0x14000, 0x13FFC, 2**64 - 8])
def test_reading_outside_is_an_error_that_names_the_reader(address: int) -> None:
    space = filled_space()
    with expect("relocate/outside") as expected:
        space.read_words(u64(0x10000, address), BY)
    assert "reads from" in expected.diagnostic.message


def test_a_bad_write_is_an_error_in_whatever_part_is_read() -> None:
    space = filled_space()
    space.write(u64(0x13FFC), u64(1), BY)
    with expect("relocate/outside") as expected:
        space.read_words(u64(0x13000), BY)
    assert "writes to 0x13ffc" in expected.diagnostic.message
