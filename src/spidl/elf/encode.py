"""Tables to bytes: the string, hash and version tables of a small object."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from spidl.elf.constants import (
    ELFCLASS64,
    ELFDATA2LSB,
    ELFMAG,
    EM_X86_64,
    ET,
    EV_CURRENT,
    PAGE,
    VER_FLG_BASE,
)
from spidl.elf.hashes import gnu_hash, sysv_hash
from spidl.elf.tables import EHDR, PHDR


def encoded(text: str) -> bytes:
    """A name as the bytes it was read from."""
    return text.encode(errors="surrogateescape")


@dataclass(slots=True)
class Strings:
    """A growing string table; equal strings share their bytes."""

    content: bytearray = field(default_factory=lambda: bytearray(1))
    offsets: dict[str, int] = field(default_factory=lambda: {"": 0})

    def add(self, text: str) -> int:
        """The offset of a string, in bytes."""
        if text not in self.offsets:
            self.offsets[text] = len(self.content)
            self.content += encoded(text) + b"\0"
        return self.offsets[text]


@dataclass(slots=True)
class Segment:
    """Bytes laid out one behind the other from a page boundary; places are file offsets."""

    start: int
    content: bytearray = field(default_factory=bytearray)

    @property
    def end(self) -> int:
        return self.start + len(self.content)

    @property
    def next_page(self) -> int:
        return -(-self.end // PAGE) * PAGE

    def place(self, size: int, align: int = 8) -> int:
        self.content += bytes(-self.end % align)
        offset = self.end
        self.content += bytes(size)
        return offset

    def put(self, content: bytes, align: int = 8) -> int:
        offset = self.place(len(content), align)
        self.write(offset, content)
        return offset

    def write(self, offset: int, content: bytes) -> None:
        self.content[offset - self.start : offset - self.start + len(content)] = content


def gnu_sort_key(name: bytes, count: int) -> int:
    """What DT_GNU_HASH wants ``count`` symbols sorted by: the bucket."""
    return gnu_hash(name) % _gnu_buckets(count)


def _gnu_buckets(count: int) -> int:
    return max(1, count // 2)


def gnu_hash_table(names: Sequence[bytes], first: int) -> bytes:
    """DT_GNU_HASH for the symbols from index ``first``, sorted by `gnu_sort_key`."""
    nbuckets, shift = _gnu_buckets(len(names)), 6
    words = 1
    while words * 16 < len(names):
        words *= 2
    bloom, buckets, chain = [0] * words, [0] * nbuckets, []
    hashes = [gnu_hash(name) for name in names]
    for index, value in enumerate(hashes):
        bloom[value // 64 % words] |= 1 << value % 64 | 1 << (value >> shift) % 64
        bucket = value % nbuckets
        buckets[bucket] = buckets[bucket] or first + index
        last = index + 1 == len(hashes) or hashes[index + 1] % nbuckets != bucket
        chain.append(value & ~1 | last)
    return struct.pack(
        f"<4I{words}Q{nbuckets}I{len(chain)}I",
        nbuckets, first, words, shift, *bloom, *buckets, *chain,
    )  # fmt: skip


def sysv_hash_table(names: Sequence[bytes]) -> bytes:
    """DT_HASH for a whole symbol table; empty names are not hashed."""
    nbuckets = max(1, len(names) // 2)
    buckets, chain = [0] * nbuckets, [0] * len(names)
    for index, name in enumerate(names):
        if name:
            bucket = sysv_hash(name) % nbuckets
            chain[index], buckets[bucket] = buckets[bucket], index
    return struct.pack(
        f"<2I{nbuckets}I{len(names)}I", nbuckets, len(names), *buckets, *chain
    )  # fmt: skip


def verdef_table(strings: Strings, base: str, versions: Sequence[str]) -> bytes:
    """DT_VERDEF: the base definition (index 1) and then the versions, from index 2."""
    table = b""
    names = [base, *versions]
    for index, name in enumerate(names, 1):
        table += struct.pack(
            "<4H3I2I",
            1, VER_FLG_BASE if index == 1 else 0, index, 1,
            sysv_hash(encoded(name)), 20, 28 if index < len(names) else 0,
            strings.add(name), 0,
        )  # fmt: skip
    return table


def verneed_table(strings: Strings, needs: dict[str, dict[str, int]]) -> bytes:
    """DT_VERNEED: file to version name to index."""
    table = b""
    for number, (file, versions) in enumerate(needs.items(), 1):
        size = 16 * len(versions)
        table += struct.pack(
            "<2H3I",
            1, len(versions), strings.add(file), 16, 16 + size if number < len(needs) else 0,
        )  # fmt: skip
        for place, (name, index) in enumerate(versions.items(), 1):
            table += struct.pack(
                "<I2H2I",
                sysv_hash(encoded(name)), 0, index,
                strings.add(name), 16 if place < len(versions) else 0,
            )  # fmt: skip
    return table


def relr_table(addresses: Sequence[int]) -> bytes:
    """DT_RELR for ascending, distinct, 8-byte-aligned virtual addresses."""
    entries: list[int] = []
    rest = list(addresses)
    while rest:
        entries.append(rest.pop(0))
        at = entries[-1] + 8
        while rest and rest[0] < at + 63 * 8:
            bitmap = 1
            while rest and rest[0] < at + 63 * 8:
                bitmap |= 2 << (rest.pop(0) - at) // 8
            entries.append(bitmap)
            at += 63 * 8
    return struct.pack(f"<{len(entries)}Q", *entries)


def pack_headers(
    type: ET, entry: int, base: int, rows: Sequence[tuple[int, int, int, int, int]]
) -> bytes:
    """The ELF header and, right behind it, program headers of (type, flags, offset, size, align).

    Addresses are ``base`` + offset; a segment of size 0 has no address.
    """
    ident = ELFMAG + bytes([ELFCLASS64, ELFDATA2LSB, EV_CURRENT]) + bytes(9)
    packed = struct.pack(
        "<16s2HI3QI6H",
        ident, type, EM_X86_64, EV_CURRENT, entry, EHDR.itemsize, 0, 0,
        EHDR.itemsize, PHDR.itemsize, len(rows), 64, 0, 0,
    )  # fmt: skip
    for kind, flags, offset, size, align in rows:
        address = base + offset if size else 0
        packed += struct.pack("<2I6Q", kind, flags, offset, address, address, size, size, align)
    return packed
