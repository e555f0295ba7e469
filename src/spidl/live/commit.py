"""The end of every load: code may run, or everything is taken back.

What one load brings goes at once, as with one dlclose: all destructors run before anything is
unmapped.  For that glibc gets a *bundle*, an object that needs all of it, and the members' own
references are given back.  A bundle also needs what members are bound to without saying so in
DT_NEEDED (glibc's l_reldeps), and what earlier members need that it has come to use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from spidl.elf import R, name_hash
from spidl.link.space import Protect
from spidl.link.symbols import I64, U64
from spidl.live import process
from spidl.live.members import Member, closure
from spidl.live.namespace import Namespace, in_use
from spidl.live.shell import open_bundle
from spidl.live.stubs import NAMES, closing

SYMBOLIC = (R.R64, R.GLOB_DAT, R.JUMP_SLOT)
"""Relocation types of a word that is a symbol's address (psABI 4.4.1)."""
_results: dict[int, int] = {}
"""What IFUNC resolvers of the process's own libraries returned, by their address."""


class Indirect(NamedTuple):
    """A word that an IFUNC resolver gives: run-time addresses.

    ``lasting``: the resolver is one of the process's own, which are asked once.
    """

    address: int
    function: int
    lasting: bool


class Own(NamedTuple):
    """A word that leads to a function of the namespace's: a virtual address, a name of
    `spidl.live.stubs`, an addend, and the symbol's index."""

    member: Member
    place: int
    name: str
    addend: int
    symbol: int


@cache
def own_names() -> U64:
    """Hashes of the functions that a namespace has of its own."""
    return np.array([name_hash(name.encode()) for name in NAMES], np.uint64)


def own_words(member: Member, symbols: I64) -> list[Own]:
    """The words of a library that are the address of one of these symbols."""
    file, found = member.file, []
    assert file is not None, "it was linked just now"
    for table in (file.rela, file.jmprel):
        for row in table[np.isin(table["r_sym"], symbols)]:
            if row["r_type"] in SYMBOLIC:
                addend = int(row["r_addend"]) if row["r_type"] == R.R64 else 0
                symbol = int(row["r_sym"])
                name = file.symbol_name(symbol)
                found.append(Own(member, int(row["r_offset"]), name, addend, symbol))
    return found


class Commit:
    """Libraries that are on their way into the process, their words written."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.members: list[Member] = []
        """What this load brings, in load order."""
        self.order: list[Member] = []
        """The same, dependencies first."""
        self.indirect: list[Indirect] = []
        self.is_local = False
        """Whether the rest of the namespace does not see it (RTLD_LOCAL)."""
        self.own: list[Own] = []
        self.permissions: list[tuple[Member, Protect]] = []
        """Of pages that are read-only once all is written."""
        self._bundle: int | None = None
        """dlopen's handle of it."""

    def wanted(self) -> Member:
        """The library that was asked for."""
        return self.members[0]

    def hold(self) -> None:
        """Tie everything together that must be there for as long as this load is."""
        held = closure([*self.members, self.wanted()])
        if held != {self.wanted()} or self.wanted() not in self.members:
            needed = [member for member in held if member not in self.members]
            names = [member.shell.soname for member in (*self.members, *needed)]
            self._bundle = open_bundle(names)
            # Debuggers and unwinders open what has a name, and the number of the descriptor in
            # this one's may be that of another file by then.
            process.LinkMap(self._bundle).show("", None)
            for member in self.members:
                member.shell.close()

    def initialise(self) -> None:
        """Let the code run: IFUNCs first, then RELRO, then constructors, dependencies first."""
        for word in self.own:
            address = self.namespace.stubs_of(word.member.path)[word.name]
            process.write_word(word.member.bias + word.place, address + word.addend)
            word.member.stubs[word.symbol] = word.name, address
        for member in self.members:
            member.make_executable()
        for indirect in self.indirect:
            process.write_word(indirect.address, _result(indirect))
        for member, protect in self.permissions:
            member.protect(protect)
        # A constructor may open libraries, which see this load.
        there = self.namespace.members
        there += self.members
        for member in self.members if not self.is_local else ():
            member.make_global()
        in_use.add(self.namespace)
        for member in dependencies_first(self.order):
            if not member.ran:
                member.initialise()
        # A reference of this load may be what pins an earlier library.
        for member in closure(member for member in there if member.stays):
            process.keep_object(os.fsencode(member.shown))

    def undo(self) -> None:
        """Take everything back that nobody else needs."""
        bundle, self._bundle = self._bundle, None
        with closing():
            if bundle is not None:
                process.close_object(bundle)
            for member in reversed(self.order):
                member.shell.close()  # an interrupted `hold` has left some open
        self.namespace.sweep()


def dependencies_first(order: Sequence[Member]) -> list[Member]:
    """Libraries behind those that they need and whose constructors have not run, which belong to a
    load that is under way: one of its constructors opens these."""
    found: dict[Member, None] = {}
    seen: set[Member] = set()

    def take(member: Member) -> None:
        if member in seen:
            return
        seen.add(member)
        for need in member.needs:
            if not need.ran and need not in order:
                take(need)
        found[member] = None

    for member in order:
        take(member)
    return list(found)


def _result(word: Indirect) -> int:
    known = _results.get(word.function)
    if known is None:
        known = process.call_resolver(word.function)
        if word.lasting:
            _results[word.function] = known
    return known


class ShownPaths:
    """Paths that lead to a file and by which glibc has no object: names are how it knows them."""

    def __init__(self) -> None:
        self._taken = {*process.link_maps().values()}

    def new(self, path: str) -> str:
        """One for the file at ``path``."""
        folder, name = os.path.split(path)
        steps = "./"
        while (shown := os.path.join(folder, steps + name)) in self._taken:
            steps += "./"
        self._taken.add(shown)
        return shown


def owner(members: Sequence[Member], address: int) -> Member | None:
    """The library in whose span an address lies."""
    return next((m for m in members if m.start <= address < m.end), None)
