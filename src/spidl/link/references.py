"""What objects ask for by their relocations, and what the scope alone would give them.

For modules that choose bindings by pattern before they are made: from post-collect on, without
resolvers and without addresses.  The rule of acceptance is the mediator's, one reference at a time.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from typing import TYPE_CHECKING

import numpy as np

from spidl.elf.constants import PF, SHN, STB, STT, STV, R
from spidl.elf.hashes import name_hash
from spidl.link.recipes import VERSIONING, Versioning
from spidl.link.symbols import I64, version_of

if TYPE_CHECKING:
    from spidl.link.dso import Dso
    from spidl.link.link import Link
    from spidl.link.namespace import Namespace

_STAYS = (STV.INTERNAL, STV.HIDDEN)


@dataclass(frozen=True, slots=True)
class Reference:
    """One symbol that an object asks for, and the definition that its scope has for it."""

    dso: Dso
    symbol: int
    """Index into the asking object's symbol table."""
    name: str
    provider: Dso
    definition: int
    """Index into the provider's symbol table."""

    @property
    def type(self) -> int:
        """STT_* of the definition."""
        return int(self.provider.file.symbols["st_info"][self.definition]) & 15

    @property
    def is_function(self) -> bool:
        """Whether it is code; functions written in assembly may have no type."""
        if self.type != STT.NOTYPE:
            return self.type in (STT.FUNC, STT.GNU_IFUNC)
        value = int(self.provider.file.symbols["st_value"][self.definition])
        return any(
            load.flags & PF.X and load.vaddr <= value < load.vaddr + load.memsz
            for load in self.provider.file.loads
        )

    @property
    def is_indirect(self) -> bool:
        """Whether the definition is an IFUNC."""
        return self.type == STT.GNU_IFUNC

    @property
    def version(self) -> str | None:
        """The definition's version; None for the base version or none at all."""
        return version_of(self.provider, self.definition)

    @property
    def address(self) -> int:
        """Of the definition; of an IFUNC, its resolver's.  `LinkError` ``link/too-early``."""
        return self.provider.symbol_address(self.definition)

    @property
    def pointers(self) -> I64:
        """Rows of DT_RELA for words in data: function pointers, which are no GOT slots."""
        rela = self.dso.file.rela
        return np.flatnonzero((rela["r_sym"] == self.symbol) & (rela["r_type"] == R.R64))


def restore(reference: Reference, link: Link, rows: I64) -> None:
    """Write the definition's address where ``rows`` of DT_RELA say, whatever a resolver answered.

    The writing module owns these words.  The definition must not be indirect.
    """
    dso = reference.dso
    entries = dso.file.rela[rows]
    if len(entries):
        addends = np.where(entries["r_type"] == R.R64, entries["r_addend"], 0).astype(np.int64)
        link.space.write(
            entries["r_offset"].astype(np.uint64) + np.uint64(dso.bias),
            addends.view(np.uint64) + np.uint64(reference.address),
            link.by, table="DT_RELA", source=rows, owner=np.zeros(len(rows), np.int64),
            owners=[link.by.module],
        )  # fmt: skip


def is_called(dso: Dso, patterns: Sequence[str]) -> bool:
    """Whether a pattern (`fnmatch`) fits a name of an object: soname, requested names, path."""
    return any(fnmatchcase(name, p) for p in patterns for name in (dso.name, *dso.names))


