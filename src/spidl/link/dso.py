"""One object in a link, and how objects ask for others."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spidl.diagnostics import LinkError, Place
from spidl.elf import SHN, ElfFile
from spidl.link.actions import FileIdentity

if TYPE_CHECKING:
    from spidl.link.namespace import Namespace


@dataclass(frozen=True, slots=True)
class Need:
    """An object that must be part of the link.

    ``name`` is how it is asked for (a DT_NEEDED string); an object already known by that name
    satisfies it, otherwise the file at ``path`` is opened.  ``because`` and ``found`` say for
    people who asked and where the path comes from.  It becomes part of ``namespace``, by default
    of the asker's.
    """

    name: str
    path: str | None = None
    because: str = "DT_NEEDED"
    found: str = ""
    namespace: Namespace | None = None

    def missing(self, asker: str) -> LinkError:
        """The error for one without a path, which the object at ``asker`` has."""
        return LinkError(
            "collect/not-found",
            f"{self.name} is needed and was not found",
            place=Place(asker),
            notes=() if not self.found else (self.found,),
            help="install the package that has it, or set LD_LIBRARY_PATH to its folder",
        )


@dataclass(frozen=True, slots=True)
class MemoryObject:
    """An ELF object that a module made: it takes part in the link like one from a file."""

    name: str
    content: bytes
    because: str


@dataclass(frozen=True, slots=True)
class TlsBlock:
    """An object's part of the static TLS block.

    ``module`` is the TLS module id (from 1), ``offset`` the distance in bytes from the thread
    pointer down to the block (glibc's l_tls_offset).
    """

    module: int
    offset: int


def identity_of(stat: os.stat_result) -> FileIdentity:
    """The identity of a file from its stat."""
    return FileIdentity(
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        divmod(stat.st_mtime_ns, 1_000_000_000),
        divmod(stat.st_ctime_ns, 1_000_000_000),
    )


@dataclass(slots=True, eq=False)
class Dso:
    """One object of a link.  Reading a fact before its phase is an error."""

    number: int
    name: str
    path: str
    """Absolute path, or the name of an in-memory object."""
    file: ElfFile
    namespace: Namespace
    loader: Dso | None
    because: str
    found: str
    identity: FileIdentity | None
    """None for an in-memory object."""
    names: set[str] = field(default_factory=set)
    """Every name it is known by: soname, requested names, path."""
    dependencies: list[Dso] = field(default_factory=list)
    """What its collect passes asked for, in order."""
    made_by: str | None = None
    """The module that made it in memory or added it to the link; None for a DT_NEEDED object."""
    tls: TlsBlock | None = None
    _bias: int | None = None

    def __repr__(self) -> str:
        return f"<Dso {self.name}>"

    def __str__(self) -> str:
        return self.name

    @property
    def is_added(self) -> bool:
        """Whether a module brought it: the system's linker would not load it by itself."""
        return self.made_by is not None or self.namespace is not self.root.namespace

    @property
    def label(self) -> str:
        """Its name, with its namespace's unless that is the program's: no two are the same."""
        inside = self.namespace is not self.root.namespace
        return f"{self.namespace}:{self.name}" if inside else self.name

    @property
    def is_root(self) -> bool:
        """Whether this is the program itself."""
        return self.loader is None and self.number == 0

    @property
    def root(self) -> Dso:
        """The program that this object is part of."""
        dso = self
        while dso.loader is not None:
            dso = dso.loader
        return dso

    @property
    def bias(self) -> int:
        """What is added to the file's virtual addresses, in bytes (glibc's l_addr)."""
        if self._bias is None:
            raise LinkError(
                "link/too-early",
                f"the address of {self.name} was asked for before its load phase",
                place=Place(self.path),
                help="do this in post-load or later",
            )
        return self._bias

    @property
    def start(self) -> int:
        """First address of its span."""
        return self.bias + self.file.span[0]

    @property
    def end(self) -> int:
        """First address behind its span."""
        return self.bias + self.file.span[1]

    def symbol_address(self, index: int) -> int:
        """Run-time address of one of its symbols; absolute symbols do not move (gABI)."""
        symbol = self.file.symbols[index]
        value = int(symbol["st_value"])
        return value if int(symbol["st_shndx"]) == SHN.ABS else (value + self.bias) & (2**64 - 1)
