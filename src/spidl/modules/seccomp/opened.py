"""What joins a link at run time: libraries that it opens, names that it looks up."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spidl.api import Dso, ElfFile, Link, LinkError, Need, Summary
from spidl.modules.seccomp.combine import Edges, Member, Reach, Root, Unknown
from spidl.modules.seccomp.definitions import Definitions, bind_by_name
from spidl.modules.seccomp.plugins import (
    GCONV,
    GCONV_CALLS,
    LOOKERS,
    NSS,
    OPENERS,
    files_in,
    folders_for,
    nss_services,
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
    ) -> None:
        self.told: list[Unknown] = []
        """Functions that make the call they are told, looked up by name."""
        self.open_ended: list[str] = []
        """Who may open what cannot be known."""
        self._link = link
        # What is looked for in vain here does not decide the link: the finders note it in a copy.
        self._probe = copy.copy(link)
        self._probe.absent, self._probe.inputs = {}, {}
        self._reach = reach
        self._declared = declared
        self._summarise = summarise
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
            if not (self._looked_up() | joined):
                return

    @cached_property
    def _known(self) -> dict[str, int]:
        """Members by the real path of their file."""
        return {os.path.realpath(m.path): at for at, m in enumerate(self._reach.members)}

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
        """What the callers of dlopen open: declared for them, or named by their strings."""
        for at in self._reach.asking_for(OPENERS):
            if not self._first("dlopen", at):
                continue
            member = self._reach.members[at]
            known = False
            for folder in folders_for(member.name, self._declared, self._libraries):
                known = True
                self._link.watch(folder)
                for path in files_in(folder):
                    yield _Opening(path, f"a plug-in of {member.name}")
            if not known:
                self.open_ended.append(f"{member.name} may open any library")
            yield from self._named(libraries_named(member.file), f"{member.name} names it")

    def _services(self) -> Iterator[_Opening]:
        """What glibc opens itself: converters, name services, the unwinder."""
        if self._libc is None:
            return
        if self._first("named", self._libc):
            names = libraries_named(self._reach.members[self._libc].file)
            yield from self._named([n for n in names if "/" not in n], f"{_LIBC} names it")
        if self._reach.asking_for(NSS) and self._first("nss", self._libc):
            services = nss_services(self._link.read_input(_NSS_CONFIGURATION))
            yield from self._named(services, f"a name service of {_NSS_CONFIGURATION}")
        if self._reach.asking_for(GCONV) and self._first("gconv", self._libc):
            exports = self._reach.members[self._libc].summary.exports
            for (name, _), class_ in exports.items():
                if name in GCONV_CALLS:
                    why = f"a converter of {_LIBC} calls {name}"
                    self._reach.enter(Root(self._libc, class_, why))

    def _named(self, names: Iterable[str], because: str) -> Iterator[_Opening]:
        for name in names:
            if name not in self._names and (path := self._find(name, self._link.root)):
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
            real = os.path.realpath(opening.path)
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
            member = self._reach.members[at]
            for number in sorted(set(member.summary.exports.values())):
                told = f"{member.name}, {because}: looked up by name"
                new |= self._reach.enter(Root(at, number, told))
        return new

    def _member(self, path: str, opening: _Opening) -> Member | None:
        try:
            file = self._link.files.open(path)
            summary = self._summarise(file)
        except LinkError:
            return None
        none = np.zeros(0, np.int64)
        name = file.soname or os.path.basename(opening.path)
        edges = Edges(none, none, none)  # until all that joins with it is known
        return Member(name, path, file, summary, edges, none.astype(np.uint64), opening.because)

    def _needed(self, name: str, member: Member) -> str | None:
        """Where a plug-in's own search path has a library, else where the program's has."""
        folder = os.path.dirname(member.path)
        for entry in (member.file.runpath or member.file.rpath or "").split(":"):
            place = entry.replace("${ORIGIN}", folder).replace("$ORIGIN", folder)
            if place.startswith("/") and os.path.isfile(f"{place}/{name}"):
                return f"{place}/{name}"
        return self._find(name, self._link.root)

    # -- names -----------------------------------------------------------------------------------

    def _looked_up(self) -> bool:
        """Exports whose names are among the strings of who calls dlsym."""
        found = False
        for at in self._reach.asking_for(LOOKERS):
            asker = self._reach.members[at]
            for number, table in enumerate(self._definitions):
                if not self._first(f"dlsym {number}", at):
                    continue
                rows = table.among(asker.file.derived(strings_used)["hash"])
                if table.is_wrapper[rows].any():
                    what = "looks a function up by name that is told the number of a call"
                    self.told.append(Unknown(at, asker.summary.always, what))
                rows = rows[self._reach.fresh(table.member[rows], table.number[rows])]
                for row in rows.tolist():
                    member, class_ = int(table.member[row]), int(table.number[row])
                    name = self._reach.members[member].file.symbol_name(int(table.symbol[row]))
                    why = f"{asker.name}: looks `{name}` up by name"
                    found |= self._reach.enter(Root(member, class_, why))
        return found


@dataclass(frozen=True, slots=True)
class _Opening:
    """A library that is opened, or that one such needs."""

    path: str
    because: str
    by_name: bool = True
    """Whether names may be looked up in it."""
