"""What parsing one file found, as numbers, strings and arrays: to be kept, and to parse no more.

Everything in a record is a pure function of the file's bytes.  Whoever keeps one must know that the
file is the very same; `restore` itself compares the build-id.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError
from spidl.elf.constants import PF
from spidl.elf.dynamic import Dynamic
from spidl.elf.file import ElfFile
from spidl.elf.header import Header
from spidl.elf.reader import Load
from spidl.elf.segments import Tls
from spidl.elf.tables import DYN, PHDR, RELA, Bytes, Table
from spidl.elf.versions import VersionDef, VersionNeed

Arrays = Mapping[str, npt.NDArray[Any]]

_PLAIN = (
    "interp", "stack_executable", "phdr_vaddr", "dynamic_vaddr", "soname", "rpath", "runpath",
    "_symbol_count",
)  # fmt: skip
_TUPLES = ("relro", "needed", "init_array", "preinit_array")
_ARRAYS = ("name_hashes", "relr")
_DERIVED = "."
"""In an array's name, between a function that derived it and the array's own name."""


Record = tuple[Mapping[str, Any], Arrays]
"""Values that JSON has, and one-dimensional arrays of numbers or truth values."""


def describe(file: ElfFile, lasting: tuple[str, ...]) -> Record | None:
    """The record of a file; None for one with anything in it that cannot be parsed.

    Of what was derived from the file (see `ElfFile.derived`), what functions of ``lasting``
    packages made is part of it.
    """
    try:
        arrays = {name: getattr(file, name) for name in _ARRAYS}
        values = _values(file)
    except (LinkError, ValueError):
        return None
    for key, found in file.derivations.items():
        if key.startswith(lasting):
            arrays |= {f"{key}{_DERIVED}{name}": array for name, array in found.items()}
    return values, arrays


def _values(file: ElfFile) -> dict[str, Any]:
    build_id = (file.build_id or b"").hex()
    return {
        **{name: getattr(file, name) for name in (*_PLAIN, *_TUPLES)},
        "header": [file.type, file.entry, file.phoff, file.flags, len(file.phdrs)],
        "loads": [_fields(load) for load in file.loads],
        "dynamic": _place(file, file.dynamic),
        "rela": _place(file, file.rela),
        "jmprel": _place(file, file.jmprel),
        "tls": None if file.tls is None else _fields(file.tls),
        "verdefs": [_fields(version) for version in file.verdefs],
        "verneeds": [_fields(version) for version in file.verneeds],
        "build_id": build_id,
        "build_id_at": file.data[:_NOTES].tobytes().find(file.build_id) if file.build_id else -1,
    }


_NOTES = 1 << 16
"""Bytes of a file, in which linkers put its notes."""


def _fields(value: Load | Tls | VersionDef | VersionNeed) -> list[Any]:
    return [getattr(value, name) for name in value.__slots__]


def _place(file: ElfFile, table: Table) -> list[int]:
    """File offset and length of a table.  Raises ValueError for one that was put together."""
    if not len(table):
        return [0, 0]
    offset = table.ctypes.data - file.data.ctypes.data
    if not 0 <= offset <= len(file.data) - table.nbytes:
        raise ValueError("not a part of the file")
    return [offset, len(table)]


def restore(data: Bytes, name: str, status: os.stat_result, record: Record) -> ElfFile | None:
    """A file as `ElfFile.parse` would find it; None where the record is of another file.

    Raises LookupError, TypeError or ValueError for a record that `describe` did not make.
    """
    values, arrays = record
    at, build_id = values["build_id_at"], bytes.fromhex(values["build_id"])
    if at >= 0 and data[at : at + len(build_id)].tobytes() != build_id:
        return None
    type_, entry, phoff, flags, phnum = values["header"]
    phdrs: Table = data[phoff : phoff + phnum * PHDR.itemsize].view(PHDR)
    loads = tuple(
        Load(vaddr, memsz, offset, filesz, PF(bits), align)
        for vaddr, memsz, offset, filesz, bits, align in values["loads"]
    )
    file = ElfFile(name, data, status, Header(type_, entry, phoff, flags, phdrs), loads)
    found: dict[str, Any] = {key: values[key] for key in _PLAIN}
    for key in _TUPLES:
        found[key] = None if values[key] is None else tuple(values[key])
    for key in _ARRAYS:
        found[key] = arrays[key]
    for key in ("rela", "jmprel"):
        found[key] = _table(data, values[key], RELA)
    entries = _table(data, values["dynamic"], DYN)
    pairs = dict(zip(entries["d_tag"].tolist(), entries["d_val"].tolist(), strict=True))
    found["_dynamic"] = Dynamic(file.reader, entries, pairs)
    found["tls"] = None if values["tls"] is None else Tls(*values["tls"])
    found["verdefs"] = tuple(
        VersionDef(index, flags, hash_, version, tuple(parents))
        for index, flags, hash_, version, parents in values["verdefs"]
    )
    found["verneeds"] = tuple(VersionNeed(*v) for v in values["verneeds"])
    derived: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for key, array in arrays.items():
        function, dot, own = key.rpartition(_DERIVED)
        if dot:
            derived.setdefault(function, {})[own] = array
    found["derivations"] = derived
    vars(file).update(found)
    return file


def _table(data: Bytes, place: list[int], dtype: np.dtype[Any]) -> Table:
    offset, count = place
    table: Table = data[offset : offset + count * dtype.itemsize].view(dtype)
    return table
