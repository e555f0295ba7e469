"""Objects in the data that hold pointers to code, where their bounds are known.

What data points to counts as reached, since anybody may read data.  Where it is known which bytes
are one object, a pointer in it counts only if something that is reached refers to the object: in C,
an address is computed from the object that it lies in (ISO C 6.5.6).  A stripped file does not say
what its objects are, so this holds for builds in `OBJECTS` only; in others all of data counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spidl.analyse.code import BOUND, MEMORY, WIDE, Refs
from spidl.analyse.known import OBJECTS
from spidl.analyse.layout import Column, Layout

_EMPTY: Column = np.zeros(0, dtype=np.int64)
_NEAR: Final = 1 << 12
"""Bytes before the first object and behind the last one within which an address may belong to one:
compilers write an array's address with a constant index in it, which may lead outside."""
_LEA: Final = 0x8D


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Ranges of virtual addresses, ascending and apart from one another."""

    starts: Column
    ends: Column

    def __len__(self) -> int:
        return len(self.starts)

    def home(self, vaddrs: Column) -> Column:
        """The object at each address, -1 for none."""
        if not len(self):
            return np.full(len(vaddrs), -1, dtype=np.int64)
        found = np.searchsorted(self.starts, vaddrs, "right") - 1
        return np.where((found >= 0) & (vaddrs < self.ends[found]), found, -1)

    def named(self, vaddrs: Column, exact: npt.NDArray[np.bool_]) -> tuple[Column, Column]:
        """Pairs (row of ``vaddrs``, object) of the objects that an address may have been made for.

        An ``exact`` one is that of an operand in memory.  Any other one belongs to the object that
        it lies in or ends; where it is not the start, to those beside it as well; where there is no
        object, to all of them.
        """
        if not len(self):
            return _EMPTY, _EMPTY
        near = (vaddrs >= self.starts[0] - _NEAR) & (vaddrs < self.ends[-1] + _NEAR)
        at = np.flatnonzero(near)
        home, exact = self.home(vaddrs[at]), exact[at]
        behind = np.searchsorted(self.ends, vaddrs[at], "left")
        behind = np.minimum(behind, len(self) - 1)
        ended = (home < 0) & (self.ends[behind] == vaddrs[at])
        home = np.where(ended, behind, home)
        inside = home >= 0
        beside = inside & ~exact & ~ended & (self.starts[home] != vaddrs[at])
        rows = [at[inside]]
        objects = [home[inside]]
        for step in (-1, 1):
            rows.append(at[beside])
            objects.append(np.clip(home[beside] + step, 0, len(self) - 1))
        lost = at[~inside & ~exact]
        rows.append(np.repeat(lost, len(self)))
        objects.append(np.tile(np.arange(len(self)), len(lost)))
        return np.concatenate(rows), np.concatenate(objects)


def known_objects(layout: Layout) -> Objects:
    """The objects of a build in `OBJECTS`; none for others, and where they do not fit the file."""
    file = layout.file
    table = OBJECTS.get(file.build_id.hex()) if file.build_id else None
    nothing = Objects(_EMPTY, _EMPTY)
    if table is None or layout.fixed:
        return nothing
    columns = np.array(
        [[int(part, 16) for part in item.split("+")] for item in table.split()], dtype=np.int64
    )
    starts, ends = columns[:, 0], columns[:, 0] + columns[:, 1]
    fine = bool((starts[1:] >= ends[:-1]).all() and layout.in_writable(starts).all())
    return Objects(starts, ends) if fine else nothing


def is_exact(layout: Layout, refs: Refs) -> npt.NDArray[np.bool_]:
    """Which references are operands in memory, and no addresses that go elsewhere."""
    exact: npt.NDArray[np.bool_] = refs.kinds == BOUND
    for text in layout.texts:
        rows = np.flatnonzero(
            (refs.kinds == MEMORY) & (refs.sources >= text.vaddr) & (refs.sources < text.end - 2)
        )
        at = refs.sources[rows] - text.vaddr
        wide = text.data[at] & 0xF0 == 0x40  # a REX prefix; lea has no other
        exact[rows] = text.data[at + wide] != _LEA
    return exact


def object_refs(layout: Layout, objects: Objects, refs: Refs) -> tuple[Column, Column]:
    """Pairs (row of ``refs``, object) of code that refers to objects."""
    rows = np.flatnonzero(np.isin(refs.kinds, (MEMORY, BOUND, WIDE)))
    at, found = objects.named(refs.targets[rows], is_exact(layout, refs)[rows])
    return rows[at], found
