"""The functions of a file and what each refers to.

Where frame tables say what a function is, it is decoded from start to end.  Between those (gaps:
PLTs of some linkers, assembly, constants) only what something refers to is followed, instruction
by instruction.  A file without frame tables is cut at symbols and at what calls and pointers lead
to, and is decoded whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from spidl.analyse.code import CALL, FLOWS, MEMORY, Decoded, Refs, sweep
from spidl.analyse.frames import Frames, read_frames
from spidl.analyse.gaps import Gaps
from spidl.analyse.layout import Column, Layout, Text
from spidl.analyse.superset import fixed_refs, strange_refs, strange_syscalls, wide_refs
from spidl.analyse.tables import label_targets, table_targets

_EMPTY: Column = np.zeros(0, dtype=np.int64)
_GAPS: Final = 1 << 12
"""Instructions between the ranges, with which a file still counts as one with frame tables."""
_ROUNDS: Final = 64
"""More passes than any real file without frames needs to find its functions."""


@dataclass(frozen=True, eq=False)
class Functions:
    """Functions by number: first the decoded ranges, ascending, then what gaps hold."""

    layout: Layout
    starts: Column
    """Of all functions."""
    ends: Column
    """Of the ranges only."""
    gaps: Gaps
    refs: Refs
    homes: Column
    """The function of each reference."""
    falls: tuple[Column, Column]
    """Pairs of functions: the first one's last instruction continues in the second."""
    syscalls: Column
    interrupts: Column
    frames: Frames
    strange: npt.NDArray[np.bool_]
    """Functions whose instructions cannot be told apart for sure."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ranges(self) -> int:
        """How many of the functions are ranges."""
        return len(self.ends)

    def home(self, vaddrs: Column) -> Column:
        """The function at each address, -1 for none."""
        return _home(self.starts[: self.ranges], self.ends, self.gaps, vaddrs)

    @cached_property
    def _sorted(self) -> tuple[list[int], list[int]]:
        return self.starts[: self.ranges].tolist(), self.ends.tolist()

    def home_of(self, vaddr: int) -> int:
        """`home` of one address."""
        starts, ends = self._sorted
        at = bisect_right(starts, vaddr) - 1
        if at >= 0 and vaddr < ends[at]:
            return at
        inside = self.gaps.owner.get(vaddr, -1)
        return -1 if inside < 0 else inside + len(starts)

    @cached_property
    def _by_home(self) -> tuple[Column, Column]:
        order = np.argsort(self.homes, kind="stable")
        return order, self.homes[order]

    def rows_of(self, function: int) -> Column:
        """Rows of the references that a function makes."""
        order, homes = self._by_home
        first, last = np.searchsorted(homes, [function, function + 1])
        return order[first:last]

    @cached_property
    def _by_target(self) -> tuple[Column, Column]:
        order = np.argsort(self.refs.targets, kind="stable")
        return order, self.refs.targets[order]

    def rows_to(self, start: int, end: int) -> Column:
        """Rows of the references to addresses in [start, end)."""
        order, targets = self._by_target
        first, last = np.searchsorted(targets, [start, end])
        return order[first:last]


def _home(starts: Column, ends: Column, gaps: Gaps, vaddrs: Column) -> Column:
    if not len(starts):
        found = np.full(len(vaddrs), -1, dtype=np.int64)
    else:
        found = np.searchsorted(starts, vaddrs, "right") - 1
        found = np.where((found >= 0) & (vaddrs < ends[found]), found, -1)
    if gaps.count:
        lost = np.flatnonzero(found < 0)
        inside = gaps.home(vaddrs[lost])
        found[lost] = np.where(inside >= 0, inside + len(starts), -1)
    return found


class _Builder:
    """Finds the functions of one file."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.frames = read_frames(layout)

    @cached_property
    def entered(self) -> Column:
        """Where the file can be entered from outside, or through data."""
        layout = self.layout
        exported = layout.symbol_values[layout.exported][layout.export_in_text]
        slots = layout.slots.targets
        vaddrs = [
            exported, layout.pointers.targets, slots, layout.roots, self.frames.lands[1],
            self.frames.personalities, np.array([layout.file.entry], dtype=np.int64),
        ]  # fmt: skip
        found = np.unique(np.concatenate(vaddrs))
        return found[layout.in_text(found)]

    @property
    def _known(self) -> Column:
        """Where functions surely begin."""
        return self.frames.starts if self.frames.found else _EMPTY

    def build(self) -> Functions:
        if self.frames.found:
            starts, ends = self._framed()
            found = self._decode(starts, ends, ends)
            if not found.gaps.gave_up:
                return found
            # The table knows some of the functions only, as in musl's libc.
            self.frames = replace(self.frames, found=False)
        starts = self._guessed()
        return self._decode(starts, self._next(starts), starts)

    def _framed(self) -> tuple[Column, Column]:
        """FDE ranges, without overlap; PLTs, which have one FDE, cut into their entries."""
        starts, keep = np.unique(self.frames.starts, return_index=True)
        ends = self.frames.ends[keep]
        cuts = np.unique(np.concatenate([starts, *self._plt_entries(starts, ends)]))
        owner = np.searchsorted(starts, cuts, "right") - 1
        ends = np.minimum(ends[owner], np.append(cuts[1:], 1 << 62))
        return cuts, self._clipped(cuts, ends)

    def _plt_entries(self, starts: Column, ends: Column) -> Iterator[Column]:
        """Starts of PLT entries: jumps through slots at a regular distance, to the FDE's end."""
        slots = self.layout.slots.vaddrs
        for text in self.layout.texts:
            data = text.data
            at = np.flatnonzero((data[:-5] == 0xFF) & (data[1:-4] == 0x25))
            jumps = text.vaddr + at
            at = at[np.isin(jumps + 6 + self.layout.halves_at(jumps + 2), slots)]
            # bnd jmp; endbr64
            at = at - ((at >= 1) & (data[at - 1] == 0xF2))
            marked = at >= 4
            for step, byte in enumerate((0xF3, 0x0F, 0x1E, 0xFA)):
                marked &= data[at - 4 + step] == byte
            entries = text.vaddr + at - 4 * marked
            owner = np.searchsorted(starts, entries, "right") - 1
            entries, owner = entries[owner >= 0], owner[owner >= 0]
            for which in np.unique(owner).tolist():
                mine = entries[owner == which]
                steps = np.diff(np.append(mine, ends[which]))
                # Before the first there may be the PLT's own entry.
                first = mine[0] - starts[which] in (0, steps[0])
                if first and steps[0] in (8, 16) and (steps == steps[0]).all():
                    yield mine

    def _guessed(self) -> Column:
        """Starts where calls, operands and pointers lead: what they cut is decoded anew."""
        texts = np.array([text.vaddr for text in self.layout.texts], dtype=np.int64)
        starts = np.union1d(np.union1d(texts, self.frames.starts), self.entered).astype(np.int64)
        new = np.arange(len(starts))
        fixed = [refs.targets for refs in fixed_refs(self.layout)]
        for _ in range(_ROUNDS):
            found = self._discovered(starts[new], self._next(starts)[new], fixed)
            fixed.clear()
            cuts = np.setdiff1d(found, starts)
            if not len(cuts):
                break
            cut = starts[np.searchsorted(starts, cuts, "right") - 1]
            starts = np.union1d(starts, cuts)
            new = np.searchsorted(starts, np.union1d(cuts, cut))
        return starts

    def _next(self, starts: Column) -> Column:
        ends = np.append(starts[1:], 1 << 62)
        return self._clipped(starts, ends)

    def _clipped(self, starts: Column, ends: Column) -> Column:
        """Ends, not beyond the segments."""
        limits = np.array([text.end for text in self.layout.texts], dtype=np.int64)
        clipped: Column = np.minimum(ends, limits[np.searchsorted(limits, starts, "right")])
        return clipped

    def _discovered(self, starts: Column, ends: Column, others: list[Column]) -> Column:
        """Targets of calls, operands that lead to code, and others: jumps can be inside a
        function."""
        layout, found = self.layout, [_EMPTY, *others]
        for text in layout.texts:
            rows = slice(*np.searchsorted(starts, [text.vaddr, text.end]).tolist())
            part = sweep(text, starts[rows], ends[rows], starts[rows])
            homes, wide_homes = (np.searchsorted(starts, refs.sources, "right") - 1
                                 for refs in (part.refs, part.wide))  # fmt: skip
            wide = wide_refs(layout, part.refs, homes, part.wide, wide_homes)
            fine = np.isin(part.refs.kinds, (CALL, MEMORY))
            found += [part.refs.targets[fine], wide.targets]
        targets = np.unique(np.concatenate(found))
        return targets[layout.in_text(targets)]

    def _recut(self, starts: Column, ends: Column, certain: Column, cuts: Column) -> Functions:
        """Decode again, with some functions in pieces."""
        owner = np.searchsorted(starts, cuts, "right") - 1
        cuts = cuts[(owner >= 0) & (cuts > starts[owner]) & (cuts < ends[owner])]
        pieces = np.union1d(starts, cuts).astype(np.int64)
        owner = np.searchsorted(starts, pieces, "right") - 1
        following = np.append(pieces[1:], 1 << 62)
        limits = np.minimum(ends[owner], following)
        return self._decode(pieces, limits, np.clip(certain[owner], pieces, limits), recut=False)

    def _decode(
        self, starts: Column, ends: Column, certain: Column, recut: bool = True
    ) -> Functions:
        layout = self.layout
        parts: list[Decoded] = []
        falls: list[Column] = [_EMPTY]
        strange = np.zeros(len(starts), dtype=np.bool_)
        for text in layout.texts:
            first, last = np.searchsorted(starts, [text.vaddr, text.end]).tolist()
            if first == last:
                continue
            rows = slice(first, last)
            part = sweep(text, starts[rows], ends[rows], certain[rows])
            if recut and len(part.cuts):
                # Behind a call that does not return there can be anything: begin anew there.
                return self._recut(starts, ends, certain, part.cuts)
            parts.append(part)
            falls.append(first + part.falls)
            if not self.frames.found:
                falls.append(first + part.returns)
            strange[first + part.strange] = True
        bad = [(int(starts[at]), int(ends[at])) for at in np.flatnonzero(strange).tolist()]
        wide = Refs.join(part.wide for part in parts)
        sure = Refs.join(part.refs for part in parts)
        refs = Refs.join(
            [
                sure,
                *fixed_refs(layout),
                *(strange_refs(layout, start, end) for start, end in bad),
            ]
        )
        no_gaps = Gaps(layout, starts, ends)
        homes = _home(starts, ends, no_gaps, refs.sources)
        more = wide_refs(layout, refs, homes, wide, _home(starts, ends, no_gaps, wide.sources))
        labels = label_targets(layout, refs, homes, starts)
        refs = Refs.join([refs, more])
        refs = Refs.join([refs, labels, table_targets(layout, refs, sure, self._known)])
        falling = np.concatenate(falls)
        gaps = self._gaps(starts, ends, refs, ends[falling], sure)
        refs = Refs.join([refs, *gaps.refs])
        homes = _home(starts, ends, gaps, refs.sources)
        known = homes >= 0
        syscalls = [part.syscalls for part in parts]
        syscalls += [strange_syscalls(layout, start, end) for start, end in bad]
        return Functions(
            layout,
            np.concatenate([starts, gaps.starts]),
            ends,
            gaps,
            refs.where(known),
            homes[known],
            (falling, _home(starts, ends, gaps, ends[falling])),
            np.unique(np.concatenate([_EMPTY, *syscalls, gaps.syscalls])),
            np.unique(np.concatenate([_EMPTY, *(p.interrupts for p in parts), gaps.interrupts])),
            self.frames,
            np.concatenate([strange, np.zeros(gaps.count, dtype=np.bool_)]),
        )

    def _gaps(
        self, starts: Column, ends: Column, refs: Refs, behind: Column, sure_refs: Refs
    ) -> Gaps:
        """Follow what leads between the ranges."""
        gaps = Gaps(self.layout, starts, ends)
        if not self.frames.found:
            return gaps
        empty = Gaps(self.layout, starts, ends)
        gaps.most = max(_GAPS, int((ends - starts).sum()) // 16)

        def outside(vaddrs: Column) -> list[int]:
            vaddrs = np.unique(vaddrs[self.layout.in_text(vaddrs)])
            lost = _home(starts, ends, empty, vaddrs) < 0
            found: list[int] = vaddrs[lost].tolist()
            return found

        flows = np.isin(refs.kinds, FLOWS)
        sure = [refs.targets[flows], behind, self.layout.roots, self.frames.lands[1]]
        gaps.follow(outside(np.concatenate(sure)), certain=True)
        gaps.follow(outside(np.concatenate([refs.targets[~flows], self.entered])), certain=False)
        done = 0
        while done < len(gaps.refs):
            new = Refs.join(gaps.refs[done:])
            tables = table_targets(self.layout, new, sure_refs, self._known)
            gaps.refs.append(tables)
            done = len(gaps.refs)
            new = Refs.join([new, tables])
            flows = np.isin(new.kinds, FLOWS)
            gaps.follow(outside(new.targets[flows]), certain=True)
            gaps.follow(outside(new.targets[~flows]), certain=False)
        return gaps


def find_functions(layout: Layout) -> Functions:
    """The functions of a file.  Raises LinkError ``analyse/no-iced``."""
    return _Builder(layout).build()


def text_at(layout: Layout, vaddr: int) -> Text | None:
    """The executable segment that holds an address."""
    return next((text for text in layout.texts if text.vaddr <= vaddr < text.end), None)
