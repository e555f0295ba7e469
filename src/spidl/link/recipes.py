"""Relocation types as data: a number, a name, a width and a formula over columns.

Modules put recipes into the fact `RECIPES`; the relocate pass looks them up there, so a module
can add a relocation type without touching the pass that walks the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spidl.link.facts import Fact
from spidl.link.symbols import I64, U64, Bindings, Bool, LookupClass

if TYPE_CHECKING:
    from spidl.link.dso import Dso
    from spidl.link.link import Link


@dataclass(slots=True)
class Batch:
    """All relocations of one type in one table, with what their symbols are bound to.

    The psABI's letters: ``P`` places, ``A`` addends, ``S`` symbol values, ``Z`` sizes, ``B`` the
    bias; unsigned 64-bit, arithmetic wraps.
    """

    link: Link
    dso: Dso
    table: str
    index: I64
    """Row in the table, for messages."""
    P: U64
    A: U64
    bindings: Bindings
    row: I64
    """Row in ``bindings`` for each relocation."""

    @property
    def B(self) -> np.uint64:
        return np.uint64(self.dso.bias)

    @property
    def S(self) -> U64:
        return self.bindings.value[self.row]

    @property
    def T(self) -> U64:
        """Offsets of TLS symbols in their segment; 0 for the segment itself (symbol 0)."""
        segment = self.bindings.requests.symbol[self.row] == 0
        return np.where(segment, np.uint64(0), self.S)

    @property
    def Z(self) -> U64:
        return self.bindings.size[self.row]

    @property
    def provider(self) -> I64:
        """Number of the defining object, -1 for none."""
        return self.bindings.provider[self.row]

    def of_provider(self, what: Callable[[Dso], int]) -> U64:
        """A column of a property of each defining object (0 where there is none)."""
        values = np.zeros(len(self.row), np.uint64)
        provider = self.provider
        for number in set(provider.tolist()) - {-1}:
            value = what(self.link.objects[number]) & (2**64 - 1)
            values[provider == number] = np.uint64(value)
        return values


@dataclass(slots=True)
class Words:
    """A recipe's result: what to write where.

    ``deferred`` marks rows whose word only the running process knows; ``function`` is then the
    resolver to call, 0 where the run-time linker itself must provide the word.
    """

    addresses: U64
    values: U64
    deferred: Bool | None = None
    function: U64 | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One relocation type.  ``width`` is in bytes; ``needs_symbol``: undefined is an error."""

    number: int
    name: str
    width: int
    apply: Callable[[Batch], list[Words]]
    lookup: LookupClass = LookupClass.NORMAL
    uses_symbol: bool = True
    calls_ifunc: bool = False
    """A symbol of type STT_GNU_IFUNC stands for what its resolver returns."""


RECIPES: Fact[dict[int, Recipe]] = Fact("recipes")


class Versioning:
    """How symbol references carry versions; the base knows none."""

    def columns(self, dso: Dso, symbols: I64) -> tuple[U64, npt.NDArray[np.bool_]]:
        """(hash of the version's name or 0, hidden) for each symbol reference."""
        n = len(symbols)
        return np.zeros(n, np.uint64), np.zeros(n, np.bool_)


LAZY: Fact[bool] = Fact("lazy")
"""Whether an undefined PLT symbol may wait until it is called (the default, as in the gABI)."""

VERSIONING: Fact[Versioning] = Fact("versioning")
