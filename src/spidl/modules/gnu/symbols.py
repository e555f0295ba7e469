"""Symbol versions: what an object exports and asks for under which version.

The rules are those of glibc's elf/dl-version.c and check_match in elf/dl-lookup.c.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from spidl.api import (
    I64,
    U64,
    VERSYM_HIDDEN,
    VERSYM_VERSION,
    Dso,
    Exports,
    Link,
    LinkError,
    Place,
    Refusal,
    Versioning,
    name_hash,
)

VER_FLG_WEAK = 2


def add_versions(dso: Dso, table: Exports) -> Exports:
    """A symbol table with its version columns filled in."""
    versym = dso.file.versym
    if versym is None:
        return table
    raw = versym[table.symbol]
    index = raw & VERSYM_VERSION
    table.version = _hashes(dso)[index]
    table.hidden = (raw & VERSYM_HIDDEN) != 0
    # Without a version: index < 3, or the one definition of the name that is not hidden.
    old = index < 3
    newer = np.flatnonzero(~old & ~table.hidden)
    order = newer[np.argsort(table.hash[newer], kind="stable")]
    ordered = table.hash[order]
    single = np.ones(len(order), np.bool_)
    if len(order) > 1:
        same = ordered[1:] == ordered[:-1]
        single[1:] &= ~same
        single[:-1] &= ~same
    table.default = old
    table.default[order[single]] = True
    table.has_versions = True
    return table


def _hashes(dso: Dso) -> U64:
    """Name hash by version index, 0 for the base version and for unused indices."""
    hashes = np.zeros(VERSYM_VERSION + 1, np.uint64)
    for index, version in dso.file.versions.items():
        hashes[index] = _version_hash(version.name)
    return hashes


@cache
def _version_hash(name: str) -> int:
    # Every object has much the same few names.
    return name_hash(name.encode(errors="surrogateescape"))


class GnuVersioning(Versioning):
    """References carry the version that .gnu.version gives them."""

    def columns(self, dso: Dso, symbols: I64) -> tuple[U64, npt.NDArray[np.bool_]]:
        versym = dso.file.versym
        if versym is None or not len(symbols):
            return super().columns(dso, symbols)
        index = versym[symbols] & VERSYM_VERSION
        hidden = np.zeros(VERSYM_VERSION + 1, np.bool_)
        for number, version in dso.file.versions.items():
            hidden[number] = version.hidden
        return _hashes(dso)[index], hidden[index]


def check_versions(link: Link) -> None:
    """Every needed version is defined by the object that is to have it.

    glibc's _dl_check_map_versions.  Raises `LinkError` ``collect/no-version``; `Refusal`
    ``collect/unversioned`` where ld.so would print a warning at each start.
    """
    for dso in link.objects:
        for need in dso.file.verneeds:
            provider = link.known(need.file)
            if provider is None:
                continue
            defined = {definition.name for definition in provider.file.verdefs}
            if need.name in defined or need.flags & VER_FLG_WEAK:
                continue
            place = Place(dso.path, "DT_VERNEED")
            if not defined:
                raise Refusal(
                    "collect/unversioned",
                    f"{provider.name} has no versions, {dso.name} wants {need.name} of it",
                    place=place,
                    help="ld.so warns of this at each start: install the library's own build",
                )
            raise LinkError(
                "collect/no-version",
                f"{provider.path} does not define the version {need.name}",
                place=place,
                notes=(f"it defines: {', '.join(sorted(defined))}",),
                help=f"{dso.name} was built for a newer {provider.name}: update it",
            )
