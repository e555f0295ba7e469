"""One library in the process, from its shell to its destructors.

The steps, each with its own method, so that SPIN-like domains can stop between them:

*placed*       the shell is open and the segments lie over it: text is readable, not executable, and
               nothing is bound.  No address of it may be given to anybody yet.
*bound*        words are written (all at once, or slot by slot with `write`).
*initialised*  text is executable, constructors have run, destructors are registered with glibc.
*closed*       glibc has run the destructors and unmapped it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf import ElfFile
from spidl.link.actions import Protection
from spidl.link.dso import identity_of
from spidl.link.module import Module
from spidl.link.space import Mapping as Part
from spidl.link.space import Protect
from spidl.link.symbols import I64, U64
from spidl.live import process, segments
from spidl.live.outline import Outline
from spidl.live.shell import Shell
from spidl.live.store import open_files

_places = itertools.count()


@dataclass(frozen=True, slots=True)
class Binding:
    """What one symbol reference is bound to.

    ``provider`` is the path of the object that defines it, None for an undefined weak symbol (then
    the address is 0) and where a module answered; ``module`` is that module.
    """

    name: str
    version: str | None
    provider: str | None
    address: int
    module: str | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What an object's symbol references are bound to, in columns.

    ``symbol`` are indexes into its symbol table; ``provider`` into ``paths``, -1 for none;
    ``module`` into ``modules``, -1 where none of them answered.
    """

    symbol: I64
    provider: I64
    value: U64
    """The addresses."""
    module: I64
    paths: Sequence[str]
    modules: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class Member:
    """A library that this process has through a shell.

    ``shown`` is the path that glibc and debuggers know it by, which leads to the file and that no
    other instance has.
    """

    outline: Outline
    shell: Shell
    shown: str
    parts: tuple[Part, ...] = field(default=(), repr=False)
    is_shown: bool = False
    ran: bool = False
    """Whether its constructors were called."""
    uses: list[Member] = field(default_factory=list, repr=False)
    """Private libraries that it needs or is bound to."""
    pinned: bool = False
    """Whether somebody is bound to a symbol of it that the process may have only once
    (STB_GNU_UNIQUE): glibc never unmaps such an object (elf/dl-lookup.c, do_lookup_unique)."""
    relro: tuple[int, int] | None = None
    """Address and length of what is read-only once it is bound, in whole pages."""
    answers: list[Answers] = field(default_factory=list, repr=False)
    file: ElfFile | None = field(default=None, repr=False)
    """None where nobody has parsed it for this load."""
    needs: list[Member] = field(default_factory=list, repr=False)
    """Those of ``uses`` that its DT_NEEDED entries are, in their order."""
    late: list[Member] = field(default_factory=list, repr=False)
    """Those of ``needs`` that glibc did not have when the shell was opened (a cycle)."""
    loader: Member | None = field(default=None, repr=False)
    """Whose need brought it, None where it was asked for."""
    is_initial: bool = True
    """Whether it came with what Python asked for, and not with what a library of the namespace
    opened: all that did is one list, as the program's libraries are."""
    global_at: int | None = None
    """Its place among what the whole namespace sees (RTLD_GLOBAL), None where that does not."""
    heads: list[Member] = field(default_factory=list, repr=False)
    """What dlopen was asked for when this came with it or was needed by it: these and their needs
    it sees in any case."""
    modules: Sequence[str | Module] = ()
    """Those of its load, as it was asked for."""
    stubs: dict[int, tuple[str, int]] = field(default_factory=dict, repr=False)
    """By symbol: name and address of the functions that are the namespace's own."""

    @property
    def name(self) -> str:
        return self.outline.name

    @property
    def path(self) -> str:
        return self.outline.path

    @property
    def bias(self) -> int:
        return self.shell.bias

    @property
    def start(self) -> int:
        """First address of its span."""
        return self.shell.start

    @property
    def end(self) -> int:
        """First address behind its span and the shell's tail."""
        return self.shell.end

    @property
    def bindings(self) -> list[Binding]:
        """Every symbol that its relocations name, in the order of its symbol table.

        Raises `LinkError` ``live/changed`` where the file that has the names is another now.
        """
        found: dict[int, Binding] = {}
        file = (self.file or _reopened(self.outline)) if self.answers else None
        for answer in self.answers:
            assert file is not None, "there are answers"
            columns = (answer.symbol, answer.provider, answer.value, answer.module)
            for symbol, provider, address, module in zip(
                *(column.tolist() for column in columns), strict=True
            ):
                if symbol:
                    found[symbol] = Binding(
                        file.symbol_name(symbol),
                        file.symbol_version(symbol),
                        None if provider < 0 else answer.paths[provider],
                        address,
                        None if module < 0 else answer.modules[module],
                    )
                    if symbol in self.stubs:
                        name, address = self.stubs[symbol]
                        found[symbol] = Binding(name, found[symbol].version, None, address, "live")
        return [found[symbol] for symbol in sorted(found)]

    def show(self) -> None:
        """Let the tools see the library where they saw its shell."""
        self.shell.show(self.shown)
        self.is_shown = True

    def write(self, words: Sequence[tuple[int, int]]) -> None:
        """Store (address, value) words, in RELRO too; each store is one aligned instruction.

        Threads that run the library meanwhile see the old or the new word.
        """
        inside = any(self.in_relro(address) for address, _ in words)
        if inside:
            self._relro(Protection.READ | Protection.WRITE)
        try:
            for address, value in words:
                process.write_word(address, value)
        finally:
            if inside:
                self._relro(Protection.READ)

    def may_write(self, address: int) -> bool:
        """Whether a word lies in its writable pages."""
        return any(
            part.start <= address <= part.end - 8 and part.protection & Protection.WRITE
            for part in self.parts
        )

    def in_relro(self, address: int) -> bool:
        """Whether a word is read-only now."""
        return self.relro is not None and self.relro[0] <= address < sum(self.relro)

    def _relro(self, protection: Protection) -> None:
        assert self.relro is not None, "the caller looked"
        process.protect(*self.relro, protection)

    def protect(self, protect: Protect) -> None:
        """Apply a final permission; pages that become read-only are remembered for `write`.

        Raises `LinkError` ``live/mapping`` for pages that are not the library's, or that would be
        writable and executable.
        """
        end = protect.start + protect.length
        both = Protection.WRITE | Protection.EXEC
        if not self.start <= protect.start < end <= self.end or protect.protection & both == both:
            raise LinkError(
                "live/mapping",
                f"a module gives {self.name} the permission {protect.protection!r} at "
                f"{protect.start:#x}-{end:#x}",
                place=Place(self.path),
                help="protect passes may change the pages of their object, never to W and X",
            )
        process.protect(protect.start, protect.length, protect.protection)
        if protect.protection == Protection.READ:
            self.relro = protect.start, protect.length

    def make_executable(self) -> None:
        """Let the code run."""
        segments.make_executable(self.parts)

    def register_exits(self) -> None:
        """Tell glibc the destructors: DT_FINI is called after DT_FINI_ARRAY, which goes backwards
        (elf/dl-fini.c), so one list does for both."""
        fini = self.outline.fini
        functions = [] if fini is None else [self.bias + fini]
        functions += self._functions(self.outline.fini_array)
        at, size = (self.bias + place for place in self.shell.image.exits)
        for number, function in enumerate(functions):
            process.write_word(at + 8 * number, function)
        process.write_word(size, 8 * len(functions))

    def constructors(self) -> list[int]:
        """DT_INIT and the entries of DT_INIT_ARRAY: run-time addresses in order."""
        init = self.outline.init
        first = [] if init is None else [self.bias + init]
        return first + self._functions(self.outline.init_array)

    def _functions(self, table: tuple[int, int]) -> list[int]:
        """The functions in a table of the library, as they are in memory now."""
        vaddr, length = table
        if not length:
            return []
        words = process.memory(self.bias + vaddr, length).view(np.uint64).tolist()
        return [word for word in words if word not in (0, 2**64 - 1)]

    def initialise(self) -> None:
        """Register the destructors and run the constructors; its text must be executable."""
        self.ran = True
        self.register_exits()
        process.call_constructors(self.constructors())

    @property
    def state(self) -> str:
        """``placed``, ``initialised`` or ``closed``."""
        if not self.is_mapped:
            return "closed"
        return "initialised" if self.ran else "placed"

    @property
    def stays(self) -> bool:
        """Whether it is never unmapped."""
        return self.pinned or self.outline.stays

    @property
    def is_mapped(self) -> bool:
        """Whether glibc still has it."""
        return self.is_among(process.link_maps({self.shell.handle}))

    def make_global(self) -> None:
        """Let the whole namespace see it, behind what it sees already."""
        if self.global_at is None:
            self.global_at = next(_places)

    def is_among(self, maps: Mapping[int, str]) -> bool:
        """Whether it is one of glibc's objects: addresses of link maps and names."""
        name = maps.get(self.shell.handle)
        there = name is not None and (not self.is_shown or name == self.shown)
        return there and self.shell.is_latest

    def refer(self, flags: int = 0) -> int:
        """dlopen's handle with one reference more, 0 where glibc has unmapped it.

        ``flags`` are further ones of dlopen's.
        """
        known = process.RTLD_NOW | process.RTLD_NOLOAD | flags
        handle = process.dlopen(os.fsencode(self.shown), known)
        if handle and (handle != self.shell.handle or not self.shell.is_latest):
            process.close_object(handle)  # the process has the same file
            return 0
        return handle


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


def scope(members: Iterable[Member], heads: Iterable[Member]) -> list[Member]:
    """Where the libraries of a namespace look for symbols: what all of them see, then ``heads`` and
    their needs, breadth-first (RTLD_LOCAL)."""
    seen = [(member.global_at, member) for member in members if member.global_at is not None]
    found = dict.fromkeys(member for _, member in sorted(seen, key=itemgetter(0)))
    for head in heads:
        found |= dict.fromkeys(breadth_first(head))
    return list(found)


def breadth_first(first: Member) -> list[Member]:
    """A library and what it needs, as glibc searches them."""
    found = {first: None}
    todo = [first]
    for member in todo:
        new = dict.fromkeys(need for need in member.needs if need not in found)
        found |= new
        todo += new
    return todo


def _reopened(outline: Outline) -> ElfFile:
    file = open_files().open(outline.path)
    if file.stat is None or identity_of(file.stat) != outline.identity:
        raise segments.changed(outline.path, "it is another file now")
    return file
