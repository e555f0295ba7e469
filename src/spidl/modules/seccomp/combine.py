"""From what each object can ask of the kernel to what the whole link can.

An import of one object leads to the class of its definition in another, as the link bound it.  So
the classes that can run are those that are reached from the classes `always` of all objects and
from the program's entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spidl.api import I64, ElfFile, Summary, name_hash
from spidl.modules.seccomp.names import rows_among

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
    because: str = ""
    """Why it takes part, if no link has it."""


Because = str | Callable[[int, int], str]
"""Why running begins somewhere: words, or a function that finds them for (member, class)."""


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
    told: str | Callable[[], str]
    """The reason, or a function that finds it: names of imports are slow to come by."""

    @property
    def reason(self) -> str:
        return self.told if isinstance(self.told, str) else self.told()


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
        self._watched = {name_hash(name.encode()): name for name in watched}
        self._named: dict[str, list[tuple[int, int]]] = {}
        self.members: list[Member] = []
        self._reasons: list[Because] = []
        self.imports: list[Bool] = []
        """By member: which of its imports are reached."""
        self._bases = np.zeros(1, np.int64)
        self._stamps = np.zeros(0, np.int32)
        """When a class was reached, counted from 1; 0: it is not."""
        self._asker = np.zeros(0, np.int32)
        """The member that led there, -1 for a root."""
        self._through = np.zeros(0, np.int32)
        """The import that led there, or the reason's number."""
        self._sizes: list[int] = []
        """By member: how often classes of it were reached; it only grows."""
        self._known: dict[tuple[int, int], tuple[int, tuple[set[str], int | None]]] = {}
        self._made: dict[int, tuple[int, frozenset[int]]] = {}
        self._columns: list[tuple[I64, I64, I64]] = []
        """By member: its edges as (imports, members, classes counted through), by member."""
        self._seen: list[npt.NDArray[np.uint8]] = []
        """`imports` as bits."""
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
        self._watch(added)
        for member in added:
            edges, count = member.edges, len(member.summary.imports)
            order = np.argsort(edges.members, kind="stable")
            imports, members = edges.imports[order], edges.members[order]
            flat = self._bases[members] + edges.classes[order]
            self.members.append(member)
            self.imports.append(np.zeros(count, np.bool_))
            self._seen.append(np.zeros(-(-count // 8), np.uint8))
            self._sizes.append(0)
            self._columns.append((imports, members, flat))

    def _watch(self, added: Sequence[Member]) -> None:
        """Remember who of those to be added imports what is watched."""
        if not added or not self._watched:
            return
        names = np.concatenate([member.summary.imported.names for member in added])
        bounds = np.cumsum([len(member.summary.imports) for member in added])
        for row in rows_among(names, np.array(sorted(self._watched), np.uint64)).tolist():
            at = int(np.searchsorted(bounds, row, side="right"))
            index = row - int(bounds[at]) + len(added[at].summary.imports)
            known = self._named.setdefault(self._watched[int(names[row])], [])
            known.append((len(self.members) + at, index))

    def enter(self, root: Root) -> bool:
        """Begin at a root too; whether that is new.  `run` follows it."""
        flat = int(self._bases[root.member]) + root.number
        if self._stamps[flat]:
            return False
        at, number = np.array([root.member], np.int64), np.array([root.number], np.int64)
        return self.enter_each(at, number, root.because)

    def enter_all(self, member: int, classes: npt.NDArray[np.integer], because: str) -> bool:
        """The same at several classes of a member at once."""
        wanted = np.zeros(len(self.stamps(member)), np.bool_)
        wanted[classes] = True
        fresh = np.flatnonzero(wanted & (self.stamps(member) == 0)) + self._bases[member]
        if not len(fresh):
            return False
        self._clock += 1
        self._begin(fresh, np.full(len(fresh), member), self._clock, because)
        return True

    def enter_each(self, members: I64, classes: I64, because: Because) -> bool:
        """The same at classes of several members, one after another."""
        flat = self._bases[members] + classes
        first = np.flatnonzero(self._stamps[flat] == 0)
        first = np.sort(first[_firsts(flat[first])])
        if not len(first):
            return False
        stamps = self._clock + np.arange(1, 1 + len(first))
        self._clock += len(first)
        self._begin(flat[first], members[first], stamps, because)
        return True

    def fresh(self, members: I64, classes: I64) -> Bool:
        """Which classes are not reached yet."""
        missing: Bool = self._stamps[self._bases[members] + classes] == 0
        return missing

    def run(self) -> None:
        """Follow imports until nothing new is reached."""
        while self._queue:
            at = self._queue.popleft()
            waiting = self._waiting.pop(at)
            rows = np.concatenate(waiting) - self._bases[at]
            seen = self._seen[at]
            mask = np.bitwise_or.reduce(self.members[at].summary.masks.imports[rows], axis=0)
            mask &= ~seen
            if not mask.any():
                continue
            seen |= mask
            bits = np.unpackbits(mask, count=len(self.imports[at]), bitorder="little")
            new = bits.view(np.bool_)
            self.imports[at] |= new
            imports, members, targets = self._columns[at]
            picked = np.flatnonzero(new[imports])
            flat = targets[picked]
            fresh = self._stamps[flat] == 0
            if fresh.any():
                flat, picked = flat[fresh], picked[fresh]
                self._clock += 1
                self._stamps[flat] = self._clock
                self._asker[flat] = at
                self._through[flat] = imports[picked]
                self._wait(flat, members[picked])

    def _begin(self, flat: I64, members: I64, stamps: int | I64, because: Because) -> None:
        """Begin at classes, none of which is reached yet."""
        self._stamps[flat], self._through[flat] = stamps, len(self._reasons)
        self._reasons.append(because)
        order = np.argsort(members, kind="stable")
        self._wait(flat[order], members[order])

    def _wait(self, flat: I64, members: I64) -> None:
        """Have `run` follow classes of members, which are ascending."""
        if members[0] == members[-1]:
            cuts = [0, len(flat)]
        else:
            cuts = [0, *(np.flatnonzero(members[1:] != members[:-1]) + 1).tolist(), len(flat)]
        for first, behind in pairwise(cuts):
            at = int(members[first])
            if at not in self._waiting:
                self._queue.append(at)
            self._waiting.setdefault(at, []).append(flat[first:behind])
            self._sizes[at] += behind - first

    # -- what was found --------------------------------------------------------------------------

    def stamps(self, member: int) -> I32:
        """By class: when it was reached, 0 where it is not."""
        return self._stamps[self._bases[member] : self._bases[member + 1]]

    def calls(self, member: int) -> frozenset[int]:
        """The system calls that a member makes itself."""
        known = self._made.get(member)
        if known is None or known[0] != self._sizes[member]:  # nothing new was reached since
            known = self._made[member] = self._sizes[member], self._makes(member)
        return known[1]

    def _makes(self, member: int) -> frozenset[int]:
        masks = self.members[member].summary.masks
        stamps = self.stamps(member)
        reached = np.flatnonzero(stamps)
        if not len(reached):
            return frozenset()
        row = np.bitwise_or.reduce(masks.syscalls[reached], axis=0)
        if not row.any() and not len(masks.wrapper_calls):
            return frozenset()
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

    def told(self, member: int, names: tuple[str, ...]) -> tuple[set[str], int | None]:
        """What a member tells those of its imports that have one of these names: the constants, and
        the earliest class that tells what cannot be known, None for none."""
        key, size = (member, hash(names)), self._sizes[member]
        known = self._known.get(key)
        if known is None or known[0] != size:  # nothing new was reached since
            known = self._known[key] = size, self._tells(member, names)
        return known[1]

    def _tells(self, member: int, names: Iterable[str]) -> tuple[set[str], int | None]:
        summary = self.members[member].summary
        stamps, rows = self.stamps(member), summary.masks.told
        indexes = set(rows[stamps[rows[:, 0]] > 0, 1].tolist())
        constants: set[str] = set()
        missing: Bool = np.zeros(len(stamps), np.bool_)
        for i in {i for name in names for at, i in self._named.get(name, ()) if at == member}:
            if not self.imports[member][i]:
                continue
            ours = [at for at in indexes if summary.told[at].function == i]
            constants |= {name for at in ours if (name := summary.told[at].name) is not None}
            unclear = [at for at in ours if summary.told[at].name is None]
            if unclear:
                missing[rows[np.isin(rows[:, 1], unclear), 0]] = True
            elif not ours:  # whoever has the function may call it
                missing |= _has(summary.masks.imports, i)
        return constants, self._earliest(member, missing) if missing.any() else None

    def unknown(self) -> list[Unknown]:
        """What is reached and may make any call."""
        found = []
        for at, member in enumerate(self.members):
            masks = member.summary.masks
            if masks.unknown.any():
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
            numbers = np.flatnonzero(asks).tolist()
            reason = partial(_is_told, summary, i)
            found += [Unknown(at, number, reason) for number in numbers]
        return found

    def way(self, member: int, number: int) -> list[Step]:
        """How a class is reached, from the root on."""
        steps: list[Step] = []
        while True:
            flat = int(self._bases[member]) + number
            asker, by = int(self._asker[flat]), int(self._through[flat])
            if asker < 0:
                reason = self._reasons[by]
                words = reason if isinstance(reason, str) else reason(member, number)
                return [Step(member, number, words), *reversed(steps)]
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


def _firsts(values: I64) -> I64:
    """Where each value is for the first time; np.unique would cost 15 ms the first time."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    firsts: I64 = order[np.append(True, ordered[1:] != ordered[:-1])[: len(order)]]
    return firsts


def _has(masks: npt.NDArray[np.uint8], bit: int) -> Bool:
    """Which rows have a bit."""
    if bit >> 3 >= masks.shape[1]:
        return np.zeros(len(masks), np.bool_)
    found: Bool = (masks[:, bit >> 3] >> (bit & 7) & 1).astype(np.bool_)
    return found


def _is_told(summary: Summary, index: int) -> str:
    return f"`{symbol_of(summary, index)}` is told a number that is not known"


def symbol_of(summary: Summary, index: int) -> str:
    """An import as name@version."""
    name, version = summary.imports[index]
    return name if version is None else f"{name}@{version}"
