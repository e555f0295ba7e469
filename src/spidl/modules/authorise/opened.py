"""What a policy lets be opened at run time: which files, with what they need, and for whom."""

from __future__ import annotations

import copy
import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from spidl.api import (
    SHN,
    STB,
    Dso,
    ElfFile,
    Link,
    LinkError,
    Need,
    identity_of,
)
from spidl.modules.authorise.conduct import Conduct, conduct_of, undefined
from spidl.modules.authorise.policy import Policy

_LIBC = "libc.so.6"
_WILD = re.compile(r"[*?\[]")


@dataclass(slots=True, eq=False)
class Opened:
    """A library that may be opened, or that one needs: it is not part of the link."""

    dso: Dso
    """A description of it; the link does not have it."""
    needs: list[Dso] = field(default_factory=list)
    """All that it brings or finds there, itself first, in the order of search."""
    absent: tuple[str, ...] = ()
    """Paths at which nothing was found on the way."""
    names: set[str] = field(default_factory=set)
    """As which it may be asked for."""
    openers: set[int] = field(default_factory=set)
    """Numbers of objects; that behind the last for all that is opened itself."""


class Openings:
    """The libraries that a link's objects may open under a policy."""

    def __init__(self, link: Link, policy: Policy) -> None:
        self.found: dict[str, Opened] = {}
        """Openings by path."""
        self.matched: set[tuple[str, str]] = set()
        """(object, item of ``opens``) that mean at least one file."""
        self._link = link
        self._policy = policy
        # What is looked for in vain here does not decide the link: the finder notes it in a copy.
        self._probe = copy.copy(link)
        self._probe.absent, self._probe.inputs = {}, {}
        self._known: dict[str, Dso] = {}
        """Everything that is opened or needed by that, by path."""
        self._needs: dict[str, list[tuple[Dso, tuple[str, ...]]]] = {}
        libc = link.known(_LIBC)
        self._libraries = "/usr/lib" if libc is None else os.path.dirname(libc.path)
        self._resolve()

    # -- from patterns to files ------------------------------------------------------------------

    def _resolve(self) -> None:
        """Follow what is allowed to files, and what these may open, until nothing new comes."""
        todo = [(dso.number, dso) for dso in self._link.objects]
        outside = len(self._link.objects)
        done: set[tuple[str, str]] = set()
        while todo:
            number, dso = todo.pop(0)
            names = tuple(sorted(n for n in (dso.name, *dso.names) if "/" not in n))
            paths = (dso.path, os.path.realpath(dso.path))
            table = self._policy.table((*names, os.path.basename(dso.path)), paths)
            for pattern in () if table is None else table.opens:
                for name, path in self._files(pattern, dso):
                    opening = self._opening(name, path, dso)
                    if opening is None:
                        continue
                    opening.openers.add(number)
                    self.matched.add((dso.name, pattern))
                    for member in opening.needs:
                        if member.number == outside and (member.path, "") not in done:
                            done.add((member.path, ""))
                            todo.append((outside, member))

    def _files(self, pattern: str, opener: Dso) -> Iterator[tuple[str, str]]:
        """(name as it is asked for, path) of the files that an item of ``opens`` means."""
        folder = os.path.dirname(opener.path)
        meant = pattern.replace("${ORIGIN}", folder).replace("$ORIGIN", folder)
        meant = meant.replace("$LIB", self._libraries)
        if "/" in meant:
            if not _WILD.search(meant):
                self._link.watch(meant)
                yield pattern, meant
                return
            for path in sorted(glob.glob(meant, recursive=True)):
                if os.path.isfile(path):
                    self._link.watch(os.path.dirname(path))
                    yield os.path.basename(path), path
            return
        names = [meant]
        if _WILD.search(meant):
            paths = glob.glob(os.path.join(glob.escape(self._libraries), meant))
            names = sorted(os.path.basename(path) for path in paths)
        for name in names:
            found = self._find(name, opener)
            if found is not None:
                self._link.watch(found)
                yield name, found

    def _find(self, name: str, asker: Dso) -> str | None:
        """Where the run-time linker finds a name, or has found it; None where it does not.

        The program's own finder knows how to look for any object.
        """
        finder = self._link.pipelines[0].find
        if finder is None:
            return None
        if (linked := self._link.known(name)) is not None:
            return linked.path
        try:
            need = finder[1](name, asker, self._probe)
        except LinkError:
            return None
        return need.path if isinstance(need, Need) else None

    def _opening(self, name: str, path: str, opener: Dso) -> Opened | None:
        if path not in self.found:
            dso = self._describe(path, opener)
            if dso is None:
                return None  # nor can the program open it
            needs, absent = self._closure(dso)
            for other in needs[1:]:
                if other.number == len(self._link.objects):
                    self._link.watch(other.path)  # an update shall be linked anew, not refused
            self.found[path] = Opened(dso, needs, absent)
        opening = self.found[path]
        if "/" in name:
            opening.names.add(name)
        # By a bare name it is meant only where the search for the name ends at this file.
        for bare in {os.path.basename(path), opening.dso.file.soname or "", name}:
            if bare and "/" not in bare and self._find(bare, opener) == path:
                opening.names.add(bare)
        return opening

    def _describe(self, path: str, loader: Dso) -> Dso | None:
        """An object of the link, or as the finder sees one that has not been loaded."""
        linked = next((dso for dso in self._link.objects if dso.path == path), None)
        if linked is not None:
            return linked
        if path not in self._known:
            try:
                file = self._link.files.open(path)
            except LinkError:
                return None
            if file.stat is None:
                return None
            main = self._link.main
            name = file.soname or os.path.basename(path)
            self._known[path] = Dso(
                len(self._link.objects), name, path, file, main, loader, "dlopen", "",
                identity_of(file.stat), names={name, os.path.basename(path)},
            )  # fmt: skip
        return self._known[path]

    def _closure(self, dso: Dso) -> tuple[list[Dso], tuple[str, ...]]:
        """An object and all that it needs, breadth-first (dl-deps.c); paths that must be absent."""
        members, absent = [dso], dict[str, None]()
        known = {id(dso)}
        for member in members:
            linked = member.number < len(self._link.objects)
            for other, missing in (
                [(d, ()) for d in member.dependencies] if linked else self._direct(member)
            ):
                absent.update(dict.fromkeys(missing))
                if id(other) not in known:
                    known.add(id(other))
                    members.append(other)
        return members, tuple(absent)

    def _direct(self, dso: Dso) -> list[tuple[Dso, tuple[str, ...]]]:
        if dso.path not in self._needs:
            found: list[tuple[Dso, tuple[str, ...]]] = []
            for name in dso.file.needed:
                linked = self._link.known(name)
                if linked is not None:
                    found.append((linked, ()))
                    continue
                self._probe.absent = {}
                path = self._find(name, dso)
                other = None if path is None else self._describe(path, dso)
                if other is not None:
                    found.append((other, tuple(self._probe.absent)))
            self._needs[dso.path] = found
        return self._needs[dso.path]

    # -- what they do ----------------------------------------------------------------------------

    def conducts(self) -> list[Conduct]:
        """What the objects do that may be opened: bound as ld.so would, in the program's scope and
        then in that of what is opened (dl-open.c)."""
        linked = len(self._link.objects)
        program = _Definers(self._link.main.members)
        members = [dso for dso in self._known.values() if dso.number >= linked]
        later = _Definers(members)
        done: dict[str, Conduct] = {}
        open_: dict[str, list[tuple[int, list[Dso]]]] = {}
        for opening in self.found.values():
            order = {id(dso): at for at, dso in enumerate(opening.needs)}
            for dso in opening.needs:
                if dso.number < linked:
                    continue
                if dso.path not in done:
                    because = f"{opening.dso.name} needs it"
                    because = "may be opened" if dso is opening.dso else because
                    conduct = conduct_of(dso.file, dso.name, dso.path, dso.names, because)
                    conduct.is_opened = True
                    done[dso.path] = conduct
                    open_[dso.path] = _bind(dso, conduct, program, later)
                for index, candidates in open_[dso.path]:
                    here = [one for one in candidates if id(one) in order]
                    if here:
                        first = min(here, key=lambda one: order[id(one)])
                        _record(done[dso.path], dso, index, first)
        return list(done.values())


