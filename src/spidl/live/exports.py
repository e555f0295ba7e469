"""Symbol tables cut down to what a load asks for.

libc, libpython and the program have thousands of symbols and a library asks for dozens; libLLVM has
45,000 and refers to 9,000.  Joining whole tables into the scope of each load would cost more than
the rest of its linking.  What is derived from a file is kept (see `ElfFile.derived`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.elf import SHN, ElfFile, name_hash
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.symbols import I64, U64, Exports
from spidl.modules.sysv.symbols import bindable

Exporter = Callable[[Dso, Link], Exports]
_COLUMNS = ("symbol", "hash", "version", "hidden", "default", "for_plt")


def by_name(file: ElfFile) -> Mapping[str, npt.NDArray[Any]]:
    """The rows of what a file exports by name hash, and the hashes."""
    hashes = file.derived(bindable)["hash"]
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    return {"order": order, "hash": hashes[order]}


def wanted(file: ElfFile) -> Mapping[str, npt.NDArray[Any]]:
    """Name hashes, ascending, of undefined symbols and of all that relocations refer to."""
    hashes = file.name_hashes
    undefined = file.symbols["st_shndx"] == SHN.UNDEF
    used = undefined.copy()
    for table in (file.rela, file.jmprel):
        used[table["r_sym"]] = True
    return {"undefined": np.sort(hashes[undefined]), "used": np.sort(hashes[used])}


def asked_for(files: Sequence[ElfFile], what: str) -> U64:
    """A column of `wanted` for several files, ascending and each hash once."""
    parts = [file.derived(wanted)[what] for file in files]
    joined: U64 = np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)
    new = np.ones(len(joined), np.bool_)
    new[1:] = joined[1:] != joined[:-1]
    return joined[new]


def cut_down(dso: Dso, link: Link, exporter: Exporter, asked: U64) -> Exports:
    """The rows of an object's symbol table whose names occur in ``asked``, in their order."""
    table = _whole(dso, link, exporter)
    known = dso.file.derived(by_name)
    order, hashes = known["order"], known["hash"]
    if len(order) != len(table.hash):
        return table  # another module's table, not the file's own
    rows = order[_matches(hashes, asked)]
    rows.sort()
    return replace(table, **{name: getattr(table, name)[rows] for name in _COLUMNS})


_tables: weakref.WeakKeyDictionary[ElfFile, Exports] = weakref.WeakKeyDictionary()


def _whole(dso: Dso, link: Link, exporter: Exporter) -> Exports:
    """An object's whole table, made once as long as its file is open."""
    table = _tables.get(dso.file)
    if table is None:
        table = _tables[dso.file] = exporter(dso, link)
    return table


def without(table: Exports, names: U64) -> Exports:
    """A symbol table without the names with these hashes (ascending).

    A definition under a version stays: nobody else's is meant.
    """
    found = np.isin(table.hash, names) & (table.version == 0)
    if not found.any():
        return table
    rows = np.flatnonzero(~found)
    return replace(table, **{name: getattr(table, name)[rows] for name in _COLUMNS})


@cache
def once() -> U64:
    """Hashes (ascending) of what a process has only once."""
    return np.sort(np.array([name_hash(name.encode()) for name in _ONCE], np.uint64))


def is_once(name: str) -> bool:
    """Whether a process has a function of this name only once."""
    return name in _ONCE


def only_once(dsos: Iterable[Dso]) -> U64:
    """`once`, as far as one of these objects exports it."""
    parts = [_once_in(dso.file) for dso in dsos]
    names = once()
    return names[np.isin(names, np.concatenate(parts))] if parts else names[:0]


_there: weakref.WeakKeyDictionary[ElfFile, U64] = weakref.WeakKeyDictionary()


def _once_in(file: ElfFile) -> U64:
    """Hashes of what there is `once` that a file exports."""
    found = _there.get(file)
    if found is None:
        names = once()
        found = _there[file] = names[np.isin(names, file.derived(by_name)["hash"])]
    return found


_ONCE = (
    "malloc", "free", "calloc", "realloc", "reallocarray", "memalign", "aligned_alloc",
    "posix_memalign", "valloc", "pvalloc", "malloc_usable_size", "cfree",
    *(f"_Unwind_{name}" for name in (
        "Resume", "RaiseException", "ForcedUnwind", "Resume_or_Rethrow", "DeleteException",
        "Backtrace", "FindEnclosingFunction", "Find_FDE", "GetCFA", "GetDataRelBase", "GetGR",
        "GetIP", "GetIPInfo", "GetLanguageSpecificData", "GetRegionStart", "GetTextRelBase",
        "SetGR", "SetIP",
    )),
)  # fmt: skip
"""A block that one allocator gives must not go to another, nor an exception to another unwinder;
libc uses its own of both."""


def _matches(hashes: U64, asked: U64) -> I64:
    """Positions in ``hashes`` of what is asked for, both ascending."""
    if not len(asked) or not len(hashes):
        return np.zeros(0, np.int64)
    if len(asked) > len(hashes):
        at = np.minimum(np.searchsorted(asked, hashes), len(asked) - 1)
        return np.flatnonzero(asked[at] == hashes)
    # The rows of a name stand together; few names have more than one (their versions).
    first = np.searchsorted(hashes, asked)
    count = np.searchsorted(hashes, asked, "right") - first
    found = np.flatnonzero(count)
    first, count = first[found], count[found]
    steps = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.asarray(np.repeat(first, count) + steps, np.int64)
