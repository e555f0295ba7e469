"""What domains export and import."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from spidl.domains.gates import Gate

if TYPE_CHECKING:
    from spidl.domains.placed import Placed


class Kind(Enum):
    """What a symbol is: the values say which unresolved slots can wait."""

    FUNCTION = "function"
    DATA = "data"
    INDIRECT = "indirect"
    """STT_GNU_IFUNC: a function that says where the function is."""


@dataclass(frozen=True, slots=True, eq=False)
class Symbol:
    """One exported symbol; two are the same only if they are one object.

    ``address`` is a run-time address, ``size`` in bytes.  ``owner`` is the code that has it, None
    for what the process or Python provides; ``keep`` must live as long as anybody may call it.
    """

    name: str
    address: int
    kind: Kind = Kind.FUNCTION
    size: int = 0
    owner: Placed | None = None
    keep: object = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A word that holds an imported symbol's address plus ``addend``.

    ``constant`` ones (GOT, PLT) are the linker's alone; others are the program's data, which it may
    have changed since.
    """

    address: int
    addend: int
    constant: bool


@dataclass(slots=True)
class Import:
    """An undefined symbol: where it is used, what it is bound to.

    ``optional`` ones (STB_WEAK) are 0 until somebody resolves them.
    """

    name: str
    optional: bool
    slots: list[Slot] = field(default_factory=list)
    symbol: Symbol | None = None
    gate: Gate | None = None
    """Where calls wait; made when a domain that runs loses the symbol for the first time."""
    held: set[Symbol] = field(default_factory=set)
    """All that it was ever bound to: the program may have copied such an address."""
