"""From what each object can ask of the kernel to what the whole link can.

An import of one object leads to the class of its definition in another, as the link bound it.  So
the classes that can run are those that are reached from the classes `always` of all objects and
from the program's entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spidl.api import I64, U64, ElfFile, Summary, name_hash

I32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Edges:
    """Where the imports of one member lead: columns, one row a definition.

    ``strays`` are imports that lead to an address where no member has a function; ``wrapped``
    those that lead to a function that makes the call it is told, such as libc's ``syscall``.
    """

    imports: I64
    """Indexes into the summary's imports."""
    members: I64
    classes: I64
    strays: frozenset[int] = frozenset()
    wrapped: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Member:
    """One object that takes part, and how it is bound."""

    name: str
    path: str
    file: ElfFile
    summary: Summary
    edges: Edges
    names: U64
    """`name_hash` of the names of its imports."""
    because: str = ""
    """Why it takes part, if no link has it."""


@dataclass(frozen=True, slots=True)
class Root:
    """Where running begins: a class of a member, and why."""

    member: int
    number: int
    because: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something reached that may make any call."""

    member: int
    number: int
    """The class."""
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """One hop of a way: class ``number`` of a member, entered through ``symbol``."""

    member: int
    number: int
    symbol: str
    """The import of the member before that leads here; what it begins with for the first."""


class Reach:
    """What can run so far, and from where it was reached first.

    ``watched`` are names of imports that `asking_for` can tell about.

    All classes of all members are counted through: a member's begin at its *base*.
    """

    def __init__(self, watched: frozenset[str] = frozenset()) -> None:
        self._watched = np.array([name_hash(name.encode()) for name in watched], np.uint64)
        self._named: dict[str, list[tuple[int, int]]] = {}
        self.members: list[Member] = []
        self.roots: list[Root] = []
        self.imports: list[Bool] = []
        """By member: which of its imports are reached."""
        self._bases = np.zeros(1, np.int64)
        self._stamps = np.zeros(0, np.int32)
        """When a class was reached, counted from 1; 0: it is not."""
        self._asker = np.zeros(0, np.int32)
        """The member that led there, -1 for a root."""
        self._through = np.zeros(0, np.int32)
        """The import that led there, or the root's number."""
        self._targets: list[I64] = []
        self._waiting: dict[int, list[I64]] = {}
        self._queue: deque[int] = deque()
        self._clock = 0

    def add(self, members: Iterable[Member]) -> None:
        """Members, numbered in order; edges may lead to all that are added together."""
        added = list(members)
        sizes = np.array([len(member.summary.masks) for member in added], np.int64)
        self._bases = np.concatenate([self._bases, self._bases[-1] + np.cumsum(sizes)])
        room = int(self._bases[-1]) - len(self._stamps)
        self._stamps = np.concatenate([self._stamps, np.zeros(room, np.int32)])
        self._asker = np.concatenate([self._asker, np.full(room, -1, np.int32)])
        self._through = np.concatenate([self._through, np.full(room, -1, np.int32)])
        for member in added:
            for i in np.flatnonzero(np.isin(member.names, self._watched)).tolist():
                name = member.summary.imports[i][0]
                self._named.setdefault(name, []).append((len(self.members), i))
            self.members.append(member)
            self.imports.append(np.zeros(len(member.summary.imports), np.bool_))
            self._targets.append(self._bases[member.edges.members] + member.edges.classes)

    def enter(self, root: Root) -> bool:
        """Begin at a root too; whether that is new.  `run` follows it."""
        flat = int(self._bases[root.member]) + root.number
        if self._stamps[flat]:
            return False
        self._clock += 1
        self._stamps[flat], self._through[flat] = self._clock, len(self.roots)
        self.roots.append(root)
        self._wait(np.array([flat], np.int64))
        return True

    def fresh(self, members: I64, classes: I64) -> Bool:
        """Which classes are not reached yet."""
        missing: Bool = self._stamps[self._bases[members] + classes] == 0
        return missing

    def run(self) -> None:
        """Follow imports until nothing new is reached."""
        while self._queue:
            at = self._queue.popleft()
            rows = np.concatenate(self._waiting.pop(at)) - self._bases[at]
            edges, seen = self.members[at].edges, self.imports[at]
            mask = np.bitwise_or.reduce(self.members[at].summary.masks.imports[rows], axis=0)
            bits = np.unpackbits(mask, count=len(seen), bitorder="little").view(np.bool_)
            bits = bits & ~seen
            if not bits.any():
                continue
            seen |= bits
            picked = np.flatnonzero(bits[edges.imports])
            flat = self._targets[at][picked]
            fresh = self._stamps[flat] == 0
            flat, picked = flat[fresh], picked[fresh]
            if len(flat):
                self._clock += 1
                self._stamps[flat] = self._clock
                self._asker[flat] = at
                self._through[flat] = edges.imports[picked]
                self._wait(flat)

    def _wait(self, flat: I64) -> None:
        flat = np.sort(flat)
        flat = flat[np.concatenate([[True], flat[1:] != flat[:-1]])]
        owners = np.searchsorted(self._bases, flat, side="right") - 1
        cuts = [0, *(np.flatnonzero(owners[1:] != owners[:-1]) + 1).tolist(), len(flat)]
        for first, behind in pairwise(cuts):
            at = int(owners[first])
            if at not in self._waiting:
                self._queue.append(at)
            self._waiting.setdefault(at, []).append(flat[first:behind])

    # -- what was found --------------------------------------------------------------------------

    def stamps(self, member: int) -> I32:
        """By class: when it was reached, 0 where it is not."""
        return self._stamps[self._bases[member] : self._bases[member + 1]]

    def calls(self, member: int) -> frozenset[int]:
        """The system calls that a member makes itself."""
        masks = self.members[member].summary.masks
        stamps = self.stamps(member)
        reached = np.flatnonzero(stamps)
        if not len(reached):
            return frozenset()
        row = np.bitwise_or.reduce(masks.syscalls[reached], axis=0)
        numbers = np.flatnonzero(np.unpackbits(row, bitorder="little")).tolist()
        told = masks.wrapper_calls
        return frozenset([*numbers, *told[stamps[told[:, 0]] > 0, 2].tolist()])

    def allowed(self) -> frozenset[int]:
        """Numbers of all system calls that are reached."""
        return frozenset[int]().union(*(self.calls(at) for at in range(len(self.members))))

    def asking_for(self, names: Iterable[str]) -> list[int]:
        """Members with a reached import of one of these names, which must be watched."""
        return sorted(
            {at for name in names for at, i in self._named.get(name, ()) if self.imports[at][i]}
        )

    def unknown(self) -> list[Unknown]:
        """What is reached and may make any call."""
        found = []
        for at, member in enumerate(self.members):
            masks = member.summary.masks
            reached = np.flatnonzero((self.stamps(at) > 0) & masks.unknown).tolist()
            found += [Unknown(at, number, "a call of unknown number") for number in reached]
            for i in sorted(member.edges.strays):
                if self.imports[at][i]:
                    reason = f"`{symbol_of(member.summary, i)}` leads to code of no object"
                    found.append(Unknown(at, member.summary.always, reason))
            found += self._told(at)
        return found

    def _told(self, at: int) -> list[Unknown]:
        """Calls of functions that make the call they are told, where it is not known which."""
        summary = self.members[at].summary
        masks = summary.masks
        found = []
        for i in sorted(self.members[at].edges.wrapped):
            told = masks.wrapper_calls[masks.wrapper_calls[:, 1] == i, 0]
            asks = _has(masks.imports, i) & (self.stamps(at) > 0) & ~masks.unknown
            asks[told] = False
            reason = f"`{symbol_of(summary, i)}` is told a number that is not known"
            found += [Unknown(at, number, reason) for number in np.flatnonzero(asks).tolist()]
        return found

    def way(self, member: int, number: int) -> list[Step]:
        """How a class is reached, from the root on."""
        steps: list[Step] = []
        while True:
            flat = int(self._bases[member]) + number
            asker, by = int(self._asker[flat]), int(self._through[flat])
            if asker < 0:
                return [Step(member, number, self.roots[by].because), *reversed(steps)]
            summary = self.members[asker].summary
            steps.append(Step(member, number, symbol_of(summary, by)))
            member, number = asker, self._earliest(asker, _has(summary.masks.imports, by))

    def callers(self, call: int) -> list[tuple[int, int]]:
        """(member, class) of what makes a system call in its own file: the earliest of each member,
        the earliest first."""
        found = []
        for at, member in enumerate(self.members):
            masks = member.summary.masks
            makes = _has(masks.syscalls, call)
            told = masks.wrapper_calls
            makes[told[told[:, 2] == call, 0]] = True
            stamps = self.stamps(at)
            if (makes & (stamps > 0)).any():
                number = self._earliest(at, makes)
                found.append((int(stamps[number]), at, number))
        return [(at, number) for _, at, number in sorted(found)]

    def _earliest(self, member: int, among: Bool) -> int:
        stamps = self.stamps(member)
        reached = np.flatnonzero(among & (stamps > 0))
        return int(reached[np.argmin(stamps[reached])])


def _has(masks: npt.NDArray[np.uint8], bit: int) -> Bool:
    """Which rows have a bit."""
    if bit >> 3 >= masks.shape[1]:
        return np.zeros(len(masks), np.bool_)
    found: Bool = (masks[:, bit >> 3] >> (bit & 7) & 1).astype(np.bool_)
    return found


def symbol_of(summary: Summary, index: int) -> str:
    """An import as name@version."""
    name, version = summary.imports[index]
    return name if version is None else f"{name}@{version}"
