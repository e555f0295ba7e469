"""The calls of whole programs, from the summaries of their files: no program is linked for it.

The rule is the seccomp module's (`spidl.modules.seccomp.combine`): classes that are reached from
the `always` of all members and the program's entry.  The difference is who binds: here an import
goes to the first member of the breadth-first scope that defines its name and version (glibc
elf/dl-lookup.c, do_lookup_x), which needs names only, so thousands of programs cost seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spidl.analyse.names import number_of
from spidl.analyse.summary import Summary

_OPENERS = frozenset({"dlopen", "dlmopen", "__libc_dlopen_mode"})
_STARTERS = frozenset(
    number for name in ("execve", "execveat") if (number := number_of(name)) is not None
)
_INTERPRETERS = frozenset({"ld-linux-x86-64.so.2", "libc.musl-x86_64.so.1"})
"""What the kernel starts in the program's stead (PT_INTERP)."""
Target = tuple[int, int]
"""(member of the scope, class)."""


class Member:
    """A summary, ready to be bound against; shared by all scopes that it is in."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.masks = summary.masks
        self.exports: dict[str, dict[str | None, int]] = {}
        for (name, version), number in summary.exports.items():
            self.exports.setdefault(name, {})[version] = number

    def find(self, name: str, version: str | None) -> Iterable[int]:
        """The classes that a reference may lead to here; none where it goes on to the next member.

        A reference without a version takes the default one, which summaries do not tell: all.
        """
        found = self.exports.get(name)
        if found is None:
            return ()
        if version is None:
            return set(found.values())
        number = found.get(version, found.get(None))
        return () if number is None else (number,)


@dataclass(frozen=True, slots=True)
class Reached:
    """What can run of a scope."""

    calls: frozenset[int]
    """Numbers of the system calls that are reached."""
    unknown: bool
    """A call is reached whose number is not known: it may be any."""
    opens: bool
    """dlopen is reached: what is opened at run time comes on top."""

    @property
    def starts(self) -> bool:
        """Whether it starts other programs."""
        return bool(self.calls & _STARTERS)


class _Reach:
    """One walk over one scope."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.reached = [np.zeros(len(m.masks), np.bool_) for m in members]
        self.asked = [np.zeros(len(m.summary.imports), np.bool_) for m in members]
        self.opens = False
        self._bound: dict[tuple[str, str | None], list[Target]] = {}
        self._fresh: dict[int, list[int]] = {}
        self._queue: deque[int] = deque()

    def enter(self, at: int, number: int) -> None:
        if self.reached[at][number]:
            return
        self.reached[at][number] = True
        if at not in self._fresh:
            self._fresh[at] = []
            self._queue.append(at)
        self._fresh[at].append(number)

    def run(self) -> None:
        while self._queue:
            at = self._queue.popleft()
            member = self.members[at]
            masks = member.masks.imports[self._fresh.pop(at)]
            seen = self.asked[at]
            row = np.bitwise_or.reduce(masks, axis=0)
            bits = np.unpackbits(row, count=len(seen), bitorder="little").view(np.bool_) & ~seen
            seen |= bits
            for i in np.flatnonzero(bits).tolist():
                for target in self.bind(member.summary.imports[i]):
                    self.enter(*target)

    def bind(self, key: tuple[str, str | None]) -> list[Target]:
        """Where an import leads; nowhere for one that nothing in scope defines."""
        found = self._bound.get(key)
        if found is None:
            found = self._bound[key] = self._first(key)
            self.opens |= key[0] in _OPENERS
        return found

    def _first(self, key: tuple[str, str | None]) -> list[Target]:
        for at, member in enumerate(self.members):
            numbers = member.find(*key)
            if numbers:
                return [(at, number) for number in numbers]
        return []

    def result(self) -> Reached:
        calls: set[int] = set()
        unknown = False
        for member, reached in zip(self.members, self.reached, strict=True):
            rows = np.flatnonzero(reached)
            if not len(rows):
                continue
            row = np.bitwise_or.reduce(member.masks.syscalls[rows], axis=0)
            calls.update(np.flatnonzero(np.unpackbits(row, bitorder="little")).tolist())
            told = member.masks.wrapper_calls
            calls.update(told[reached[told[:, 0]], 2].tolist())
            unknown = unknown or bool(member.masks.unknown[rows].any())
        return Reached(frozenset(calls), unknown or self._told_unknown(), self.opens)

    def _told_unknown(self) -> bool:
        """Whether a function that makes the call it is told is told one that is not known."""
        wrappers = {
            (at, name) for at, member in enumerate(self.members)
            for name, _ in member.summary.wrappers
        }  # fmt: skip
        if not wrappers:
            return False
        names = {name for _, name in wrappers}
        for at, member in enumerate(self.members):
            for i in np.flatnonzero(self.asked[at]).tolist():
                key = member.summary.imports[i]
                if key[0] in names and any((to, key[0]) in wrappers for to, _ in self.bind(key)):
                    told = member.masks.wrapper_calls
                    asks = _has(member.masks.imports, i) & self.reached[at] & ~member.masks.unknown
                    asks[told[told[:, 1] == i, 0]] = False
                    if asks.any():
                        return True
        return False


def _has(masks: npt.NDArray[np.uint8], bit: int) -> npt.NDArray[np.bool_]:
    """Which rows have a bit."""
    found: npt.NDArray[np.bool_] = (masks[:, bit >> 3] >> (bit & 7) & 1).astype(np.bool_)
    return found


def reach(members: Sequence[Member], *, library: bool = False, used: bool = False) -> Reached:
    """What can run of the members of a scope, the program first, ld.so's own start included.

    With ``library`` a library stands in the program's place: nothing of it is started, and with
    ``used`` all that it exports is called.
    """
    walk = _Reach(members)
    first = members[0].summary
    for at, member in enumerate(members):
        summary = member.summary
        walk.enter(at, summary.always)
        is_started = summary.soname in _INTERPRETERS or (at == 0 and not library)
        if is_started and summary.entry is not None:
            walk.enter(at, summary.entry)
    if used:
        for number in set(first.exports.values()):
            walk.enter(0, number)
    walk.run()
    return walk.result()


def bindings(members: Sequence[Member], asking: int) -> dict[tuple[str, str | None], int]:
    """Which member each import of one is bound to; for those that are bound at all."""
    walk = _Reach(members)
    bound = {key: walk.bind(key) for key in members[asking].summary.imports}
    return {key: targets[0][0] for key, targets in bound.items() if targets}
