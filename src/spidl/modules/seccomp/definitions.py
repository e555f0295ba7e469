"""Definitions by name: where a name leads that no link has bound yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spidl.api import I64, SHN, STB, U64, ElfFile, Summary, name_hash, name_hashes
from spidl.modules.seccomp.combine import Bool, Edges, Member

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Definitions:
    """Functions that some members export, by the hash of their name, ascending.

    ``version`` is `name_hash` of the version's name, 0 for none.
    """

    hash: U64
    version: U64
    member: I64
    number: I64
    """The class."""
    symbol: I64
    """The index in the file's symbol table."""
    is_wrapper: Bool
    """Whether the function makes the system call that it is told."""

    @classmethod
    def of(cls, members: Iterable[Member], first: int) -> Definitions:
        """Those of members that are numbered from ``first``."""
        parts = [_part(member, number) for number, member in enumerate(members, first)]
        columns = [np.concatenate([*column]) for column in zip(*parts, strict=True)]
        if not columns:
            columns = [_NONE.astype(kind) for kind in "QQqqq?"]
        order = np.argsort(columns[0], kind="stable")
        return cls(*(column[order] for column in columns))

    def among(self, hashes: U64) -> I64:
        """Rows whose name is among these, which are ascending."""
        if not len(hashes):
            return _NONE
        at = np.minimum(np.searchsorted(hashes, self.hash), len(hashes) - 1)
        return np.flatnonzero(hashes[at] == self.hash)


def _part(member: Member, number: int) -> tuple[npt.NDArray[np.generic], ...]:
    """The columns of one member."""
    file, by_address = member.file, member.summary.by_address
    symbols = file.symbols
    mine = np.flatnonzero(
        (symbols["st_shndx"] != SHN.UNDEF) & (symbols["st_info"] >> 4 != STB.LOCAL)
    )
    if not len(by_address) or not len(mine):
        return tuple(_NONE.astype(kind) for kind in "QQqqq?")
    values = symbols["st_value"][mine].astype(np.uint64)
    at = np.minimum(np.searchsorted(by_address.vaddrs, values), len(by_address) - 1)
    known = by_address.vaddrs[at] == values
    mine, at = mine[known].astype(np.int64), at[known]
    is_wrapper = np.zeros(len(mine), np.bool_)
    if member.summary.wrappers:
        names = {name for name, _ in member.summary.wrappers}
        is_wrapper[:] = [file.symbol_name(symbol) in names for symbol in mine.tolist()]
    return (
        file.name_hashes[mine], _versions(file, mine), np.full(len(mine), number, np.int64),
        by_address.classes[at].astype(np.int64), mine, is_wrapper,
    )  # fmt: skip


def _versions(file: ElfFile, symbols: I64) -> U64:
    """`name_hash` of the symbols' versions, 0 for none or the base version."""
    if file.versym is None:
        return np.zeros(len(symbols), np.uint64)
    index = file.versym[symbols] & 0x7FFF
    table = np.zeros(int(index.max(initial=0)) + 1, np.uint64)
    for number, version in file.versions.items():
        if 1 < number < len(table):
            table[number] = name_hash(version.name.encode(errors="surrogateescape"))
    found: U64 = table[index]
    return found


def hashes_of(names: Sequence[str]) -> U64:
    """`name_hash` of each name."""
    text = ("\0".join(names) + "\0" if names else "").encode(errors="surrogateescape")
    strings = np.frombuffer(text, np.uint8)
    nuls = np.flatnonzero(strings == 0)
    return name_hashes(strings, np.concatenate([[0], nuls[:-1] + 1])[: len(nuls)], nuls)


def import_hashes(summaries: Sequence[Summary]) -> list[tuple[U64, U64]]:
    """Hashes of (names, versions) of the imports of each summary."""
    keys = [key for summary in summaries for key in summary.imports]
    of_names, of_versions = zip(*keys, strict=True) if keys else ((), ())
    names = hashes_of(of_names)
    known = {
        version: name_hash(version.encode(errors="surrogateescape")) if version else 0
        for version in set(of_versions)
    }
    versions = np.array(list(map(known.__getitem__, of_versions)), np.uint64)
    cuts = np.cumsum([len(summary.imports) for summary in summaries])[:-1]
    return list(zip(np.split(names, cuts), np.split(versions, cuts), strict=True))


def bind_by_name(asking: Sequence[Member], tables: Sequence[Definitions]) -> None:
    """Edges to every definition of an import's name that the version does not exclude: which one
    counts is known only when the library is opened."""
    of_imports = import_hashes([member.summary for member in asking])
    for member, (names, versions) in zip(asking, of_imports, strict=True):
        columns: list[tuple[I64, I64, I64]] = []
        wrapped: set[int] = set()
        for table in tables:
            low = np.searchsorted(table.hash, names, side="left")
            counts = np.searchsorted(table.hash, names, side="right") - low
            imports = np.repeat(np.arange(len(names)), counts)
            rows = np.arange(len(imports)) + np.repeat(low - np.cumsum(counts) + counts, counts)
            asked, own = versions[imports], table.version[rows]
            fits = (asked == 0) | (own == 0) | (asked == own)
            imports, rows = imports[fits], rows[fits]
            columns.append((imports, table.member[rows], table.number[rows]))
            wrapped |= set(imports[table.is_wrapper[rows]].tolist())
        joined = [np.concatenate([_NONE, *(c[at] for c in columns)]) for at in range(3)]
        member.edges = Edges(joined[0], joined[1], joined[2], wrapped=frozenset(wrapped))
        member.names = names