class References:
    """The references of a link's objects; ``without`` are left out of all scopes."""

    def __init__(self, link: Link, without: Container[Dso] = ()) -> None:
        self._link = link
        self._without = without
        self._scopes: dict[int, _Scope] = {}

    def of(self, dso: Dso, patterns: Sequence[str] = ("*",)) -> Iterator[Reference]:
        """What an object asks for under names that fit a pattern (`fnmatch`), without versions.

        What cannot leave the object (local and hidden symbols) and what nobody defines is left out.
        """
        symbols = _asked(dso, patterns)
        version, hidden = self._link.facts.get(VERSIONING, Versioning()).columns(dso, symbols)
        for row, symbol in enumerate(symbols.tolist()):
            key = int(dso.file.name_hashes[symbol]), int(version[row]), bool(hidden[row])
            found = self._find(dso, symbol, key)
            if found is not None:
                yield Reference(dso, symbol, dso.file.symbol_name(symbol), *found)

    def same_in(self, namespace: Namespace, reference: Reference) -> bool:
        """Whether a namespace has the same definition under the reference's name and version."""
        symbols = np.array([reference.definition], np.int64)
        versioning = self._link.facts.get(VERSIONING, Versioning())
        version, _ = versioning.columns(reference.provider, symbols)
        key = name_hash(reference.name.encode(errors="surrogateescape")), int(version[0]), False
        return self._scope(namespace).find(key) == (reference.provider, reference.definition)

    def _find(self, dso: Dso, symbol: int, key: _Key) -> tuple[Dso, int] | None:
        row = dso.file.symbols[symbol]
        protected = int(row["st_other"]) & 3 == STV.PROTECTED
        if int(row["st_shndx"]) != SHN.UNDEF and (protected or dso.file.symbolic):
            return dso, symbol
        found = self._scope(dso.namespace).find(key)
        if found is not None and found[0].namespace is not dso.namespace:
            found = self._scope(found[0].namespace).find(key) or found
        return found

    def _scope(self, namespace: Namespace) -> _Scope:
        if id(namespace) not in self._scopes:
            self._scopes[id(namespace)] = _Scope(self._link, namespace, self._without)
        return self._scopes[id(namespace)]


_Key = tuple[int, int, bool]
"""Hash of the name, hash of the version's name or 0, whether the reference's version is hidden."""


class _Scope:
    """The symbol tables of a namespace's members, joined in scope order."""

    def __init__(self, link: Link, namespace: Namespace, without: Container[Dso]) -> None:
        pairs = [
            (member, table)
            for member in namespace.members
            if member not in without and (table := link.exports(member)) is not None
        ]
        self._namespace = namespace
        self._members = [member for member, _ in pairs]
        self._tables = [table for _, table in pairs]
        sizes = [len(table.hash) for table in self._tables]
        hashes = [table.hash for table in self._tables] or [np.zeros(0, np.uint64)]
        joined = np.concatenate(hashes)
        self._order = np.argsort(joined, kind="stable")
        self._sorted = joined[self._order]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._found: dict[_Key, tuple[Dso, int] | None] = {}

    def find(self, key: _Key) -> tuple[Dso, int] | None:
        """The first acceptable definition, entries of canonical PLTs left out (as for a PLT)."""
        if key not in self._found:
            self._found[key] = self._search(key)
        return self._found[key]

    def _search(self, key: _Key) -> tuple[Dso, int] | None:
        wanted, version, asked_hidden = key
        at, end = (int(np.searchsorted(self._sorted, np.uint64(wanted), side))
                   for side in ("left", "right"))  # fmt: skip
        for entry in self._order[at:end].tolist():
            number = int(np.searchsorted(self._first, entry, "right")) - 1
            table, row = self._tables[number], entry - int(self._first[number])
            if not table.for_plt[row]:
                continue
            own, is_hidden = int(table.version[row]), bool(table.hidden[row])
            if not version:
                fits = bool(table.default[row])
            else:
                fits = own == version or not (asked_hidden or own or is_hidden)
            if (fits or not table.has_versions) and self._sees(number, int(table.symbol[row])):
                return self._members[number], int(table.symbol[row])
        return None

    def _sees(self, number: int, symbol: int) -> bool:
        """Whether the namespace sees a name of a guest."""
        member = self._members[number]
        patterns = self._namespace.seen.get(member.number)
        if patterns is None:
            return True
        return any(fnmatchcase(member.file.symbol_name(symbol), p) for p in patterns)


def _asked(dso: Dso, patterns: Sequence[str]) -> I64:
    """The symbols that an object's relocations name, of those that fit."""
    tables = (dso.file.rela, dso.file.jmprel)
    symbols = np.unique(np.concatenate([table["r_sym"] for table in tables]))
    symbols = symbols[symbols > 0].astype(np.int64)
    rows = dso.file.symbols[symbols]
    leaves = rows["st_info"] >> 4 != STB.LOCAL
    leaves &= ~np.isin(rows["st_other"] & 3, _STAYS)
    symbols = symbols[leaves]
    if not any(set("*?[") & set(pattern) for pattern in patterns):
        wanted = [name_hash(pattern.encode(errors="surrogateescape")) for pattern in patterns]
        symbols = symbols[np.isin(dso.file.name_hashes[symbols], np.array(wanted, np.uint64))]
    fits = re.compile("|".join(map(translate, patterns)) or r"(?!)").match
    kept = [symbol for symbol in symbols.tolist() if fits(dso.file.symbol_name(symbol))]
    return np.array(kept, np.int64)
