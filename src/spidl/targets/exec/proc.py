"""The tracee's mappings, read from /proc/PID/maps and /proc/PID/pagemap (proc(5))."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from spidl.link.actions import Protection
from spidl.link.memory import U64
from spidl.targets.exec.snapshot import Vma

_PAGE = mmap.PAGESIZE
_ENTRY = 8
_FILE_PAGE = 61
"""Bit of a pagemap entry: the page belongs to a file; clear for an anonymous one."""
_PRESENT_OR_SWAPPED = 62
_AT_A_TIME = 1 << 18
"""Pages; a program may map terabytes and use none of them."""


def _protections() -> dict[bytes, tuple[Protection, bool]]:
    table = {}
    for bits in range(8):
        text = "".join(letter if bits >> i & 1 else "-" for i, letter in enumerate("rwx"))
        for letter in "ps":
            table[(text + letter).encode()] = (Protection(bits), letter == "s")
    return table


_PROTECTIONS = _protections()


def read_vmas(pid: int) -> list[Vma]:
    """All mappings in order of address; raises OSError where the process is gone."""
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
        return [_parse(line) for line in file.readall().splitlines()]


@lru_cache(maxsize=1 << 14)
def _parse(line: bytes) -> Vma:
    # All runs of a program map its objects at the same addresses: most lines come thrice.
    span, permissions, offset, device, inode, *path = line.split(None, 5)
    start, _, end = span.partition(b"-")
    protection, shared = _PROTECTIONS[permissions]
    if inode == b"0":
        number = 0
    else:
        major, _, minor = device.partition(b":")
        number = os.makedev(int(major, 16), int(minor, 16))
    return Vma(
        start=int(start, 16),
        end=int(end, 16),
        protection=protection,
        shared=shared,
        offset=int(offset, 16),
        device=number,
        inode=int(inode),
        path=os.fsdecode(path[0]) if path else "",
    )


def anonymous_pages(pid: int, vmas: Sequence[Vma]) -> U64:
    """The addresses of the anonymous pages in mappings that are given in order of address.

    Bits 61 to 63 of an entry are readable without privileges
    (Documentation/admin-guide/mm/pagemap.rst).
    """
    found: list[U64] = []
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in _joined(vmas):
            for page in range(start // _PAGE, end // _PAGE, _AT_A_TIME):
                entries = _entries(descriptor, page, min(_AT_A_TIME, end // _PAGE - page))
                anonymous = (entries >> _FILE_PAGE & 1 == 0) & (entries >> _PRESENT_OR_SWAPPED != 0)
                found.append((np.flatnonzero(anonymous) + page).astype(np.uint64))
    finally:
        os.close(descriptor)
    return np.concatenate(found) * np.uint64(_PAGE) if found else np.zeros(0, np.uint64)


def _joined(vmas: Sequence[Vma]) -> Iterator[tuple[int, int]]:
    """(start, end) of the runs of mappings without a gap."""
    first = 0
    for last in range(1, len(vmas) + 1):
        if last == len(vmas) or vmas[last].start != vmas[last - 1].end:
            yield vmas[first].start, vmas[last - 1].end
            first = last


def _entries(descriptor: int, page: int, count: int) -> U64:
    content = os.pread(descriptor, count * _ENTRY, page * _ENTRY)
    if len(content) != count * _ENTRY:
        raise OSError(f"/proc/PID/pagemap ends before page {page + count:#x}")
    return np.frombuffer(content, dtype=np.uint64)


def program_break(pid: int) -> int:
    """Where the heap of brk(2) starts: field 47 of /proc/PID/stat."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        fields = file.readall().rpartition(b")")[2].split()
    return int(fields[47 - 3])
