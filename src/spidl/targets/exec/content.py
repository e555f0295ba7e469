"""The content of a stopped program's private memory, read without touching what it has not touched.

A page without a copy of its own is zero, or the file's: a gigabyte of .bss costs nothing here, and
a large .data is read from the page cache instead of being mapped into the tracee page by page.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import numpy as np

from spidl.link.memory import U8, U64, zeros
from spidl.targets.exec import ptrace
from spidl.targets.exec.snapshot import CapturePlan, Region, Vma

_PAGE = mmap.PAGESIZE
_WORTH = 16 * _PAGE
"""Bytes of untouched pages, from which on they are not simply read with their neighbours."""

_Range = tuple[int, int]
"""Address and length in bytes."""


def pages_of(touched: U64, vmas: Sequence[Vma]) -> list[U64]:
    """The part of ``touched`` (addresses of pages, in order) that lies in each mapping."""
    low = np.searchsorted(touched, np.array([vma.start for vma in vmas], np.uint64)).tolist()
    high = np.searchsorted(touched, np.array([vma.end for vma in vmas], np.uint64)).tolist()
    return [touched[first:last] for first, last in zip(low, high, strict=True)]


def read_private(pid: int, plan: CapturePlan, vmas: Sequence[Vma], touched: U64) -> list[Region]:
    """The regions of private mappings, of which ``touched`` (in order) are the anonymous pages."""
    ranges = [
        [(vma.start, vma.end - vma.start)] if vma.shared else _runs(vma, pages)
        for vma, pages in zip(vmas, pages_of(touched, vmas), strict=True)
    ]
    content = ptrace.read_memory(pid, [part for parts in ranges for part in parts])
    regions: list[Region] = []
    at = 0
    for vma, parts in zip(vmas, ranges, strict=True):
        size = sum(length for _, length in parts)
        own = content[at : at + size]
        at += size
        if size == vma.end - vma.start:
            regions.append(Region(vma.start, own))
        elif vma.inode:
            regions.append(Region(vma.start, _with_file(pid, plan, vma, parts, own)))
        else:
            regions += _with_zeros(vma, parts, own)
    return regions


def _runs(vma: Vma, touched: U64) -> list[_Range]:
    """What to read of a mapping: its touched pages, and short gaps between them."""
    if not len(touched):
        return [] if vma.end - vma.start >= _WORTH else [(vma.start, vma.end - vma.start)]
    after = np.flatnonzero(np.diff(touched) > _WORTH + _PAGE)
    starts = touched[np.concatenate([[0], after + 1])].tolist()
    ends = [end + _PAGE for end in touched[np.concatenate([after, [-1]])].tolist()]
    if starts[0] - vma.start <= _WORTH:
        starts[0] = vma.start
    if vma.end - ends[-1] <= _WORTH:
        ends[-1] = vma.end
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _with_zeros(vma: Vma, parts: list[_Range], own: U8) -> list[Region]:
    regions: list[Region] = []
    at, done = vma.start, 0
    for start, length in parts:
        if start > at:
            regions.append(Region(at, zeros(start - at)))
        regions.append(Region(start, own[done : done + length]))
        at, done = start + length, done + length
    if vma.end > at:
        regions.append(Region(at, zeros(vma.end - at)))
    return regions


def _with_file(pid: int, plan: CapturePlan, vma: Vma, parts: list[_Range], own: U8) -> U8:
    descriptor = _open(plan, vma)
    if descriptor is None:
        return ptrace.read_memory(pid, [(vma.start, vma.end - vma.start)])
    content = np.zeros(vma.end - vma.start, np.uint8)
    got = 0
    try:
        while step := os.preadv(descriptor, [content.data[got:]], vma.offset + got):
            got += step
    finally:
        os.close(descriptor)
    done = 0
    for start, length in parts:
        content[start - vma.start :][:length] = own[done : done + length]
        done += length
    return content


def _open(plan: CapturePlan, vma: Vma) -> int | None:
    """A descriptor of the file behind a mapping, where it is still the one that was placed."""
    key = vma.device, vma.inode
    path = next((p.path for p in plan.placements if (p.device, p.inode) == key), None)
    if path is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) == key:
        return descriptor
    os.close(descriptor)
    return None