def _bind(
    dso: Dso, conduct: Conduct, program: _Definers, later: _Definers
) -> list[tuple[int, list[Dso]]]:
    """Record imports from the program's scope; the others with all who may answer them."""
    rest = []
    for index in undefined(dso.file):
        hashed = int(dso.file.name_hashes[index])
        providers = program.of(hashed)
        if providers:
            _record(conduct, dso, index, providers[0])
        elif candidates := later.of(hashed):
            rest.append((index, candidates))
    return rest


def _record(conduct: Conduct, dso: Dso, index: int, provider: Dso) -> None:
    if provider is not dso:
        conduct.imports.setdefault(provider.name, set()).add(dso.file.symbol_name(index))


class _Definers:
    """The objects of a scope that define a name, in its order."""

    def __init__(self, members: Sequence[Dso]) -> None:
        self._found: dict[int, list[Dso]] = {}
        for dso in members:
            for hashed in _exported(dso.file):
                self._found.setdefault(hashed, []).append(dso)

    def of(self, hashed: int) -> list[Dso]:
        return self._found.get(hashed, [])


def _exported(file: ElfFile) -> Iterable[int]:
    symbols = file.symbols
    rows = (symbols["st_shndx"] != SHN.UNDEF) & (symbols["st_info"] >> 4 != STB.LOCAL)
    hashes: list[int] = np.unique(file.name_hashes[np.flatnonzero(rows)]).tolist()
    return hashes
