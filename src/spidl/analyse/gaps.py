"""Code outside the frame tables, followed from where something refers to it."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from functools import cached_property
from itertools import takewhile

import numpy as np

from spidl.analyse.code import BOUND, JUMP, MEMORY, WIDE, Refs, codes, decoder
from spidl.analyse.layout import Column, Layout
from spidl.elf import ADDRESS_LIMIT

_PROBE = 64
"""Instructions within which code that runs comes to a jump or a return, mostly."""

_ZEROS = bytes(4)
"""As instructions they add AL to where RAX points, twice."""


class Gaps:
    """Functions outside the ranges.  Each instruction belongs to the first that leads to it."""

    def __init__(self, layout: Layout, starts: Column, ends: Column) -> None:
        """``starts`` and ``ends`` are those of the ranges, ascending: code runs into them, not
        over them."""
        self.layout = layout
        self._limits: list[int] = starts.tolist()
        self._ends: list[int] = ends.tolist()
        self.owner: dict[int, int] = {}
        """Instruction to function."""
        self._starts: list[int] = []
        self._rows: list[tuple[int, int, int]] = []
        self._syscalls: list[int] = []
        self._interrupts: list[int] = []
        self._rejected: set[int] = set()
        self.refs: list[Refs] = []
        self.most = 1 << 60
        """Instructions after which it gives up."""

    @property
    def gave_up(self) -> bool:
        return len(self.owner) > self.most

    @property
    def count(self) -> int:
        return len(self._starts)

    @property
    def starts(self) -> Column:
        return np.array(self._starts, dtype=np.int64)

    @property
    def syscalls(self) -> Column:
        return np.array(self._syscalls, dtype=np.int64)

    @property
    def interrupts(self) -> Column:
        return np.array(self._interrupts, dtype=np.int64)

    @cached_property
    def instructions(self) -> dict[int, list[int]]:
        """The instructions of each function, ascending; asked for when all are found."""
        found = defaultdict(list)
        for vaddr in sorted(self.owner):
            found[self.owner[vaddr]].append(vaddr)
        return found

    def home(self, vaddrs: Column) -> Column:
        """The function of each instruction, -1 for none."""
        return np.array([self.owner.get(at, -1) for at in vaddrs.tolist()], dtype=np.int64)

    def follow(self, vaddrs: list[int], *, certain: bool) -> None:
        """Add functions at addresses; those that are not ``certain`` may be data."""
        for vaddr in vaddrs:
            if self.gave_up:
                break
            if vaddr in self.owner or (not certain and vaddr in self._rejected):
                continue
            if certain or self._is_plausible(vaddr):
                self._starts.append(vaddr)
                self._walk(vaddr, len(self._starts) - 1)
            else:
                self._rejected.add(vaddr)
        if self._rows:
            table = np.array(self._rows, dtype=np.int64)
            self.refs.append(Refs(table[:, 0], table[:, 1], table[:, 2].astype(np.int8)))
            self._rows.clear()

    def _bytes(self, vaddr: int, size: int) -> bytes:
        """Up to so many bytes, not beyond the next range."""
        for text in self.layout.texts:
            if text.vaddr <= vaddr < text.end:
                at = bisect_right(self._limits, vaddr)
                end = min(text.end, vaddr + size)
                if at < len(self._limits):
                    end = min(end, self._limits[at])
                return bytes(text.data[vaddr - text.vaddr : end - text.vaddr])
        return b""

    def _is_plausible(self, vaddr: int) -> bool:
        """Whether all ways from an address, up to calls and returns, are such as programs execute.

        Constants rarely are; code always is.
        """
        table, make = codes(), decoder()
        todo, seen = [vaddr], set[int]()
        while todo and len(seen) < _PROBE:
            start = todo.pop()
            data = self._bytes(start, 16 * _PROBE)
            for one in make(64, data, ip=start):
                code, ip = one.code, one.ip
                if ip in seen:
                    break
                seen.add(ip)
                # An instruction that the next range cuts in two is not one either; nor are zeros.
                if table.impossible[code] or data.startswith(_ZEROS, ip - start):
                    return False
                if table.kinds[code] >= 0:
                    target = one.near_branch_target
                    if not self.layout.is_text(target):
                        return False
                    if not table.calls[code] and self._is_gap(target):
                        todo.append(target)
                if table.ends[code] or table.calls[code] or len(seen) >= _PROBE:
                    break
        return bool(seen)

    def _walk(self, start: int, function: int) -> None:
        """All instructions that control flow reaches inside the gap."""
        table, make = codes(), decoder()
        todo = [start]
        while todo:
            vaddr = todo.pop()
            data = self._bytes(vaddr, 1 << 14)
            fresh = takewhile(lambda one: one.ip not in self.owner, make(64, data, ip=vaddr))
            last = None
            for one in fresh:
                code, ip = one.code, one.ip
                last = one
                self.owner[ip] = function
                if table.impossible[code]:
                    break
                if one.is_ip_rel_memory_operand and one.ip_rel_memory_address < ADDRESS_LIMIT:
                    kind = BOUND if table.bound[code] else MEMORY
                    self._rows.append((ip, one.ip_rel_memory_address, kind))
                kind = int(table.kinds[code])
                if kind >= 0:
                    target = one.near_branch_target
                    if target < ADDRESS_LIMIT:
                        self._rows.append((ip, target, kind))
                    if not table.calls[code] and self._is_gap(target):
                        todo.append(target)
                if code == table.syscall:
                    self._syscalls.append(ip)
                elif code == table.interrupt and one.immediate8 == 0x80:
                    self._interrupts.append(ip)
                elif table.wide[code] and one.immediate64 < ADDRESS_LIMIT:
                    self._rows.append((ip, one.immediate64, WIDE))
                if table.ends[code]:
                    break
            else:
                # Into a range, into code that is another's, or behind 16 kB.
                if last is not None:
                    self._rows.append((last.ip, last.next_ip, JUMP))
                    if self._is_gap(last.next_ip):
                        todo.append(last.next_ip)

    def _is_gap(self, vaddr: int) -> bool:
        """Whether code at an address is not yet anybody's."""
        if vaddr in self.owner or not self.layout.is_text(vaddr):
            return False
        at = bisect_right(self._limits, vaddr) - 1
        return at < 0 or vaddr >= self._ends[at]
