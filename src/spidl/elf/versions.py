"""Symbol versions: DT_VERDEF and DT_VERNEED (gABI extension "Symbol Versioning", LSB 10.7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spidl.elf.constants import VER_FLG_BASE, VERSYM_HIDDEN, VERSYM_VERSION
from spidl.elf.reader import Reader
from spidl.elf.tables import VERDAUX, VERDEF, VERNAUX, VERNEED

_MOST = VERSYM_VERSION + 1
"""More versions than .gnu.version can name do not exist: the bound on hostile chains."""


@dataclass(frozen=True, slots=True)
class VersionDef:
    """A version that the object defines; ``parents`` are the versions it succeeds."""

    index: int
    flags: int
    hash: int
    name: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VersionNeed:
    """A version that the object needs of ``file`` (a soname)."""

    file: str
    index: int
    hidden: bool
    flags: int
    hash: int
    name: str


@dataclass(frozen=True, slots=True)
class Version:
    """What an index of .gnu.version means: glibc's struct r_found_version.

    ``file`` is the soname of the object that shall define it, None for the object's own.
    """

    name: str
    file: str | None
    hash: int
    hidden: bool
    defined: bool


def read_verdefs(
    reader: Reader, string: Callable[[int], str], vaddr: int, count: int
) -> tuple[VersionDef, ...]:
    """The ``count`` version definitions at a virtual address; ``string`` reads .dynstr."""
    found: list[VersionDef] = []
    table, entries = "DT_VERDEF", 0
    while len(found) < count:
        version, flags, index, aux_count, hash_, aux, step = reader.array(vaddr, VERDEF, 1, table)[
            0
        ].tolist()
        _check_revision(reader, version, table, len(found))
        names: list[str] = []
        at = vaddr + aux
        for _ in range(aux_count):
            entries = _count(reader, entries, table)
            name, next_ = reader.array(at, VERDAUX, 1, table)[0].tolist()
            names.append(string(name))
            if not next_:
                break
            at += next_
        if not names:
            raise reader.error(
                "bad-version", "a version without a name", table=table, index=len(found)
            )
        index &= VERSYM_VERSION
        found.append(VersionDef(index, flags, hash_, names[0], tuple(names[1:])))
        if not step:
            break
        vaddr += step
    return tuple(found)


def read_verneeds(
    reader: Reader, string: Callable[[int], str], vaddr: int, count: int
) -> tuple[VersionNeed, ...]:
    """The versions that the ``count`` entries at a virtual address need of other files."""
    found: list[VersionNeed] = []
    table, entries = "DT_VERNEED", 0
    for index in range(count):
        entries = _count(reader, entries, table)
        version, aux_count, file, aux, step = reader.array(vaddr, VERNEED, 1, table)[0].tolist()
        _check_revision(reader, version, table, index)
        file_name = string(file)
        at = vaddr + aux
        for _ in range(aux_count):
            entries = _count(reader, entries, table)
            hash_, flags, other, name, next_ = reader.array(at, VERNAUX, 1, table)[0].tolist()
            found.append(
                VersionNeed(
                    file_name,
                    other & VERSYM_VERSION,
                    bool(other & VERSYM_HIDDEN),
                    flags,
                    hash_,
                    string(name),
                )
            )
            if not next_:
                break
            at += next_
        if not step:
            break
        vaddr += step
    return tuple(found)


def index_versions(
    verdefs: tuple[VersionDef, ...], verneeds: tuple[VersionNeed, ...]
) -> dict[int, Version]:
    """Version index to version, as glibc fills l_versions (_dl_check_map_versions, dl-version.c).

    Indices 0 and 1 (local, global) and the base definition, which names the file, are absent.
    """
    versions = {
        need.index: Version(need.name, need.file, need.hash, need.hidden, False)
        for need in verneeds
        if need.index > 1
    }
    for definition in verdefs:
        if definition.index > 1 and not definition.flags & VER_FLG_BASE:
            versions[definition.index] = Version(
                definition.name, None, definition.hash, False, True
            )
    return versions


def _check_revision(reader: Reader, revision: int, table: str, index: int) -> None:
    if revision != 1:
        raise reader.error(
            "bad-version",
            f"unknown revision {revision}",
            table=table,
            index=index,
        )


def _count(reader: Reader, entries: int, table: str) -> int:
    if entries >= 2 * _MOST:
        raise reader.error("bad-version", "more versions than can exist", table=table)
    return entries + 1
