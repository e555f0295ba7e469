"""What domains export and import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from spidl.domains.gates import Gate
from spidl.elf import R

if TYPE_CHECKING:
    from spidl.domains.placed import Placed

THREAD_TYPES = (R.DTPMOD64, R.DTPOFF64, R.TPOFF64, R.TLSDESC)
"""Relocations that ask for a thread-local variable (psABI, table 4.10)."""


class Kind(Enum):
    """What a symbol is: the values say which unresolved slots can wait."""

    FUNCTION = "function"
    DATA = "data"
    INDIRECT = "indirect"
    """STT_GNU_IFUNC: a function that says where the function is."""
    THREAD = "thread"
    """STT_TLS: a variable that each thread has for itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Symbol:
    """One definition; two are the same only if they are one object.

    ``address`` is a run-time address, of a thread-local variable its place in its owner's block;
    ``size`` is in bytes.  ``owner`` is the code that has it, None for what the process or Python
    provides; ``keep`` must live as long as anybody may call it.
    """

    name: str
    address: int
    kind: Kind = Kind.FUNCTION
    size: int = 0
    owner: Placed | None = None
    keep: object = None
    version: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """All that a domain defines under one name.

    ``default`` is for references without a version, None where every definition is an old one
    (``name@VERSION``); ``exact`` gives that of a version; ``plain`` says that the default one
    has no version.
    """

    default: Symbol | None
    exact: Callable[[str], Symbol | None]
    plain: bool

    def find(self, version: str | None) -> Symbol | None:
        """What a reference is bound to: the version that it asks for; what has no version
        satisfies every reference (glibc elf/dl-lookup.c, check_match)."""
        found = None if version is None else self.exact(version)
        if found is None and (version is None or self.plain):
            found = self.default
        return found


def export_of(symbol: Symbol) -> Export:
    """A name with one definition."""
    versions = {} if symbol.version is None else {symbol.version: symbol}
    return Export(symbol, versions.get, not versions)


@dataclass(frozen=True, slots=True)
class Slot:
    """A word, or two, that a relocation of this type fills for an imported symbol.

    ``address`` is a run-time address.  ``constant`` slots (GOT, PLT) are the linker's alone; others
    are the program's data, which it may have changed since.
    """

    address: int
    addend: int
    constant: bool
    type: R


@dataclass(slots=True, eq=False)
class Import:
    """An undefined symbol: where it is used, what it is bound to.

    ``optional`` ones (STB_WEAK) are 0 until somebody resolves them.
    """

    name: str
    version: str | None
    optional: bool
    slots: list[Slot] = field(default_factory=list)
    symbol: Symbol | None = None
    gate: Gate | None = None
    """Where calls wait; made when a domain that runs loses the symbol for the first time."""
    held: set[Symbol] = field(default_factory=set)
    """All that it was ever bound to: the program may have copied such an address."""

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"

    @property
    def is_thread(self) -> bool:
        """Whether it is used as a thread-local variable."""
        return any(slot.type in THREAD_TYPES for slot in self.slots)

    def hold(self, symbol: Symbol) -> None:
        """Bind it, and keep what it was bound to for as long as that can be used."""
        self.symbol = symbol
        closed = {s for s in self.held if s.owner is not None and s.owner.state == "closed"}
        self.held = self.held - closed | {symbol}
