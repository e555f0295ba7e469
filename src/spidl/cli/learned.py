"""The policy that programs need as they are linked today, and its text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from spidl.elf import ElfFile
from spidl.link.link import Link
from spidl.modules.authorise.conduct import Conduct, conducts
from spidl.modules.authorise.interfaces import glibc
from spidl.modules.authorise.opened import Openings
from spidl.modules.authorise.policy import ALL, SYMBOL, Policy, Table, wildcard
from spidl.modules.seccomp.folders import PASS_ON, places_of
from spidl.modules.seccomp.plugins import (
    GCONV,
    NSS,
    files_at,
    folders_at,
    libraries_in,
    nss_services,
)

_OPENERS = frozenset({"dlopen", "dlmopen"})
_LIBC = "libc.so.6"
_NSS_CONFIGURATION = "/etc/nsswitch.conf"
_ENDS = re.compile(rb"\.so(?:\.[0-9]+){0,3}(?=[\0:])")
_WORDS = re.compile(rb"[\x21-\x7e]+$")
_LIBRARY = re.compile(r"(?:\$ORIGIN/|\$\{ORIGIN\}/)?[^%*?$]*[^./%*?$]\.so(?:\.[0-9]+){0,3}")
_LONGEST = 200
"""Bytes of a name."""
_WIDTH = 100
_MOST_SYMBOLS = 20
"""Interpositions are written symbol by symbol up to this number."""


@dataclass(slots=True)
class Learned:
    """What one table of the policy shall allow."""

    key: str
    is_program: bool = False
    is_opened: bool = False
    conducts: list[Conduct] = field(default_factory=list)
    opens: set[str] = field(default_factory=set)

    @property
    def imports(self) -> dict[str, set[str]]:
        return _joined([conduct.imports for conduct in self.conducts])

    @property
    def interposes(self) -> dict[str, set[str]]:
        return _joined([conduct.interposes for conduct in self.conducts])


def _joined(parts: Sequence[Mapping[str, set[str]]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part in parts:
        for provider, names in part.items():
            found.setdefault(provider, set()).update(names)
    return found


def learned(link: Link, declared: Sequence[tuple[str, str]] = ()) -> list[Learned]:
    """What the objects of a link do, with what they open as far as that is found.

    ``declared`` are more items of ``opens`` by the object's name.
    """
    linked = conducts(link)
    opens = _Opens(link, linked)
    for name, item in declared:
        opens.add(name, item)
    opened: list[Conduct] = []
    while True:
        opens.look([*linked, *opened])
        openings = Openings(link, opens.policy())
        found = openings.conducts()
        if len(found) == len(opened):
            break
        opened = found
    items: dict[str, set[str]] = {}
    for name, item in openings.matched:
        items.setdefault(name, set()).add(item)
    return _tables(linked, opened, items)


def _tables(
    linked: Sequence[Conduct], opened: Sequence[Conduct], opens: Mapping[str, set[str]]
) -> list[Learned]:
    tables: dict[str, Learned] = {}
    names = {conduct.name for conduct in linked}
    patterns = [item for items in opens.values() for item in items if "/**/" in item]
    for number, conduct in enumerate([*linked, *opened]):
        key = conduct.name
        if conduct.is_opened and key not in names:
            fitting = [p for p in patterns if any(wildcard(p, path) for path in conduct.paths)]
            key = min(fitting, default=key)
        table = tables.setdefault(key, Learned(key, number == 0, conduct.is_opened))
        table.conducts.append(conduct)
        table.opens |= opens.get(conduct.name, set())
    return list(tables.values())


def merge(programs: Sequence[Sequence[Learned]]) -> list[Learned]:
    """One policy for several programs: programs first, then what is linked, then what is opened."""
    found: dict[str, Learned] = {}
    for tables in programs:
        for table in tables:
            known = found.setdefault(table.key, Learned(table.key, is_opened=table.is_opened))
            known.is_program |= table.is_program
            known.is_opened &= table.is_opened
            known.conducts += table.conducts
            known.opens |= table.opens
    return sorted(found.values(), key=lambda t: (not t.is_program, t.is_opened, t.key))


class _Opens:
    """What objects open, as far as their strings and what is known of them tell."""

    def __init__(self, link: Link, linked: Sequence[Conduct]) -> None:
        self._link = link
        self.items: dict[str, set[str]] = {}
        libc = link.known(_LIBC)
        self._folder = None if libc is None else os.path.dirname(libc.path)
        self._named_by: dict[str, list[str]] = {}
        self._linked = {name for one in linked for name in (*one.names, *one.paths)}

    def add(self, name: str, item: str, *, again: bool = False) -> None:
        """``again``: libraries of the link count too, since they may be opened once more."""
        linked = item in self._linked or os.path.realpath(item) in self._linked
        if again or not linked:
            self.items.setdefault(name, set()).add(item)

    def policy(self) -> Policy:
        """One that allows to open what is known so far."""
        tables = [Table(name, opens=tuple(sorted(items))) for name, items in self.items.items()]
        return Policy("", tuple(tables), {}, {})

    def look(self, objects: Sequence[Conduct]) -> None:
        """Look at objects for what they, or those that they ask, may open."""
        wanted = {name for conduct in objects for names in conduct.imports.values()
                  for name in names}  # fmt: skip
        for conduct in objects:
            for provider, names in conduct.imports.items():
                if names & set(PASS_ON.get(provider, ())):
                    self._named(provider, conduct, names)
                elif names & _OPENERS:
                    self._named(conduct.name, conduct, names)
                    self._folders(conduct)
        if self._folder is None:
            return
        libc = self._link.known(_LIBC)
        assert libc is not None, "it has a folder"
        for name in _libraries_named(libc.file):
            if "/" not in name:
                self.add(_LIBC, name)
        if wanted & NSS:
            for service in nss_services(self._link.read_input(_NSS_CONFIGURATION)):
                self.add(_LIBC, service)
        if wanted & GCONV:
            self.add(_LIBC, f"{self._folder}/gconv/**/*.so*")

    def _named(self, opener: str, conduct: Conduct, asked: set[str]) -> None:
        if conduct.path not in self._named_by:
            file = self._link.files.open(conduct.path)
            own = {file.soname} if "dlmopen" in asked else {file.soname, *file.needed}
            names = _libraries_named(file)
            self._named_by[conduct.path] = [name for name in names if name not in own]
        for name in self._named_by[conduct.path]:
            if "/" not in name or name[0] in "/$":
                self.add(opener, name, again="dlmopen" in asked)

    def _folders(self, conduct: Conduct) -> None:
        places = places_of(conduct.name, conduct.path, {}, self._folder or "/usr/lib")
        for place in places.folders:
            if folders_at(place):
                self.add(conduct.name, f"{place}/**/*.so*")
            elif files_at(place):
                self.add(conduct.name, place)
        for path in (path for pattern in places.lists for path in files_at(pattern)):
            for name in libraries_in(self._link.read_input(path) or b""):
                self.add(conduct.name, name)


def _libraries_named(file: ElfFile) -> list[str]:
    """Names and paths of libraries among an object's strings, whatever they are there for; one
    string may have several, with colons."""
    content, found = file.data.data, set()
    for match in _ENDS.finditer(content):
        start = max(match.start() - _LONGEST, 0)
        text = bytes(content[start : match.end()])
        for word in _WORDS.findall(text)[-1:]:
            for name in word.decode().split(":"):
                base = os.path.basename(name)
                # A string that ends another is stored once: any end may be a name of its own.
                ends = {name, base, base[max(base.rfind("lib"), 0) :]}
                found |= {end for end in ends if _LIBRARY.fullmatch(end)}
    return sorted(found)


# -- text ----------------------------------------------------------------------------------------


def policy_text(tables: Sequence[Learned], *, pin: bool, symbols: bool) -> Iterator[str]:
    """The lines of a policy file."""
    programs = " ".join(t.conducts[0].path for t in tables if t.is_program)
    yield f"# What may be linked into {programs} (docs/authorise.md)."
    for table in tables:
        yield ""
        yield from _table(table, pin=pin, symbols=symbols)


def _table(table: Learned, *, pin: bool, symbols: bool) -> Iterator[str]:
    conducts = table.conducts
    single = len({conduct.path for conduct in conducts}) == 1
    yield f"[objects.{_quoted(table.key)}]"
    build_id = conducts[0].build_id
    if single and pin:
        yield f"path = {_quoted(conducts[0].path)}"
        if build_id:
            yield f"build_id = {_quoted(build_id)}"
    elif single:
        yield f"# {conducts[0].path}" + (f", build-id {build_id}" if build_id else "")
    for what, done, exact in (("imports", table.imports, symbols),
                              ("interposes", table.interposes, True)):  # fmt: skip
        for provider, names in sorted(done.items()):
            most = None if symbols else _MOST_SYMBOLS
            items = _items(provider, names, exact=exact, most=most)
            yield from _list(f"{what}.{_quoted(provider)}", items)
    for key, value in (("resolvers", any(c.resolvers for c in conducts)),
                       ("constructors", any(c.constructors for c in conducts))):  # fmt: skip
        yield f"{key} = {str(value).lower()}"
    if table.opens:
        yield from _list("opens", sorted(table.opens))


def _items(provider: str, names: set[str], *, exact: bool, most: int | None) -> list[str]:
    """Interfaces as far as the symbols belong to some; others one by one, or all."""
    found: set[str] = set()
    others = []
    for name in names:
        interface = glibc().of(provider, name)
        if interface is None:
            others.append(name)
        else:
            found.add(interface)
    if others and provider not in glibc().libraries and not exact:
        return [ALL]
    if most is not None and len(others) > most:
        return [ALL]
    return sorted(found) + sorted(f"{SYMBOL}{name}" for name in others)


def _list(key: str, items: Sequence[str]) -> Iterator[str]:
    quoted = [_quoted(item) for item in items]
    line = f"{key} = [{', '.join(quoted)}]"
    if len(line) <= _WIDTH:
        yield line
        return
    yield f"{key} = ["
    line = "   "
    for item in quoted:
        if len(line) + len(item) + 2 > _WIDTH:
            yield line
            line = "   "
        line += f" {item},"
    yield line
    yield "]"


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are among its own."""
    return json.dumps(text)
