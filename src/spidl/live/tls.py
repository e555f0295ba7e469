"""Thread-local storage of libraries in the running process: glibc gives it, we ask.

A shell has relocations without a symbol on slots in its tail: glibc's answers are the offset from
the thread pointer (R_X86_64_TPOFF64) and descriptors (R_X86_64_TLSDESC).  Relocations of the
library itself and of those that name its variables are then written from the slots.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf import SHN, STT, ElfFile, R
from spidl.link.dso import Dso
from spidl.link.recipes import Batch, Words
from spidl.link.symbols import U64
from spidl.live import process
from spidl.modules.sysv.relocate import types_of_jmprel, types_of_rela

_TPOFF, _TLSDESC = int(R.TPOFF64), int(R.TLSDESC)


@dataclass(frozen=True, slots=True)
class Slot:
    """A word, or a descriptor of two, that glibc fills in: relocation type and addend."""

    type: R
    addend: int = 0


OFFSET = Slot(R.TPOFF64)
"""Where the block lies from the thread pointer: makes its storage static."""


@dataclass(slots=True)
class TlsNeeds:
    """The slots of one object, each once."""

    slots: dict[Slot, None] = field(default_factory=dict)


@dataclass(slots=True)
class TlsState:
    """What there is to know of an object's block: dlopen's handle, its shell's filled slots."""

    handle: int
    slots: Mapping[Slot, int]

    def offset(self) -> int | None:
        """The value of R_X86_64_TPOFF64 without symbol (negative, wrapped to 64 bits), None where
        the storage is not static."""
        slot = self.slots.get(OFFSET)
        return static_offset(self.handle) if slot is None else process.read_word(slot)


def tls_needs(files: Sequence[ElfFile]) -> list[TlsNeeds]:
    """The slots that the shell of each file must have for the relocations of them all.

    A file's symbol may be bound in any file that defines the name.
    """
    needs = [TlsNeeds() for _ in files]
    for number, file in enumerate(files):
        for table, types in (
            (file.rela, file.derived(types_of_rela)), (file.jmprel, file.derived(types_of_jmprel))
        ):  # fmt: skip
            if not {_TPOFF, _TLSDESC} & set(types["type"].tolist()):
                continue
            for row in table[np.isin(table["r_type"], (_TPOFF, _TLSDESC))]:
                for other, offset in _definitions(files, number, int(row["r_sym"])):
                    if row["r_type"] == _TPOFF:
                        needs[other].slots[OFFSET] = None
                    else:
                        addend = (offset + int(row["r_addend"])) & (2**63 - 1)
                        needs[other].slots[Slot(R.TLSDESC, addend)] = None
    return needs


def _definitions(files: Sequence[ElfFile], number: int, symbol: int) -> list[tuple[int, int]]:
    """(number of the file, offset in its block) of everything a TLS symbol may be bound to."""
    file = files[number]
    found: list[tuple[int, int]] = []
    if symbol == 0:
        return found if file.tls is None else [(number, 0)]
    if file.tls is not None and file.symbols["st_shndx"][symbol] != SHN.UNDEF:
        found.append((number, int(file.symbols["st_value"][symbol])))
    for other, candidate in enumerate(files):
        if other == number or candidate.tls is None:
            continue
        symbols = candidate.symbols
        same = (candidate.name_hashes == file.name_hashes[symbol]) & (
            symbols["st_shndx"] != SHN.UNDEF
        )
        same &= symbols["st_info"] & 15 == STT.TLS
        found += [(other, int(value)) for value in symbols["st_value"][same]]
    return found


def image_relocations(file: ElfFile) -> list[tuple[int, int]]:
    """(place, virtual address to store) of pointers in the initial image of static storage.

    glibc copies that image to all threads while it opens the shell, before anything is bound.
    Raises `LinkError` ``live/tls-image`` for a pointer to another object.
    """
    tls = file.tls
    assert tls is not None, "only asked about files with PT_TLS"
    end = tls.vaddr + tls.filesz
    found = []
    for place in file.relr[(file.relr >= tls.vaddr) & (file.relr < end)].tolist():
        found.append((place, int(file.read(place, 8).view(np.uint64)[0])))
    table = file.rela
    for row in table[(table["r_offset"] >= tls.vaddr) & (table["r_offset"] < end)]:
        place, kind, symbol = int(row["r_offset"]), int(row["r_type"]), int(row["r_sym"])
        value = int(row["r_addend"])
        if kind == R.NONE:
            continue
        if kind == R.R64 and symbol and file.symbols["st_shndx"][symbol] != SHN.UNDEF:
            value += int(file.symbols["st_value"][symbol])
        elif kind != R.RELATIVE:
            raise LinkError(
                "live/tls-image",
                f"{file.name}: the initial content of a static thread-local variable depends on "
                "another object",
                place=Place(file.name, "DT_RELA", vaddr=place),
                help="build the object with -ftls-model=global-dynamic",
            )
        found.append((place, value))
    return found


def static_offset(handle: int) -> int | None:
    """The TPOFF64 value of an open object's block, None where its storage is not static.

    Static storage lies at one distance from the thread pointer in every thread; two are asked.
    """
    results: list[int | None] = [_distance(handle)]
    thread = threading.Thread(target=lambda: results.append(_distance(handle)))
    thread.start()
    thread.join()
    return results[0] if results[0] == results[1] else None


def _distance(handle: int) -> int | None:
    block = process.tls_block(handle)
    return None if block is None else (block - process.thread_pointer()) & (2**64 - 1)


def thread_offset(batch: Batch, states: dict[int, TlsState]) -> list[Words]:
    """R_X86_64_TPOFF64: the variable's place from the thread pointer.

    Raises `LinkError` ``live/static-tls``.
    """

    def offset(dso: Dso) -> int:
        state = states.get(dso.number)
        found = None if state is None else state.offset()
        if found is None:
            raise LinkError(
                "live/static-tls",
                f"{batch.dso.name} takes for granted that the thread-local storage of {dso.name} "
                "is static, and it is not",
                place=Place(batch.dso.path, batch.table),
                help=f"load both in one step, or build {batch.dso.name} with "
                "-ftls-model=global-dynamic",
            )
        return found

    return [Words(batch.P, batch.T + batch.A + batch.of_provider(offset))]


def descriptor(batch: Batch, states: dict[int, TlsState]) -> list[Words]:
    """R_X86_64_TLSDESC: the two words that glibc made for this variable.

    Raises `LinkError` ``live/tls-descriptor``.
    """
    words: U64 = np.zeros((2, len(batch.P)), np.uint64)
    offsets = (batch.T + batch.A).tolist()
    for row, (number, at) in enumerate(zip(batch.provider.tolist(), offsets, strict=True)):
        state = states.get(number)
        slot = None if state is None else state.slots.get(Slot(R.TLSDESC, at))
        if slot is None:
            raise LinkError(
                "live/tls-descriptor",
                f"{batch.dso.name} uses TLS descriptors for a variable of an object that was "
                "there before",
                place=Place(batch.dso.path, batch.table, int(batch.index[row])),
                help="load both in one step, or build it with -mtls-dialect=gnu",
            )
        words[0, row], words[1, row] = process.read_word(slot), process.read_word(slot + 8)
    return [Words(batch.P, words[0]), Words(batch.P + np.uint64(8), words[1])]
