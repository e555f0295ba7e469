"""The tracee's mappings, read from /proc/PID/maps and /proc/PID/pagemap (proc(5))."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import numpy as np

from spidl.link.actions import Protection
from spidl.targets.exec.snapshot import Vma

_PAGE = mmap.PAGESIZE
_ENTRY = 8
_FILE_PAGE = 61
"""Bit of a pagemap entry: the page belongs to a file; clear for an anonymous one."""
_PRESENT_OR_SWAPPED = 62


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
        lines = file.readall().splitlines()
    vmas = []
    for line in lines:
        span, permissions, offset, device, inode, *path = line.split(None, 5)
        start, _, end = span.partition(b"-")
        protection, shared = _PROTECTIONS[permissions]
        if inode == b"0":
            number = 0
        else:
            major, _, minor = device.partition(b":")
            number = os.makedev(int(major, 16), int(minor, 16))
        vmas.append(
            Vma(
                start=int(start, 16),
                end=int(end, 16),
                protection=protection,
                shared=shared,
                offset=int(offset, 16),
                device=number,
                inode=int(inode),
                path=os.fsdecode(path[0]) if path else "",
            )
        )
    return vmas


def with_anonymous_pages(pid: int, vmas: Sequence[Vma]) -> list[bool]:
    """For each mapping, given in order of address: does it hold an anonymous page?

    Bits 61 to 63 of an entry are readable without privileges
    (Documentation/admin-guide/mm/pagemap.rst).
    """
    answers: list[bool] = []
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        first = 0
        while first < len(vmas):
            last = first + 1
            while last < len(vmas) and vmas[last].start == vmas[last - 1].end:
                last += 1
            run = vmas[first:last]
            start = run[0].start // _PAGE
            entries = _entries(descriptor, start, run[-1].end // _PAGE - start)
            anonymous = (entries >> _FILE_PAGE & 1 == 0) & (entries >> _PRESENT_OR_SWAPPED != 0)
            answers += [
                bool(anonymous[vma.start // _PAGE - start : vma.end // _PAGE - start].any())
                for vma in run
            ]
            first = last
    finally:
        os.close(descriptor)
    return answers


def _entries(descriptor: int, page: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    content = os.pread(descriptor, count * _ENTRY, page * _ENTRY)
    if len(content) != count * _ENTRY:
        raise OSError(f"/proc/PID/pagemap ends before page {page + count:#x}")
    return np.frombuffer(content, dtype=np.uint64)


def program_break(pid: int) -> int:
    """Where the heap of brk(2) starts: field 47 of /proc/PID/stat."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        fields = file.readall().rpartition(b")")[2].split()
    return int(fields[47 - 3])
