"""Where imports lead: the link's own answers, as edges between classes of summaries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from spidl.api import (
    I64,
    SHN,
    STT,
    U64,
    Bindings,
    Dso,
    Link,
    LookupClass,
    Summary,
    name_hash,
)
from spidl.modules.seccomp.combine import Bool, Edges, Member
from spidl.modules.seccomp.names import rows_among

_VERSION_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NONE = np.zeros(0, np.int64)


def members_of(link: Link, summaries: Sequence[Summary]) -> list[Member]:
    """The link's objects as members, in its order; no phase before relocate has their bindings."""
    functions = _Functions(link, summaries)
    rows: dict[int, list[Bindings]] = {}
    for bindings in link.bindings:
        rows.setdefault(bindings.requests.dso.number, []).append(bindings)
    members = []
    for dso, summary in zip(link.objects, summaries, strict=True):
        edges = _edges(dso, summary, rows.get(dso.number, []), functions)
        members.append(Member(dso.name, dso.path, dso.file, summary, edges))
        if dso.is_root:
            functions.through_plt(dso, rows.get(dso.number, []))
    return members


class _Functions:
    """Run-time addresses to (member, class)."""

    def __init__(self, link: Link, summaries: Sequence[Summary]) -> None:
        parts = [s.by_address for s in summaries]
        bias = [np.uint64(dso.bias) for dso in link.objects]
        addresses = [p.vaddrs + b for p, b in zip(parts, bias, strict=True)]
        numbers = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        flat = np.concatenate([*addresses, np.zeros(0, np.uint64)])
        order = np.argsort(flat, kind="stable")
        self.addresses: U64 = flat[order]
        self.members: I64 = numbers[order].astype(np.int64)
        classes = np.concatenate([*(p.classes for p in parts), np.zeros(0, np.uint32)])
        self.classes: I64 = classes[order].astype(np.int64)
        self.wrappers = [np.uint64(at) for at in _wrapper_addresses(link, summaries)]
        self._plt: dict[int, int] = {}
        """Address of a PLT entry of the program's that stands for a function, to the function."""

    def at(self, addresses: U64) -> tuple[I64, Bool]:
        """(row, whether there is one) for each address."""
        if not len(self.addresses):
            return np.zeros(len(addresses), np.int64), np.zeros(len(addresses), np.bool_)
        rows = np.searchsorted(self.addresses, addresses)
        rows = np.minimum(rows, len(self.addresses) - 1)
        return rows, self.addresses[rows] == addresses

    def through_plt(self, root: Dso, rows: Sequence[Bindings]) -> None:
        """Remember what the program's own undefined symbols with an address lead to."""
        symbols = root.file.symbols
        canonical = (symbols["st_shndx"] == SHN.UNDEF) & (symbols["st_value"] != 0)
        if not canonical.any():
            return
        for b in rows:
            own = canonical[b.requests.symbol] & b.defined & (b.provider >= 0)
            for row in np.flatnonzero(own & (b.requests.lookup == LookupClass.PLT)).tolist():
                at = root.symbol_address(int(b.requests.symbol[row]))
                self._plt[at] = int(b.value[row])

    def real(self, addresses: U64) -> U64:
        """The same, PLT entries of the program's replaced by what they lead to."""
        if not self._plt:
            return addresses
        entries = np.array(sorted(self._plt), np.uint64)
        found = np.flatnonzero(np.isin(addresses, entries))
        addresses = addresses.copy()
        for row in found.tolist():
            addresses[row] = self._plt[int(addresses[row])]
        return addresses


def _wrapper_addresses(link: Link, summaries: Sequence[Summary]) -> list[int]:
    found = []
    for dso, summary in zip(link.objects, summaries, strict=True):
        for name, _ in summary.wrappers:
            same = dso.file.name_hashes == np.uint64(name_hash(name.encode()))
            defined = dso.file.symbols["st_shndx"] != SHN.UNDEF
            found += [dso.symbol_address(i) for i in np.flatnonzero(same & defined).tolist()]
    return found


@dataclass(slots=True)
class _Imports:
    """A summary's imports by the hash of name and version, ascending."""

    hashes: U64
    order: I64

    @classmethod
    def of(cls, summary: Summary) -> _Imports:
        hashes = _joined(summary.imported.names, summary.imported.versions)
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], order)

    def find(self, hashes: U64) -> tuple[I64, Bool]:
        """(import, whether there is one) for each hash."""
        rows = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return self.order[rows], self.hashes[rows] == hashes


def _joined(names: U64, versions: U64) -> U64:
    joined: U64 = names + versions * _VERSION_FACTOR
    return joined


def _edges(dso: Dso, summary: Summary, parts: Iterable[Bindings], functions: _Functions) -> Edges:
    """How an object's imports are bound."""
    if not summary.imports:
        return Edges(_NONE, _NONE, _NONE)
    imports = _Imports.of(summary)
    columns: list[tuple[I64, I64, I64]] = []
    strays: set[int] = set()
    wrapped: set[int] = set()
    bound = np.zeros(len(summary.imports), np.bool_)
    for b in parts:
        asked, is_import = imports.find(_joined(b.requests.hash, b.requests.version))
        rows = is_import & (b.value != 0) & (b.type != STT.TLS)
        bound[asked[is_import]] = True
        asked, values = asked[rows], functions.real(b.value[rows])
        at, known = functions.at(values)
        columns.append((asked[known], functions.members[at[known]], functions.classes[at[known]]))
        # Without a function's class: data of an object brings nothing; else it is code of nobody.
        answered = (b.provider < 0) | (b.owner >= 0) | (b.type == STT.FUNC) | ~b.defined
        strays |= set(asked[~known & answered[rows]].tolist())
        for wrapper in functions.wrappers:
            wrapped |= set(asked[values == wrapper].tolist())
    # Nobody asked the link, such as where the object relocates itself.
    own, classes = _own(summary, np.flatnonzero(~bound))
    columns.append((own, np.full(len(own), dso.number), classes))
    joined = [np.concatenate([_NONE, *(c[at] for c in columns)]) for at in range(3)]
    return Edges(joined[0], joined[1], joined[2], frozenset(strays), frozenset(wrapped))


def _own(summary: Summary, imports: I64) -> tuple[I64, I64]:
    """Those of the imports that the object exports itself, and their classes."""
    ours, exported = summary.imported, summary.exported
    if not len(imports) or not len(exported):
        return _NONE, _NONE
    asked = _joined(ours.names[imports], ours.versions[imports])
    order = np.argsort(asked, kind="stable")
    asked, imports = asked[order], imports[order]
    there = _joined(exported.symbols.names, exported.symbols.versions)
    rows = rows_among(there, asked)
    found = imports[np.searchsorted(asked, there[rows])]
    order = np.argsort(found, kind="stable")
    return found[order], exported.classes[rows[order]].astype(np.int64)
