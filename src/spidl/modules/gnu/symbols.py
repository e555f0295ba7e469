"""Symbol versions: what an object exports and asks for under which version.

The rules are those of glibc's elf/dl-version.c and check_match in elf/dl-lookup.c.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.api import (
    I64,
    U64,
    VERSYM_HIDDEN,
    VERSYM_VERSION,
    Dso,
    ElfFile,
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
    columns = dso.file.derived(versions)
    table.version = columns["version"][table.symbol]
    table.hidden = columns["hidden"][table.symbol]
    # Without a version: index < 3, else the one definition of the name that is not hidden.
    old = columns["old"][table.symbol]
    newer = np.flatnonzero(~old & ~table.hidden)
    newer = newer[~np.isin(table.hash[newer], table.hash[old])]
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


def versions(file: ElfFile) -> dict[str, npt.NDArray[Any]]:
    """What .gnu.version says of each symbol, with name hashes instead of indices.

    ``version`` is 0 for the base version and for none; ``hidden`` is that of a definition, and
    ``asked_hidden`` that of a reference; ``old`` is index < 3.
    """
    versym = file.versym
    if versym is None:
        return {}
    index = versym & VERSYM_VERSION
    size = int(index.max(initial=0)) + 1
    hashes, hidden = np.zeros(size, np.uint64), np.zeros(size, np.bool_)
    for number, version in file.versions.items():
        if number < size:
            hashes[number], hidden[number] = _version_hash(version.name), version.hidden
    return {
        "version": hashes[index],
        "hidden": (versym & VERSYM_HIDDEN) != 0,
        "asked_hidden": hidden[index],
        "old": index < 3,
    }


@cache
def _version_hash(name: str) -> int:
    # Every object has much the same few names.
    return name_hash(name.encode(errors="surrogateescape"))


class GnuVersioning(Versioning):
    """References carry the version that .gnu.version gives them."""

    def columns(self, dso: Dso, symbols: I64) -> tuple[U64, npt.NDArray[np.bool_]]:
        if dso.file.versym is None or not len(symbols):
            return super().columns(dso, symbols)
        columns = dso.file.derived(versions)
        return columns["version"][symbols], columns["asked_hidden"][symbols]


def check_versions(link: Link) -> None:
    """Every needed version is defined by the object that is to have it.

    glibc's _dl_check_map_versions.  Raises `LinkError` ``collect/no-version``; `Refusal`
    ``collect/unversioned`` where ld.so would print a warning at each start.
    """
    known: dict[int, set[str]] = {}
    for dso in link.objects:
        for need in dso.file.verneeds:
            provider = link.known(need.file, dso)
            if provider is None:
                continue
            if provider.number not in known:
                known[provider.number] = {version.name for version in provider.file.verdefs}
            defined = known[provider.number]
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
