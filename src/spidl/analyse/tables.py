"""Tables of relative addresses: the jump tables of switches, relative vtables, label differences.

An entry is the distance from the table's start, which code names, to a place in the code.
Compilers write 4 bytes an entry, 8 in the large code model.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from spidl.analyse.code import BRANCH, JUMP, MEMORY, TABLE, WIDE, Refs
from spidl.analyse.layout import Column, Layout

_EMPTY: Column = np.zeros(0, dtype=np.int64)
_SPAN: Final = 1 << 32
"""Bytes; more than a function has."""
_PAIRS: Final = 1 << 13
"""Labels times tables of a function that are tried."""
_LABELS: Final = 1 << 12
"""Entries of a table of label differences: an opcode each. Zeros are entries too, and many follow
one another in constants that are no table."""
_LONGEST: Final = 1 << 16
"""Entries; a switch over every value of 16 bits is a table too."""
_BLOCK: Final = 1 << 12
"""Entries that are read at once."""


def table_targets(layout: Layout, refs: Refs, sure: Refs, starts: Column) -> Refs:
    """Where the tables that code refers to lead, as references of the same instructions.

    ``starts`` are where functions surely begin, and no tables: assembly has tables beside code.

    Tables follow one another: where an operand in ``sure`` refers to, another one begins, whose
    entries count from there.
    """
    operands = (refs.kinds == MEMORY) | (refs.kinds == WIDE)
    operands &= layout.in_constants(refs.targets) & ~np.isin(refs.targets, starts)
    sources, bases = refs.sources[operands], refs.targets[operands]
    unique, which = np.unique(bases, return_inverse=True)
    bounds = np.unique(sure.targets[(sure.kinds == MEMORY) | (sure.kinds == WIDE)])
    after = np.searchsorted(bounds, unique, "right")
    limits = np.append(bounds, 1 << 62)[after]
    found = [_read(layout, unique, limits, size) for size in (4, 8)]
    owner = np.concatenate([owner for owner, _ in found])
    targets = np.concatenate([targets for _, targets in found])
    if not len(owner):
        return Refs.join([])
    # Each instruction that names a table has all its entries.
    order = np.argsort(owner, kind="stable")
    owner, targets = owner[order], targets[order]
    first = np.searchsorted(owner, which, "left")
    counts = np.searchsorted(owner, which, "right") - first
    rows = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    rows = rows + np.arange(len(rows))
    return Refs(np.repeat(sources, counts), targets[rows], np.full(len(rows), TABLE, dtype=np.int8))


def label_targets(layout: Layout, refs: Refs, homes: Column, starts: Column) -> Refs:
    """Where tables lead whose entries count from a label: GCC's ``&&label - &&base``.

    The function names both the table and the label, which is in its own middle; entries lead into
    the function, or into a part of it that it shares jumps with.  ``homes`` has the function of
    each reference, ``starts`` where the functions begin.
    """
    operands = np.flatnonzero(((refs.kinds == MEMORY) | (refs.kinds == WIDE)) & (homes >= 0))
    targets, users = refs.targets[operands], homes[operands]
    inside = layout.in_text(targets)
    owner = np.searchsorted(starts, targets, "right") - 1
    own = inside & (owner == users) & (targets != starts[owner])
    count = len(starts)
    label = np.unique(users[own] * _SPAN + (targets[own] - starts[users[own]]))
    labelled = label // _SPAN
    rows = operands[~inside & layout.in_constants(targets) & np.isin(users, labelled)]
    rows = rows[np.argsort(homes[rows], kind="stable")]
    # Each table of a function with each of its labels.
    first = np.searchsorted(homes[rows], labelled, "left")
    sizes = np.searchsorted(homes[rows], labelled, "right") - first
    jumps = np.isin(refs.kinds, (JUMP, BRANCH)) & (homes >= 0) & layout.in_text(refs.targets)
    led, leaving = np.searchsorted(starts, refs.targets[jumps], "right") - 1, homes[jumps]
    shared = np.unique(np.concatenate([leaving * count + led, led * count + leaving]))
    # An interpreter's main loop names too much to try it all: it has all parts that jump into it.
    many = np.bincount(labelled, sizes, count) > _PAIRS
    parts = many[led] & (led != leaving)
    found = [_tables(starts[led[parts]], starts[leaving[parts]])]
    sizes = np.where(many[labelled], 0, sizes)
    rows = rows[spread(first, sizes)]
    bases = np.repeat(starts[labelled] + label % _SPAN, sizes)
    places = refs.targets[rows]
    for step in range(_LABELS):
        values = layout.halves_at(places + 4 * step)
        to = bases + values
        fine = (np.abs(values) < 1 << 32) & layout.in_text(to)
        led = np.searchsorted(starts, to, "right") - 1
        fine &= (led == homes[rows]) | _among(homes[rows] * count + led, shared)
        rows, bases, places, to = rows[fine], bases[fine], places[fine], to[fine]
        if not len(rows):
            break
        found.append(_tables(refs.sources[rows], to))
    return Refs.join(found)


def _among(values: Column, known: Column) -> npt.NDArray[np.bool_]:
    """Which values are in an ascending column."""
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[at] == values
    return found


def _tables(sources: Column, targets: Column) -> Refs:
    return Refs(sources, targets, np.full(len(sources), TABLE, dtype=np.int8))


def spread(first: Column, counts: Column) -> Column:
    """The indexes [first, first + count) of each row, one after the other."""
    rows = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    spread: Column = (rows + np.arange(len(rows))).astype(np.int64)
    return spread


def _read(layout: Layout, bases: Column, limits: Column, size: int) -> tuple[Column, Column]:
    """(index of the base, target) of every entry, as long as entries lead to code.

    All tables are read side by side; the fewer are left, the more entries of each at a time.
    """
    owner, targets = [_EMPTY], [_EMPTY]
    rows, step = np.arange(len(bases)), 0
    while len(rows) and step < _LONGEST:
        wide = min(max(1, _BLOCK // len(rows)), _LONGEST - step)
        at = bases[rows, None] + size * np.arange(step, step + wide)
        flat = at.reshape(-1)
        values = layout.halves_at(flat) if size == 4 else layout.words_at(flat)
        # A distance of 0 leads to the table itself.
        fine = (values != 0) & (np.abs(values) < 1 << 40)
        found = np.where(fine, np.repeat(bases[rows], wide) + values, -1)
        fine &= layout.in_text(found)
        good = np.logical_and.accumulate(fine.reshape(at.shape) & (at < limits[rows, None]), axis=1)
        which, column = np.nonzero(good)
        owner.append(rows[which])
        targets.append(found.reshape(at.shape)[which, column])
        rows = rows[good[:, -1]]
        step += wide
    return np.concatenate(owner), np.concatenate(targets)
