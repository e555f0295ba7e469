"""The relocations of an object that becomes a domain, sorted by what they depend on.

Formulas are those of the psABI, table 4.10: S + A for R_X86_64_64, S for GLOB_DAT and JUMP_SLOT
(whose addend is 0), B + A for RELATIVE.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError, Place
from spidl.domains.symbols import Import, Slot
from spidl.elf import SHN, STB, STT, ElfFile, R
from spidl.elf.constants import relocation_name

U64 = npt.NDArray[np.uint64]
_SYMBOLIC = (R.R64, R.GLOB_DAT, R.JUMP_SLOT)
_THREAD = (R.DTPMOD64, R.DTPOFF64, R.TPOFF64, R.TLSDESC)


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
    undefined: dict[str, Import] = field(default_factory=dict)
    """By name; addresses of slots are virtual."""

    def imports(self, bias: int) -> dict[str, Import]:
        """What the object wants of others, with run-time addresses."""
        for wanted in self.undefined.values():
            wanted.slots = [
                Slot(slot.address + bias, slot.addend, slot.constant) for slot in wanted.slots
            ]
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
            elif kind in _THREAD:
                offset = _offset(file, symbol, where) + addend
                found.thread.append((place, R(kind), offset))
            elif kind in _SYMBOLIC:
                constant = kind != R.R64 or first <= place < first + length
                _symbolic(file, found, symbol, Slot(place, addend, constant))
            else:
                raise _unfit(where, f"the type {relocation_name(kind)}")
    return found


def _symbolic(file: ElfFile, found: Relocations, index: int, slot: Slot) -> None:
    name = file.symbol_name(index) if index else ""
    row = file.symbols[index]
    section, info, value = int(row["st_shndx"]), int(row["st_info"]), int(row["st_value"])
    if index and section == SHN.UNDEF:
        wanted = found.undefined.setdefault(name, Import(name, info >> 4 == STB.WEAK))
        wanted.slots.append(slot)
    elif info & 15 == STT.GNU_IFUNC:
        found.resolvers.append((slot.address, value))
    else:
        moves = bool(index) and section != SHN.ABS
        found.own.append((slot.address, (value + slot.addend) % 2**64, moves))


def _offset(file: ElfFile, index: int, where: Place) -> int:
    """A thread-local variable's place in the block of its object."""
    if file.tls is None:
        raise LinkError(
            "domain/tls", f"{file.name} has relocations for thread-local storage, and none of it",
            place=where, help="the file is damaged",
        )  # fmt: skip
    if not index:
        return 0
    name = file.symbol_name(index)
    if file.symbols["st_shndx"][index] == SHN.UNDEF:
        raise LinkError(
            "domain/tls",
            f"{file.name} imports the thread-local variable `{name}`",
            place=where,
            help="export a function that returns its address: domains share functions and data",
        )
    return int(file.symbols["st_value"][index])


def _unfit(where: Place, what: str) -> LinkError:
    return LinkError(
        "domain/relocation", f"a relocation of a domain has {what}", place=where,
        help="compile it as position-independent code: cc -fPIC -c",
    )  # fmt: skip
