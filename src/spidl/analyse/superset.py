"""References that are found by looking at every byte, since instructions do not show them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from spidl.analyse.code import MEMORY, WIDE, Refs
from spidl.analyse.layout import Column, Layout
from spidl.elf import DT
from spidl.elf.tables import Bytes

_NEAR: Final = 1 << 31
"""Distances from the GOT are below this; what the large code model allows beyond is not met."""


def _refs(sources: Column, targets: Column, kind: int) -> Refs:
    return Refs(sources, targets, np.full(len(sources), kind, dtype=np.int8))


def _words(data: Bytes) -> npt.NDArray[np.uint32]:
    """The 4 bytes at every place, one after the other."""
    count = max(len(data) - 3, 0)
    words = np.empty(count, dtype=np.uint32)
    for shift in range(4):
        part = data[shift : shift + (len(data) - shift) // 4 * 4].view("<u4")
        words[shift::4] = part[: len(words[shift::4])]
    return words


def _interesting(layout: Layout, targets: Column) -> npt.NDArray[np.bool_]:
    """Which addresses are code, or slots."""
    found = layout.in_text(targets)
    slots = layout.slots.vaddrs
    if len(slots):
        near = np.flatnonzero((targets >= slots[0]) & (targets <= slots[-1]))
        found[near] |= np.isin(targets[near], slots)
    return found


def fixed_refs(layout: Layout) -> list[Refs]:
    """Immediates and displacements of 32 bits that are addresses, in a file with fixed ones.

    Such a file can also point to tables of relative addresses; those are data.
    """
    if not layout.fixed:
        return []
    found = []
    start, end = layout.file.span
    for text in layout.texts:
        words = _words(text.data)
        at = np.flatnonzero((words >= min(start, 1 << 32)) & (words < min(end, 1 << 32)))
        found.append(_refs(text.vaddr + at, words[at].astype(np.int64), WIDE))
    return found


def wide_refs(layout: Layout, refs: Refs, homes: Column, wide: Refs, wide_homes: Column) -> Refs:
    """Addresses that 64-bit immediates stand for: distances from the GOT, which the large code
    model adds (psABI 3.5), or the address itself in a file with fixed ones."""
    if not len(wide.sources):
        return wide
    own = layout.in_text(wide.targets) if layout.fixed else np.zeros(len(wide.targets), np.bool_)
    found = [wide.where(own)]
    got = layout.file.tag(DT.PLTGOT)
    small = np.abs(wide.targets) < _NEAR
    start, end = layout.file.span
    rows = np.flatnonzero(small & (wide_homes >= 0))
    named = np.flatnonzero((refs.kinds == MEMORY) & np.isin(homes, wide_homes[rows]))
    operands = _by_function(named, homes)
    for function, which in _by_function(rows, wide_homes).items():
        mine = wide.where(which)
        anchors = np.unique(refs.targets[operands.get(function, named[:0])])
        sums = np.unique((anchors[:, None] + mine.targets[None, :]).reshape(-1))
        base = sums[(sums >= start) & (sums < end) & ~layout.in_text(sums)]
        if got is not None and (not len(base) or got in base):
            base = np.array([got], dtype=np.int64)
        targets = (base[:, None] + mine.targets[None, :]).reshape(-1)
        sources = np.broadcast_to(mine.sources, (len(base), len(mine.sources))).reshape(-1)
        fine = (targets >= start) & (targets < end)
        found.append(_refs(sources[fine], targets[fine], WIDE))
    return Refs.join(found)


def _by_function(rows: Column, homes: Column) -> dict[int, Column]:
    """Rows by their function."""
    rows = rows[np.argsort(homes[rows], kind="stable")]
    functions, first = np.unique(homes[rows], return_index=True)
    return dict(zip(functions.tolist(), np.split(rows, first)[1:], strict=True))


def strange_refs(layout: Layout, start: int, end: int) -> Refs:
    """All that could be a branch or a RIP-relative operand in [start, end), at any place."""
    text = next(text for text in layout.texts if text.vaddr <= start < text.end)
    data = text.data[start - text.vaddr : end - text.vaddr]
    words = _words(data).view(np.int32).astype(np.int64)
    if len(words) < 2:
        return Refs.join([])
    places = start + np.arange(len(words) - 1, dtype=np.int64)
    first, values = data[: len(places)], words[1:]
    near = (first == 0xE8) | (first == 0xE9)
    near[1:] |= (data[: len(places) - 1] == 0x0F) & (first[1:] & 0xF0 == 0x80)
    operand = first & 0xC7 == 0x05
    found = [(places[near], places[near] + 5 + values[near])]
    for size in (0, 1, 2, 4):  # bytes of an immediate behind the displacement
        found.append((places[operand], places[operand] + 5 + size + values[operand]))
    short = (first & 0xF0 == 0x70) | (first == 0xEB) | (first & 0xFC == 0xE0)
    steps = data[1 : len(places) + 1].view(np.int8).astype(np.int64)
    found.append((places[short], places[short] + 2 + steps[short]))
    sources = np.concatenate([sources for sources, _ in found])
    targets = np.concatenate([targets for _, targets in found])
    fine = _interesting(layout, targets)
    return _refs(sources[fine], targets[fine], MEMORY)


def strange_syscalls(layout: Layout, start: int, end: int) -> Column:
    """Every place in [start, end) with the bytes of `syscall`."""
    text = next(text for text in layout.texts if text.vaddr <= start < text.end)
    data = text.data[start - text.vaddr : end - text.vaddr]
    return start + np.flatnonzero((data[:-1] == 0x0F) & (data[1:] == 0x05))
