"""The relocations of an object that becomes a domain, sorted by what they depend on.

Formulas are those of the psABI, table 4.10: S + A for R_X86_64_64, S for GLOB_DAT and JUMP_SLOT
(whose addend is 0), B + A for RELATIVE.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError, Place
from spidl.domains.symbols import THREAD_TYPES, Import, Slot
from spidl.elf import SHN, STB, STT, ElfFile, R
from spidl.elf.constants import relocation_name

U64 = npt.NDArray[np.uint64]
_SYMBOLIC = (R.R64, R.GLOB_DAT, R.JUMP_SLOT)
Imports = dict[tuple[str, str | None], Import]
"""By name and version."""


@dataclass(slots=True)
class Relocations:
    """``own``, ``thread`` and ``resolvers`` are tuples with virtual addresses:

    own        (place, value, whether it moves with the object)
    thread     (place, type, offset in the TLS block)
    resolvers  (place, IFUNC resolver)
    """

    relr: U64
    relative: tuple[U64, U64]
    own: list[tuple[int, int, bool]] = field(default_factory=list)
    thread: list[tuple[int, R, int]] = field(default_factory=list)
    resolvers: list[tuple[int, int]] = field(default_factory=list)
    undefined: Imports = field(default_factory=dict)
    """Addresses of slots are virtual."""

    def imports(self, bias: int) -> Imports:
        """What the object wants of others, with run-time addresses."""
        for wanted in self.undefined.values():
            wanted.slots = [replace(slot, address=slot.address + bias) for slot in wanted.slots]
        return self.undefined


def read_relocations(file: ElfFile) -> Relocations:
    """Sort a file's relocations.  Raises `LinkError` ``domain/relocation``, ``domain/tls``."""
    relative = file.rela[file.rela["r_type"] == R.RELATIVE]
    found = Relocations(
        file.relr, (relative["r_offset"].copy(), relative["r_addend"].astype(np.uint64))
    )
    first, length = file.relro or (0, 0)
    for table, name in ((file.rela, "DT_RELA"), (file.jmprel, "DT_JMPREL")):
        rows = enumerate(table.tolist())
        for number, (place, kind, symbol, addend) in rows:
            where = Place(file.name, name, number, vaddr=place)
            if kind in (R.NONE, R.RELATIVE):
                continue
            if place % 8:
                raise _unfit(where, "a word that is not aligned")
            if kind == R.IRELATIVE:
                found.resolvers.append((place, addend))
                continue
            if kind not in _SYMBOLIC and kind not in THREAD_TYPES:
                raise _unfit(where, f"the type {relocation_name(kind)}")
            constant = kind != R.R64 or first <= place < first + length
            slot = Slot(place, addend, constant, R(kind))
            if symbol and file.symbols["st_shndx"][symbol] == SHN.UNDEF:
                _import(file, found, symbol, slot)
            elif kind in THREAD_TYPES:
                _own_thread(file, found, symbol, slot, where)
            else:
                _own(file, found, symbol, slot, where)
    return found


def _import(file: ElfFile, found: Relocations, index: int, slot: Slot) -> None:
    """A weak thread-local variable is as necessary as any: its address cannot be 0."""
    name, version = file.symbol_name(index), file.symbol_version(index)
    weak = int(file.symbols["st_info"][index]) >> 4 == STB.WEAK
    new = Import(name, version, weak and slot.type not in THREAD_TYPES)
    wanted = found.undefined.setdefault((name, version), new)
    wanted.optional &= new.optional
    wanted.slots.append(slot)


def _own(file: ElfFile, found: Relocations, index: int, slot: Slot, where: Place) -> None:
    row = file.symbols[index]
    value = int(row["st_value"])
    if int(row["st_info"]) & 15 == STT.GNU_IFUNC:
        if slot.addend:
            raise _unfit(where, "an indirect function and an addend")
        found.resolvers.append((slot.address, value))
    else:
        moves = bool(index) and int(row["st_shndx"]) != SHN.ABS
        found.own.append((slot.address, (value + slot.addend) % 2**64, moves))


def _own_thread(file: ElfFile, found: Relocations, index: int, slot: Slot, where: Place) -> None:
    if file.tls is None:
        raise LinkError(
            "domain/tls", f"{file.name} has relocations for thread-local storage, and none of it",
            place=where, help="the file is damaged",
        )  # fmt: skip
    value = int(file.symbols["st_value"][index]) if index else 0
    found.thread.append((slot.address, slot.type, value + slot.addend))


def _unfit(where: Place, what: str) -> LinkError:
    return LinkError(
        "domain/relocation", f"a relocation of a domain has {what}", place=where,
        help="compile it as position-independent code: cc -fPIC -c",
    )  # fmt: skip
