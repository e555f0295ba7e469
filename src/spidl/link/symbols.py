"""What is spoken between relocate passes, the mediator and resolvers.

Symbol tables and requests are columns (numpy arrays), so that a link of 200 libraries takes a
few joins instead of 100,000 Python calls.  A resolver that a person writes is asked one request
at a time, as objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spidl.elf.constants import STT

if TYPE_CHECKING:
    from spidl.link.dso import Dso
    from spidl.link.link import Link

    Resolver = Callable[["SymbolRequest", Dso, Link], "Definition | None"]

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class LookupClass(IntEnum):
    """How a relocation type looks symbols up (glibc's elf_machine_type_class)."""

    NORMAL = 0
    PLT = 1
    """Undefined symbols with an address (canonical PLT entries) are not accepted."""
    COPY = 2
    """The program itself is not searched."""


@dataclass(frozen=True, slots=True)
class SymbolRequest:
    """One request, for resolvers: who asks for which symbol under which version."""

    dso: Dso
    symbol: int
    """Index into the asking object's symbol table."""
    name: str
    version: str | None
    weak: bool


@dataclass(frozen=True, slots=True)
class Definition:
    """A resolver's answer: an object's symbol (see `Link.definition`), or an absolute address."""

    dso: Dso | None
    name: str
    address: int
    """Run-time address in bytes; for a TLS symbol its offset in the TLS segment."""
    type: int = STT.NOTYPE
    size: int = 0
    """In bytes."""


@dataclass(slots=True)
class Exports:
    """An object's symbol table as the mediator sees it: columns of the same length.

    ``hash`` is `spidl.elf.name_hash` of the name; ``version`` likewise of the version's name, 0
    for none or the base version.  ``default`` marks what a request without a version may take
    (glibc's rule: index < 3, or the one definition of the name that is not hidden).
    ``for_plt`` is False for undefined symbols that only have an address (canonical PLT entries).
    """

    symbol: I64
    hash: U64
    version: U64
    hidden: Bool
    default: Bool
    for_plt: Bool
    has_versions: bool


def narrowed(table: Exports, dso: Dso, patterns: Sequence[str]) -> Exports:
    """A table with only the names that one of the patterns (`fnmatch`) fits."""
    names = [dso.file.symbol_name(int(symbol)) for symbol in table.symbol]
    rows = [i for i, name in enumerate(names) if any(fnmatchcase(name, p) for p in patterns)]
    return Exports(
        table.symbol[rows], table.hash[rows], table.version[rows], table.hidden[rows],
        table.default[rows], table.for_plt[rows], table.has_versions,
    )  # fmt: skip


@dataclass(slots=True)
class Requests:
    """One object's symbol requests; every column has one entry a request."""

    dso: Dso
    symbol: I64
    hash: U64
    version: U64
    version_hidden: Bool
    lookup: npt.NDArray[np.uint8]
    """`LookupClass` values."""
    weak: Bool

    def __len__(self) -> int:
        return len(self.symbol)

    def name(self, i: int) -> str:
        return self.dso.file.symbol_name(int(self.symbol[i]))

    def version_name(self, i: int) -> str | None:
        """The version asked for, if any."""
        return version_of(self.dso, int(self.symbol[i]))

    def request(self, i: int) -> SymbolRequest:
        return SymbolRequest(
            self.dso, int(self.symbol[i]), self.name(i), self.version_name(i), bool(self.weak[i])
        )


def version_of(dso: Dso, symbol: int) -> str | None:
    """The name of a symbol's version, None for the base version or none at all."""
    return dso.file.symbol_version(symbol)


@dataclass(slots=True)
class Bindings:
    """The mediator's answers to one `Requests`, in the same order.

    ``provider`` is the number of the object that answered, -1 for none; ``symbol`` the index in
    its table, -1 for an address that a resolver gave; ``value`` the run-time address (for TLS
    symbols: the offset in the TLS segment), 0 when an undefined weak symbol stays unbound.
    ``owner`` is an index into ``modules``: which module's resolver answered, -1 when the scope did.
    """

    requests: Requests
    provider: I64
    symbol: I64
    value: U64
    size: U64
    type: npt.NDArray[np.uint8]
    """STT_* of the definition."""
    defined: Bool
    """False for undefined-weak and for canonical PLT entries of the program."""
    owner: I64
    modules: list[str]
    alone: Bool
    """Rows that only a resolver answered: no object in scope defines the symbol."""

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def weak_or_answered(self) -> Bool:
        """Rows for which no provider is no error: weak references, and resolvers' addresses."""
        return self.requests.weak | (self.owner >= 0)


def unbound(requests: Requests) -> Bindings:
    """Bindings with nothing bound yet."""
    n = len(requests)
    return Bindings(
        requests,
        np.full(n, -1, np.int64),
        np.full(n, -1, np.int64),
        np.zeros(n, np.uint64),
        np.zeros(n, np.uint64),
        np.zeros(n, np.uint8),
        np.zeros(n, np.bool_),
        np.full(n, -1, np.int64),
        [],
        np.zeros(n, np.bool_),
    )
