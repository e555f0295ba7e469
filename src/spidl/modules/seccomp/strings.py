"""Strings that an object has a use for: what it may ask dlopen and dlsym for.

A string counts if anything in the file refers to where it begins: code by a displacement, data by a
word that is relocated.  That may be inside of a longer one, since linkers give a string that ends
another no place of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.api import ET, I64, U64, ElfFile, Load, name_hashes

_LIBRARY = re.compile(r"[\x21-\x7e]*[^./]\.so(?:\.[0-9]+){0,3}$")
_NO_LIBRARY = re.compile(r"[%*?$]")
_EXECUTE, _WRITE = 1, 2
"""PF_X and PF_W."""
_LONGEST = 200
"""Bytes of a name."""


def strings_used(file: ElfFile) -> Mapping[str, npt.NDArray[Any]]:
    """Hashes of the strings (`name_hash`), ascending; file offsets of those that end like names of
    libraries."""
    hashes, libraries = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    references = _ascending(np.concatenate([np.zeros(0, np.int64), *_references(file)]))
    for load in _loads(file):
        data = file.data[load.offset : load.offset + load.filesz]
        starts = references[(references >= load.vaddr) & (references < load.vaddr + len(data))]
        starts = starts - load.vaddr
        nuls = np.flatnonzero(data == 0)
        if not len(nuls):
            continue
        starts = starts[starts <= nuls[-1]]
        ends = nuls[np.searchsorted(nuls, starts)]
        fine = (ends > starts) & (ends - starts <= _LONGEST)
        fine &= _printable(data[starts]) & _printable(data[np.maximum(ends - 1, 0)])
        starts, ends = starts[fine], ends[fine]
        hashes.append(name_hashes(data, starts, nuls))
        libraries.append(starts[_ends_like_library(data, ends)] + load.offset)
    return {"hash": _ascending(np.concatenate(hashes)), "library": np.concatenate(libraries)}


def libraries_named(file: ElfFile) -> list[str]:
    """Names and paths of libraries among an object's strings; one may have several, with colons."""
    found = set()
    for start in file.derived(strings_used)["library"].tolist():
        text = file.data[start : start + _LONGEST].tobytes().partition(b"\0")[0]
        for name in text.decode("ascii", errors="replace").split(":"):
            match = _LIBRARY.search(name)
            if match and not _NO_LIBRARY.search(match[0]):
                found.add(match[0])
    return sorted(found)


def _printable(byte: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    fine: npt.NDArray[np.bool_] = (byte > 32) & (byte < 127)
    return fine


def _ends_like_library(data: npt.NDArray[np.uint8], ends: I64) -> npt.NDArray[np.bool_]:
    """Whether ``.so`` is among the last bytes before these."""
    found = np.zeros(len(ends), np.bool_)
    for behind in range(10):
        at = np.maximum(ends - behind - 3, 0)
        found |= (data[at] == 0x2E) & (data[at + 1] == 0x73) & (data[at + 2] == 0x6F)
    return found


def _ascending(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Each value once, in order; np.unique would cost 15 ms the first time."""
    values = np.sort(values)
    once: npt.NDArray[Any] = values[np.append(True, values[1:] != values[:-1])[: len(values)]]
    return once


def _loads(file: ElfFile) -> list[Load]:
    """The segments where strings are: not those with code, unless it is an older linker's that
    puts strings beside it."""
    loads = [load for load in file.loads if load.filesz]
    apart = any(not load.flags & (_EXECUTE | _WRITE) and load.offset for load in loads)
    return [load for load in loads if not (apart and load.flags & _EXECUTE)]


def _references(file: ElfFile) -> Iterator[I64]:
    """Virtual addresses in segments with strings that code or data may refer to.

    Of code every word counts that could be a displacement; in programs at fixed addresses also
    every word that could be an address.
    """
    places = [(load.vaddr, load.vaddr + load.filesz) for load in _loads(file)]

    def inside(values: I64) -> Iterator[I64]:
        for low, high in places:
            yield values[(values >= low) & (values < high)]

    fixed = file.type == ET.EXEC
    for load in file.loads:
        data = file.data[load.offset : load.offset + load.filesz]
        for shift in range(4 if load.flags & _EXECUTE else 0):
            words = data[shift : shift + (len(data) - shift) // 4 * 4].view("<i4")
            behind = np.arange(len(words), dtype=np.int64) * 4 + (load.vaddr + shift + 4)
            yield from inside(words + behind)
            if fixed:
                yield from inside(words.astype(np.int64))
        if fixed:
            yield from inside(data[: len(data) // 8 * 8].view("<i8"))
    for table in (file.rela, file.jmprel):
        addends = table["r_addend"].astype(np.int64)
        yield from inside(addends)
        fine = table["r_sym"] < len(file.symbols)
        values = file.symbols["st_value"][table["r_sym"][fine]].astype(np.int64)
        yield from inside(values + addends[fine])
    yield from inside(_words(file, file.relr))


def _words(file: ElfFile, places: U64) -> I64:
    """The words of the file at virtual addresses."""
    found = [np.zeros(0, np.int64)]
    for load in file.loads:
        data = file.data[load.offset : load.offset + load.filesz]
        at = places.astype(np.int64) - load.vaddr
        at = at[(at >= 0) & (at + 8 <= len(data))]
        columns = [data[at + byte].astype(np.int64) << (8 * byte) for byte in range(8)]
        found.append(np.bitwise_or.reduce(columns, axis=0) if len(at) else found[0])
    return np.concatenate(found)
