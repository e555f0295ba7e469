"""What joins a link at run time: libraries that it opens, names that it looks up."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spidl.api import U64, Dso, ElfFile, Link, LinkError, Need, Summary
from spidl.modules.seccomp.combine import Edges, Member, Reach, Root, Unknown
from spidl.modules.seccomp.definitions import Definitions, bind_by_name
from spidl.modules.seccomp.folders import passes_on, places_of
from spidl.modules.seccomp.listing import Listing
from spidl.modules.seccomp.names import Among, hashes_of, rows_among
from spidl.modules.seccomp.plugins import (
    GCONV,
    GCONV_CALLS,
    LOOKERS,
    NSS,
    OPENERS,
    files_at,
    files_in,
    folders_at,
    libraries_in,
    nss_services,
    spellings,
)
from spidl.modules.seccomp.strings import libraries_named, strings_used

_LIBC = "libc.so.6"
_NSS_CONFIGURATION = "/etc/nsswitch.conf"


class Opened:
    """Follows what is reached to what is opened, and on."""

    def __init__(
        self,
        link: Link,
        reach: Reach,
        declared: Mapping[str, Sequence[str]],
        summarise: Callable[[ElfFile], Summary],
        *,
        may_call_exports: bool = True,
    ) -> None:
        """``may_call_exports``: whether what cannot be foreseen, and is opened, counts as calling
        all that the others export."""
        self.told: list[Unknown] = []
        """Functions that make the call they are told, looked up by name."""
        self.open_ended: list[Unknown] = []
        """Who may open what cannot be known."""
        self._may_call_exports = may_call_exports
        self._link = link
        # What is looked for in vain here does not decide the link: the finders note it in a copy.
        self._probe = copy.copy(link)
        self._probe.absent, self._probe.inputs = {}, {}
        self._reach = reach
        self._declared = declared
        self._summarise = summarise
        for namespace in link.namespaces:
            for dso in [d for d in namespace.members if d.namespace is namespace][:1]:
                if namespace.opens:
                    what = reach.members[dso.number].summary.always
                    reason = "may open any library of its capsule's root"
                    self.open_ended.append(Unknown(dso.number, what, reason))
        self._listing = Listing()
        self._names = {name for dso in link.objects for name in dso.names}
        self._done: set[tuple[str, int]] = set()
        libc = link.known(_LIBC)
        self._libc = None if libc is None else libc.number
        self._libraries = "/usr/lib" if libc is None else os.path.dirname(libc.path)

    def settle(self) -> None:
        """Go on until nothing new joins."""
        while True:
            self._reach.run()
            joined = self._join([*self._opened(), *self._services()])
            if not (self._looked_up() | joined | self._foreign()):
                return

    @cached_property
    def _known(self) -> dict[str, int]:
        """Members by the real path of their file."""
        real = self._listing.realpath
        return {real(m.path): at for at, m in enumerate(self._reach.members)}

    @cached_property
    def _definitions(self) -> list[Definitions]:
        """Of the link's objects, and of what was opened at a time."""
        return [Definitions.of(self._reach.members, 0)]

    def _first(self, what: str, member: int) -> bool:
        key = (what, member)
        if key in self._done:
            return False
        self._done.add(key)
        return True

    # -- libraries -------------------------------------------------------------------------------

    def _opened(self) -> Iterator[_Opening]:
        """What the callers of dlopen open: what they tell it; where that is computed, what is
        declared for them and the libraries that their strings name."""
        for at in self._reach.asking_for(OPENERS):
            member = self._reach.members[at]
            names, computes = self._reach.told(at, OPENERS)
            fresh = [name for name in sorted(names) if self._first(f"opens {name}", at)]
            because = f"{member.name} opens it"
            for name in fresh:
                yield from self._named(spellings(name), because, member)
            if computes is not None and self._first("dlopen", at):
                yield from self._computed(at, computes)

    def _computed(self, at: int, class_: int) -> Iterator[_Opening]:
        """What an object may open that makes names at run time."""
        member = self._reach.members[at]
        places = places_of(member.name, member.path, self._declared, self._libraries)
        for place in places.folders:
            files = files_in(place, self._listing)
            for folder in {*folders_at(place, self._listing), *map(os.path.dirname, files)}:
                self._link.watch(folder)
            for path in files:
                yield _Opening(path, f"a plug-in of {member.name}")
        for path in (path for pattern in places.lists for path in files_at(pattern, self._listing)):
            names = libraries_in(self._link.read_input(path) or b"")
            yield from self._named(names, f"{path} names it", member)
        if not places.is_all and not passes_on(member.file.soname):
            reason = "may open a library by a name that it makes at run time"
            self.open_ended.append(Unknown(at, class_, reason))
        named = libraries_named(member.file)
        yield from self._named(named, f"{member.name} names it", member)

    def _services(self) -> Iterator[_Opening]:
        """What glibc opens itself: converters, name services, the unwinder."""
        if self._libc is None:
            return
        if self._first("named", self._libc):
            libc = self._reach.members[self._libc]
            names = [name for name in libraries_named(libc.file) if "/" not in name]
            yield from self._named(names, f"{_LIBC} names it", libc)
        anything = self._anything()
        if (anything or self._reach.asking_for(NSS)) and self._first("nss", self._libc):
            services = nss_services(self._link.read_input(_NSS_CONFIGURATION))
            libc = self._reach.members[self._libc]
            yield from self._named(services, f"a name service of {_NSS_CONFIGURATION}", libc)
        if (anything or self._reach.asking_for(GCONV)) and self._first("gconv", self._libc):
            exports = self._reach.members[self._libc].summary.exports
            for (name, _), class_ in exports.items():
                if name in GCONV_CALLS:
                    why = f"a converter of {_LIBC} calls {name}"
                    self._reach.enter(Root(self._libc, class_, why))

    def _named(self, names: Iterable[str], because: str, asker: Member) -> Iterator[_Opening]:
        for name in names:
            if name not in self._names and (path := self._needed(name, asker)):
                yield _Opening(path, because)

    def _find(self, name: str, asker: Dso) -> str | None:
        if "/" in name:
            return name if os.path.isfile(name) else None
        try:
            need = self._probe.find(name, asker, "dlopen")
        except LinkError:
            return None
        return need.path if isinstance(need, Need) else None

    def _join(self, openings: Iterable[_Opening]) -> bool:
        """Libraries and all they need take part; everything that they export may be looked up."""
        added: list[Member] = []
        looked_up: dict[int, str] = {}
        todo = deque(openings)
        while todo:
            opening = todo.popleft()
            real = self._listing.realpath(opening.path)
            if real not in self._known:
                member = self._member(real, opening)
                if member is None:
                    continue  # nor can the program open it
                self._known[real] = len(self._reach.members) + len(added)
                added.append(member)
                names = {member.file.soname, os.path.basename(opening.path)}
                self._names |= {name for name in names if name}
                for name in member.file.needed:
                    if name not in self._names and (there := self._needed(name, member)):
                        todo.append(_Opening(there, f"{member.name} needs it", by_name=False))
            if opening.by_name:
                looked_up.setdefault(self._known[real], opening.because)
        base = len(self._reach.members)
        if added:
            self._definitions.append(Definitions.of(added, base))
            bind_by_name(added, self._definitions)
        self._reach.add(added)
        new = bool(added)
        for at, member in enumerate(added, base):
            told = f"{member.name}, {member.because}: constructors and data"
            self._reach.enter(Root(at, member.summary.always, told))
        for at, because in looked_up.items():
            told = f"{self._reach.members[at].name}, {because}: looked up by name"
            new |= self._export(at, told)
        return new

    def _export(self, at: int, because: str) -> bool:
        """Begin at all that a member exports; whether any of it is new."""
        exported = self._reach.members[at].summary.exported
        return self._reach.enter_all(at, exported.classes, because)

    def _member(self, path: str, opening: _Opening) -> Member | None:
        try:
            file = self._link.files.open(path)
            summary = self._summarise(file)
        except LinkError:
            return None
        none = np.zeros(0, np.int64)
        name = file.soname or os.path.basename(opening.path)
        edges = Edges(none, none, none)  # until all that joins with it is known
        return Member(name, path, file, summary, edges, opening.because)

    def _needed(self, name: str, member: Member) -> str | None:
        """Where an object's own search path has a library, else where the program's has."""
        folder = os.path.dirname(member.path)
        for entry in (member.file.runpath or member.file.rpath or "").split(":"):
            place = entry.replace("${ORIGIN}", folder).replace("$ORIGIN", folder)
            if place[:1] == "/" != name[:1] and os.path.isfile(f"{place}/{name}"):
                return f"{place}/{name}"
        return self._find(name, self._link.root)

    # -- names -----------------------------------------------------------------------------------

    def _looked_up(self) -> bool:
        """Exports that callers of dlsym tell it; where they compute names, those that are among
        their strings, and all that the program exports."""
        found = False
        tables: dict[int, _Left] = {}
        for at in self._reach.asking_for(LOOKERS):
            asker = self._reach.members[at]
            if passes_on(asker.file.soname):
                continue
            names, computes = self._reach.told(at, LOOKERS)
            if computes is not None and self._first("program", 0):
                found |= self._export(0, f"{asker.name} may look it up by name")
            what = f"dlsym {len(names)} {computes is None}"
            numbers = [number for number in range(len(self._definitions))
                       if self._first(f"{what} {number}", at)]  # fmt: skip
            hashes = hashes_of(sorted(names) if numbers else [])
            for number in numbers:
                if number not in tables:
                    tables[number] = self._left(self._definitions[number])
                found |= self._look_up(tables[number], at, hashes, computes=computes is not None)
        return found

    def _left(self, table: Definitions) -> _Left:
        """Of definitions those that it makes a difference to look up."""
        fresh = self._reach.fresh(table.member, table.number)
        left = table.rows(fresh | table.is_wrapper).sorted_by_hash()
        return _Left(left, Among(left.hash))

    def _look_up(self, left: _Left, at: int, hashes: U64, *, computes: bool) -> bool:
        """Begin at what a member looks up by name; whether that is new."""
        asker, table = self._reach.members[at], left.table
        if not len(table.hash):
            return False
        if computes:
            used = asker.file.derived(strings_used)["hash"]
            hashes = np.concatenate([hashes, used[left.names.rows(used)]])
        rows = rows_among(table.hash, np.sort(hashes))
        if table.is_wrapper[rows].any():
            what = "looks a function up by name that is told the number of a call"
            self.told.append(Unknown(at, asker.summary.always, what))
        members, classes, wanted = table.member[rows], table.number[rows], table.hash[rows]

        def because(member: int, class_: int) -> str:
            first = wanted[np.flatnonzero((members == member) & (classes == class_))[0]]
            file = self._reach.members[member].file
            name = file.symbol_name(int(np.flatnonzero(file.name_hashes == first)[0]))
            return f"{asker.name}: looks `{name}` up by name"

        return self._reach.enter_each(members, classes, because)

    # -- what cannot be foreseen -----------------------------------------------------------------

    def _anything(self) -> bool:
        """Whether something may be opened that counts as calling everything."""
        return self._may_call_exports and bool(self.open_ended)

    def _foreign(self) -> bool:
        """What comes unforeseen may call all that the members export."""
        if not self._anything():
            return False
        asker = self._reach.members[self.open_ended[0].member].name
        told = f"what {asker} may open can call it"
        found = False
        for at, member in enumerate(self._reach.members):
            if not self._first("exports", at):
                continue
            found |= self._export(at, told)
            if member.summary.wrappers:
                names = ", ".join(sorted({name for name, _ in member.summary.wrappers}))
                what = f"{told}: {names}"
                self.told.append(Unknown(at, member.summary.always, what))
        return found


@dataclass(frozen=True, slots=True)
class _Left:
    """Definitions, ascending by hash, and a quick look for what is among them."""

    table: Definitions
    names: Among


@dataclass(frozen=True, slots=True)
class _Opening:
    """A library that is opened, or that one such needs."""

    path: str
    because: str
    by_name: bool = True
    """Whether names may be looked up in it."""
