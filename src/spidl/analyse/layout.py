"""What the program headers and the dynamic section say about a file's code and pointers.

Section headers are never used: a stripped file has none, and nothing keeps them true.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.analyse.summary import Key
from spidl.elf import DT, ET, PF, PT, SHN, STT, VERSYM_VERSION, ElfFile, R
from spidl.elf.segments import find_phdr
from spidl.elf.tables import RELA, SYM, XWORD, Bytes

Column = npt.NDArray[np.int64]
"""Addresses and indexes; user addresses fit in 47 bits."""
_EMPTY: Column = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Text:
    """The file-backed part of an executable segment."""

    vaddr: int
    data: Bytes

    @property
    def end(self) -> int:
        return self.vaddr + len(self.data)


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """GOT words, ascending by address: code that refers to one gets what it points to."""

    vaddrs: Column
    imports: Column
    """Index of the symbol that an object's search may find elsewhere, -1 for none."""
    targets: Column
    """Virtual address in this file, -1 for none."""


@dataclass(frozen=True, slots=True, eq=False)
class Pointers:
    """What data points to, whoever reads it."""

    words: Column
    """Where the pointers are; -1 for one that no word in memory holds."""
    targets: Column
    symbols: Column
    """Indexes of symbols that data refers to by name."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A file as the analysis sees it."""

    file: ElfFile

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """Executable segments, ascending."""
        data = self.file.data
        return tuple(
            Text(load.vaddr, data[load.offset : load.offset + load.filesz])
            for load in self.file.loads
            if load.flags & PF.X and load.filesz
        )

    @property
    def fixed(self) -> bool:
        """Whether addresses stand in the code and in data without relocations (ET_EXEC)."""
        return self.file.type == ET.EXEC

    def in_text(self, vaddrs: Column) -> npt.NDArray[np.bool_]:
        """Which addresses are in executable segments."""
        inside = np.zeros(len(vaddrs), dtype=np.bool_)
        for text in self.texts:
            inside |= (vaddrs >= text.vaddr) & (vaddrs < text.end)
        return inside

    def in_constants(self, vaddrs: Column) -> npt.NDArray[np.bool_]:
        """Which addresses are in memory that nobody writes to once the file is relocated."""
        inside = np.zeros(len(vaddrs), dtype=np.bool_)
        for load in self.file.loads:
            if not load.flags & PF.W:
                inside |= (vaddrs >= load.vaddr) & (vaddrs < load.end)
        if self.file.relro is not None:
            start, size = self.file.relro
            inside |= (vaddrs >= start) & (vaddrs < start + size)
        return inside

    def in_writable(self, vaddrs: Column) -> npt.NDArray[np.bool_]:
        """Which addresses are in segments that are written to, if only by relocation."""
        inside = np.zeros(len(vaddrs), dtype=np.bool_)
        for load in self.file.loads:
            if load.flags & PF.W:
                inside |= (vaddrs >= load.vaddr) & (vaddrs < load.end)
        return inside

    def is_text(self, vaddr: int) -> bool:
        return any(text.vaddr <= vaddr < text.end for text in self.texts)

    # Symbols

    @cached_property
    def symbol_values(self) -> Column:
        return _signed(self.file.symbols["st_value"])

    @cached_property
    def symbol_types(self) -> npt.NDArray[np.uint8]:
        return (self.file.symbols["st_info"] & 0xF).astype(np.uint8)

    def key(self, index: int) -> Key:
        """Name and version of a dynamic symbol."""
        found = self._keys.get(index)
        if found is None:
            file, version = self.file, None
            if file.versym is not None:
                version = file.versions.get(int(file.versym[index]) & VERSYM_VERSION)
            found = file.symbol_name(index), None if version is None else version.name
            self._keys[index] = found
        return found

    @cached_property
    def _keys(self) -> dict[int, Key]:
        return {}

    @cached_property
    def exported(self) -> Column:
        """Indexes of symbols that others can find here.

        Undefined ones with a value are among them: the address of a PLT entry stands for the
        function in programs with fixed addresses (psABI, "Function Addresses").
        """
        symbols = self.file.symbols
        binding, types = symbols["st_info"] >> 4, self.symbol_types
        defined = (symbols["st_shndx"] != SHN.UNDEF) | (self.symbol_values != 0)
        usable = (binding != 0) & (types != STT.SECTION) & (types != STT.FILE)
        return np.flatnonzero(defined & usable)

    def is_defined(self, symbol: int) -> bool:
        return int(self.file.symbols["st_shndx"][symbol]) != SHN.UNDEF

    @cached_property
    def export_in_text(self) -> npt.NDArray[np.bool_]:
        """For each of `exported`, whether it is a place in the code."""
        types = self.symbol_types[self.exported]
        code = (types == STT.FUNC) | (types == STT.GNU_IFUNC) | (types == STT.NOTYPE)
        inside: npt.NDArray[np.bool_] = code & self.in_text(self.symbol_values[self.exported])
        return inside

    # Relocations

    @cached_property
    def _relocations(self) -> npt.NDArray[np.void]:
        return np.concatenate([self.file.rela, self.file.jmprel])

    @cached_property
    def slots(self) -> Slots:
        """The words of GLOB_DAT and JUMP_SLOT, and relative ones between two of them."""
        table = self._relocations
        offsets, types = _signed(table["r_offset"]), table["r_type"]
        is_slot = (types == R.GLOB_DAT) | (types == R.JUMP_SLOT)
        named = is_slot & (table["r_sym"] != 0)
        index = table["r_sym"][is_slot].astype(np.int64)
        symbols = self.file.symbols
        values = self.symbol_values[index] if len(symbols) else _EMPTY
        here = symbols["st_shndx"][index] != SHN.UNDEF if len(symbols) else np.zeros(0, bool)
        targets = np.where(here & (index != 0), values, -1)
        imports = np.where(index != 0, index, -1)
        words, relative = self._relative
        between = self._between(words, offsets[(types == R.GLOB_DAT) & named])
        between |= self._between(words, offsets[types == R.JUMP_SLOT])
        vaddrs = np.concatenate([offsets[is_slot], words[between]])
        order = np.argsort(vaddrs, kind="stable")
        return Slots(
            vaddrs[order],
            np.concatenate([imports, np.full(int(between.sum()), -1)])[order],
            np.concatenate([targets, relative[between]])[order],
        )

    @staticmethod
    def _between(words: Column, bounds: Column) -> npt.NDArray[np.bool_]:
        """Linkers put each kind of slot into one section: what lies between two is in it too."""
        if not len(bounds):
            return np.zeros(len(words), dtype=np.bool_)
        between: npt.NDArray[np.bool_] = (words > bounds.min()) & (words < bounds.max())
        return between

    @cached_property
    def _relative(self) -> tuple[Column, Column]:
        """Words that hold an address of this file, and the address."""
        table = self._relocations
        rela = table[(table["r_type"] == R.RELATIVE) | (table["r_type"] == R.RELATIVE64)]
        relr = _signed(self.file.relr)
        words = np.concatenate([_signed(rela["r_offset"]), relr])
        content = self.words_at(relr)
        return words, np.concatenate([rela["r_addend"].astype(np.int64), content])

    @cached_property
    def constant_pointers(self) -> dict[int, int]:
        """Words that hold an address of this file and that nobody writes to, with the address."""
        words, targets = self._relative
        constant = self.in_constants(words)
        return dict(zip(words[constant].tolist(), targets[constant].tolist(), strict=True))

    @cached_property
    def pointers(self) -> Pointers:
        """All of data's pointers but the slots."""
        table = self._relocations
        types = table["r_type"]
        words, targets = self._relative
        others = ~np.isin(words, self.slots.vaddrs)
        resolvers = table[types == R.IRELATIVE]
        skipped = (
            R.NONE, R.GLOB_DAT, R.JUMP_SLOT, R.RELATIVE, R.RELATIVE64, R.IRELATIVE, R.COPY,
            R.DTPMOD64, R.DTPOFF64, R.TPOFF64, R.DTPOFF32, R.TPOFF32, R.TLSDESC, R.SIZE32,
            R.SIZE64,
        )  # fmt: skip
        named = table[~np.isin(types, skipped) & (table["r_sym"] != 0)]
        index = named["r_sym"].astype(np.int64)
        symbols = self.file.symbols
        here = symbols["st_shndx"][index] != SHN.UNDEF if len(index) else np.zeros(0, bool)
        # What is copied may point to functions of the object that it comes from.
        copied = table["r_sym"][types == R.COPY].astype(np.int64)
        local = index[here]
        sums = self.symbol_values[local] + named["r_addend"][here] if len(local) else _EMPTY
        columns = [
            (words[others], targets[others]),
            (np.full(len(resolvers), -1), resolvers["r_addend"].astype(np.int64)),
            (_signed(named["r_offset"][here]), sums),
            # An addend can lead away from the symbol; glibc's IFUNC needs the symbol itself.
            (np.full(len(local), -1), self.symbol_values[local] if len(local) else _EMPTY),
        ]
        if self.fixed:
            columns.append(self._fixed_pointers())
        return Pointers(
            np.concatenate([words for words, _ in columns]),
            np.concatenate([targets for _, targets in columns]),
            np.unique(np.concatenate([index, copied])),
        )

    def _fixed_pointers(self) -> tuple[Column, Column]:
        """Words of 8 bytes that could be addresses of code, in a file with fixed addresses.

        The linker's own tables are no data of the program's.
        """
        places, values = [_EMPTY], [_EMPTY]
        own = self._own_tables()
        for load in self.file.loads:
            start = -(-load.vaddr // 4) * 4
            offset = load.offset + start - load.vaddr
            size = (load.offset + load.filesz - offset) // 4 * 4
            if size < 8:
                continue
            halves = self.file.data[offset : offset + size].view("<u4")
            # Pointers need not be aligned to more than 4 bytes in packed structures.
            low, high = halves[:-1], halves[1:]
            possible = np.zeros(len(low), dtype=np.bool_)
            for text in self.texts:
                if text.end < 1 << 32:
                    possible |= (low >= text.vaddr) & (low < text.end) & (high == 0)
                else:
                    whole = low.astype(np.int64) | (high.astype(np.int64) << 32)
                    possible |= (whole >= text.vaddr) & (whole < text.end)
            at = np.flatnonzero(possible)
            words = start + 4 * at
            outside = np.ones(len(at), dtype=np.bool_)
            for first, end in own:
                outside &= (words < first) | (words >= end)
            outside &= ~np.isin(words, self.slots.vaddrs)
            at = at[outside]
            places.append(words[outside])
            values.append(low[at].astype(np.int64) | (high[at].astype(np.int64) << 32))
        return np.concatenate(places), np.concatenate(values)

    def _own_tables(self) -> list[tuple[int, int]]:
        file = self.file
        tables = [
            (file.tag(DT.SYMTAB), len(file.symbols) * SYM.itemsize),
            (file.tag(DT.RELA), file.tag(DT.RELASZ)),
            (file.tag(DT.JMPREL), len(file.jmprel) * RELA.itemsize),
            (file.tag(DT.STRTAB), file.tag(DT.STRSZ)),
        ]
        for kind in (PT.DYNAMIC, PT.GNU_EH_FRAME, PT.PHDR):
            phdr = find_phdr(file.phdrs, kind)
            if phdr is not None:
                tables.append((phdr.vaddr, phdr.memsz))
        return [(start, start + size) for start, size in tables if start is not None and size]

    # Content

    def words_at(self, vaddrs: Column) -> Column:
        """The 8 bytes in the file at each address, -1 where it has none."""
        return self._gather(vaddrs, XWORD)

    def halves_at(self, vaddrs: Column) -> Column:
        """The 4 bytes in the file at each address, signed; a huge number where it has none."""
        return self._gather(vaddrs, np.dtype("<i4"), 1 << 62)

    def _gather(self, vaddrs: Column, dtype: np.dtype[Any], nothing: int = -1) -> Column:
        found = np.full(len(vaddrs), nothing, dtype=np.int64)
        size = dtype.itemsize
        for load in self.file.loads:
            rows = np.flatnonzero(
                (vaddrs >= load.vaddr) & (vaddrs + size <= load.vaddr + load.filesz)
            )
            if not len(rows):
                continue
            offsets = vaddrs[rows] - load.vaddr + load.offset
            content = np.empty((len(rows), size), dtype=np.uint8)
            for at in range(size):
                content[:, at] = self.file.data[offsets + at]
            found[rows] = content.view(dtype).reshape(-1).astype(np.int64)
        return found

    @cached_property
    def roots(self) -> Column:
        """Code that runs because the file is loaded or unloaded."""
        file = self.file
        starts = [vaddr for vaddr in (file.init, file.fini) if vaddr]
        arrays = [
            (DT.INIT_ARRAY, DT.INIT_ARRAYSZ), (DT.FINI_ARRAY, DT.FINI_ARRAYSZ),
            (DT.PREINIT_ARRAY, DT.PREINIT_ARRAYSZ),
        ]  # fmt: skip
        for start, size in arrays:
            vaddr, length = file.tag(start), file.tag(size)
            if vaddr is not None and length and length <= len(file.data):
                # Relocated words hold the address too, or are among the pointers.
                words = self.words_at(np.arange(vaddr, vaddr + length // 8 * 8, 8, dtype=np.int64))
                starts += words.tolist()
        roots = np.array(starts, dtype=np.int64)
        return np.unique(roots[self.in_text(roots)])


def _signed(column: npt.NDArray[Any]) -> Column:
    return column.astype(np.int64)
