"""Definitions by name: where a name leads that no link has bound yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spidl.api import I64, U64, name_hash
from spidl.modules.seccomp.combine import Bool, Edges, Member
from spidl.modules.seccomp.names import rows_among

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Definitions:
    """Symbols that some members export: columns, in the order of the members.

    ``hash`` and ``version`` are `name_hash` of the name and of the version's name, 0 for none.
    """

    hash: U64
    version: U64
    member: I64
    number: I64
    """The class."""
    is_wrapper: Bool
    """Whether the function makes the system call that it is told."""

    @classmethod
    def of(cls, members: Sequence[Member], first: int) -> Definitions:
        """Those of members that are numbered from ``first``."""
        exports = [member.summary.exported for member in members]
        sizes = [len(part) for part in exports]
        nothing = np.zeros(0, np.uint64)
        names = np.concatenate([nothing, *(part.symbols.names for part in exports)])
        is_wrapper = np.zeros(len(names), np.bool_)
        behind = np.cumsum(sizes)
        for member, size, end in zip(members, sizes, behind, strict=True):
            if wrappers := {name for name, _ in member.summary.wrappers}:
                known = np.array(sorted(map(_hash, wrappers)), np.uint64)
                is_wrapper[end - size + rows_among(names[end - size : end], known)] = True
        return cls(
            names,
            np.concatenate([nothing, *(part.symbols.versions for part in exports)]),
            np.repeat(np.arange(first, first + len(sizes)), sizes),
            np.concatenate([_NONE, *(part.classes for part in exports)]),
            is_wrapper,
        )

    def rows(self, rows: I64 | Bool) -> Definitions:
        """Some of them."""
        return Definitions(self.hash[rows], self.version[rows], self.member[rows],
                           self.number[rows], self.is_wrapper[rows])  # fmt: skip

    def sorted_by_hash(self) -> Definitions:
        """The same, by the hash of their name, ascending."""
        return self.rows(np.argsort(self.hash, kind="stable"))


def _hash(name: str) -> int:
    return name_hash(name.encode(errors="surrogateescape"))


def bind_by_name(asking: Sequence[Member], tables: Sequence[Definitions]) -> None:
    """Edges to every definition of an import's name that the version does not exclude: which one
    counts is known only when the library is opened."""
    imported = [member.summary.imported for member in asking]
    names = np.concatenate([np.zeros(0, np.uint64), *(keys.names for keys in imported)])
    versions = np.concatenate([np.zeros(0, np.uint64), *(keys.versions for keys in imported)])
    asked = np.sort(names)
    columns: list[tuple[I64, I64, I64, Bool]] = []
    for whole in tables:
        table = whole.rows(rows_among(whole.hash, asked)).sorted_by_hash()
        low = np.searchsorted(table.hash, names, side="left")
        counts = np.searchsorted(table.hash, names, side="right") - low
        imports = np.repeat(np.arange(len(names)), counts)
        rows = np.arange(len(imports)) + np.repeat(low - np.cumsum(counts) + counts, counts)
        wanted, own = versions[imports], table.version[rows]
        fits = (wanted == 0) | (own == 0) | (wanted == own)
        imports, rows = imports[fits], rows[fits]
        columns.append((imports, table.member[rows], table.number[rows], table.is_wrapper[rows]))
    imports, members, classes = (np.concatenate([_NONE, *(c[at] for c in columns)])
                                 for at in range(3))  # fmt: skip
    is_wrapper = np.concatenate([np.zeros(0, np.bool_), *(c[3] for c in columns)])
    order = np.argsort(imports, kind="stable")
    imports, members, classes = imports[order], members[order], classes[order]
    is_wrapper = is_wrapper[order]
    behind = np.cumsum([len(keys) for keys in imported])
    cuts = np.searchsorted(imports, [0, *behind.tolist()]).tolist()
    for at, member in enumerate(asking):
        here = slice(cuts[at], cuts[at + 1])
        own_imports = imports[here] - (int(behind[at]) - len(imported[at]))
        wrapped = frozenset(own_imports[is_wrapper[here]].tolist())
        member.edges = Edges(own_imports, members[here], classes[here], wrapped=wrapped)
