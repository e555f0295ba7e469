"""The content of a stopped program's private memory, read without touching what it has not touched.

A page without a copy of its own is zero, or the file's: a gigabyte of .bss costs nothing here, and
a large .data is a view of the mapped file instead of being read from the tracee page by page.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from spidl.link.memory import U8, U64, zeros
from spidl.targets.exec import ptrace
from spidl.targets.exec.snapshot import CapturePlan, Region, Vma

_PAGE = mmap.PAGESIZE
_WORTH = {False: 16 * _PAGE, True: 256 * _PAGE}
"""Bytes of untouched pages, zeros or a file's, from which on they are not read with their
neighbours: each such run of a file's pages is a segment more in the image."""

_Range = tuple[int, int]
"""Address and length in bytes."""
_Part = tuple[int, int, U8 | None]
"""Address, length, and what stands there if it need not be read."""


def pages_of(touched: U64, vmas: Sequence[Vma]) -> list[U64]:
    """The part of ``touched`` (addresses of pages, in order) that lies in each mapping."""
    low = np.searchsorted(touched, np.array([vma.start for vma in vmas], np.uint64)).tolist()
    high = np.searchsorted(touched, np.array([vma.end for vma in vmas], np.uint64)).tolist()
    return [touched[first:last] for first, last in zip(low, high, strict=True)]


def read_private(
    pid: int,
    plan: CapturePlan,
    vmas: Sequence[Vma],
    touched: U64,
    allocate: Callable[[int], U8] = ptrace.new_buffer,
) -> tuple[list[Region], U8]:
    """The regions of private mappings, of which ``touched`` (in order) are the anonymous pages.

    What has to be read lies in one buffer, in order of address, which is the second result.
    """
    files = {(p.device, p.inode): p.content for p in plan.placements if p.content is not None}
    parts: list[_Part] = []
    for vma, pages in zip(vmas, pages_of(touched, vmas), strict=True):
        first, at = len(parts), vma.start
        for start, length in [*_runs(vma, pages), (vma.end, 0)]:
            if start > at:
                parts.append((at, start - at, _untouched(vma, at, start, files)))
            if length:
                parts.append((start, length, None))
            at = start + length
        if all(unread is None for _, _, unread in parts[first:]):
            parts[first:] = [(vma.start, vma.end - vma.start, None)]
    own = [(start, length) for start, length, unread in parts if unread is None]
    content = ptrace.read_memory(pid, own, allocate)
    regions: list[Region] = []
    done = 0
    for start, length, unread in parts:
        if unread is None:
            unread = content[done : done + length]
            done += length
        regions.append(Region(start, unread))
    return regions, content


def _runs(vma: Vma, touched: U64) -> list[_Range]:
    """What to read of a mapping: its touched pages, and short gaps between them."""
    size, worth = vma.end - vma.start, _WORTH[bool(vma.inode)]
    if vma.shared or size <= worth:
        return [(vma.start, size)]
    if not len(touched):
        return []
    if len(touched) * _PAGE == size:
        return [(vma.start, size)]
    after = np.flatnonzero(touched[1:] - touched[:-1] > worth + _PAGE)
    starts = touched[np.concatenate([[0], after + 1])].tolist()
    ends = [end + _PAGE for end in touched[np.concatenate([after, [-1]])].tolist()]
    if starts[0] - vma.start <= worth:
        starts[0] = vma.start
    if vma.end - ends[-1] <= worth:
        ends[-1] = vma.end
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _untouched(vma: Vma, start: int, end: int, files: Mapping[tuple[int, int], U8]) -> U8 | None:
    """What stands in a range without anonymous pages; None where that has to be read.

    That is so behind a file's end, and for a file whose content the plan does not have.
    """
    if not vma.inode:
        return zeros(end - start)
    file = files.get((vma.device, vma.inode))
    offset = vma.offset + start - vma.start
    if file is None or offset + end - start > len(file):
        return None
    return file[offset : offset + end - start]
