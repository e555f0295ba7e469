"""The end of every load: code may run, or everything is taken back.

What one load brings goes at once, as with one dlclose: all destructors run before anything is
unmapped.  For that glibc gets a *bundle*, an object that needs all of it, and the members' own
references are given back.  A bundle also needs what members are bound to without saying so in
DT_NEEDED (glibc's l_reldeps), and what earlier members need that it has come to use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from spidl.link.space import Protect
from spidl.live import process
from spidl.live.members import Member
from spidl.live.namespace import Namespace
from spidl.live.shell import open_bundle

_results: dict[int, int] = {}
"""What IFUNC resolvers of the process's own libraries returned, by their address."""


class Indirect(NamedTuple):
    """A word that an IFUNC resolver gives: run-time addresses.

    ``lasting``: the resolver is one of the process's own, which are asked once.
    """

    address: int
    function: int
    lasting: bool


class Commit:
    """Libraries that are on their way into the process, their words written."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.members: list[Member] = []
        """What this load brings, in load order."""
        self.order: list[Member] = []
        """The same, dependencies first."""
        self.indirect: list[Indirect] = []
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
        for member in self.members:
            member.make_executable()
        for word in self.indirect:
            process.write_word(word.address, _result(word))
        for member, protect in self.permissions:
            member.protect(protect)
        for member in self.order:
            member.initialise()
        # A reference of this load may be what pins an earlier library.
        there = [*self.namespace.members, *self.members]
        for member in closure(member for member in there if member.stays):
            process.keep_object(os.fsencode(member.shown))

    def undo(self) -> None:
        """Take everything back that nobody else needs."""
        bundle, self._bundle = self._bundle, None
        if bundle is not None:
            process.close_object(bundle)
        for member in reversed(self.order):
            member.shell.close()  # an interrupted `hold` has left some open


def closure(members: Iterable[Member]) -> set[Member]:
    """Private libraries that must be there for these to work."""
    found: set[Member] = set()
    todo = list(members)
    while todo:
        member = todo.pop()
        if member not in found:
            found.add(member)
            todo += member.uses
    return found


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
        self._taken = {at.name for at in process.link_maps()}

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
