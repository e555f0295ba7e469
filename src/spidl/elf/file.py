"""`ElfFile`: an ELF64 x86-64 program or shared object as a value.

Only the program headers and the dynamic section are used: a stripped file has no sections.
Parsing is total: any bytes give a value or a LinkError ``parse/...``, at once or, since what is
expensive is read when first asked for, at a later access.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spidl.elf.constants import DF, DF_1, DT, PAGE, PF, PT
from spidl.elf.dynamic import Dynamic, read_dynamic
from spidl.elf.header import Header, parse_header, parse_loads
from spidl.elf.notes import Note, find_build_id, read_notes, read_properties
from spidl.elf.opening import open_file
from spidl.elf.reader import Load, Reader
from spidl.elf.relocations import check_symbols, read_rela, read_relr
from spidl.elf.segments import Tls, find_phdr, find_phdr_vaddr, read_interp, read_relro, read_tls
from spidl.elf.strings import StringTable
from spidl.elf.symbols import count_symbols
from spidl.elf.tables import HALF, SYM, Bytes, Table, frozen
from spidl.elf.versions import (
    Version,
    VersionDef,
    VersionNeed,
    index_versions,
    read_verdefs,
    read_verneeds,
)

_PATH_MAX = 4096


class Derivation(Protocol):
    """A function that computes one-dimensional arrays of numbers from a file."""

    __module__: str
    __qualname__: str

    def __call__(self, file: ElfFile, /) -> Mapping[str, npt.NDArray[Any]]: ...


@dataclass(frozen=True, eq=False)
class ElfFile:
    """A parsed file.  Addresses are link-time virtual addresses, offsets file offsets, in bytes."""

    name: str
    data: Bytes = field(repr=False)
    stat: os.stat_result | None = field(repr=False)
    header: Header = field(repr=False)
    loads: tuple[Load, ...] = field(repr=False)

    @classmethod
    def parse(
        cls,
        data: bytes | memoryview | mmap.mmap | Bytes,
        name: str,
        stat: os.stat_result | None = None,
    ) -> ElfFile:
        """Parse bytes; ``name`` is what messages call them.

        Raises LinkError ``parse/not-elf``, ``wrong-class``, ``wrong-machine``, ``wrong-abi``,
        ``wrong-type``, ``bad-header``, ``bad-segment`` and ``truncated``.
        """
        view = np.frombuffer(data, dtype=np.uint8).view() if len(data) else np.zeros(0, np.uint8)
        view.flags.writeable = False
        header = parse_header(view, name)
        return cls(name, view, stat, header, parse_loads(view, name, header.phdrs))

    @classmethod
    def open(cls, path: str) -> ElfFile:
        """Map and parse a file; errors as `parse` and `open_file`."""
        data, status = open_file(path)
        return cls.parse(data, path, status)

    @property
    def type(self) -> int:
        """ET_EXEC or ET_DYN."""
        return self.header.type

    @property
    def entry(self) -> int:
        return self.header.entry

    @property
    def phoff(self) -> int:
        return self.header.phoff

    @property
    def flags(self) -> int:
        """e_flags (0 on x86-64)."""
        return self.header.flags

    @property
    def phdrs(self) -> Table:
        return self.header.phdrs

    # Segments

    @cached_property
    def reader(self) -> Reader:
        """Checked access to the file's bytes."""
        return Reader(self.name, self.data, self.loads)

    def file_offset(self, vaddr: int, size: int = 1) -> int:
        """The file offset of ``size`` bytes at a virtual address.

        Raises LinkError ``parse/outside`` where they do not all come from one segment's file part.
        """
        return self.reader.file_offset(vaddr, size)

    def read(self, vaddr: int, size: int) -> Bytes:
        """File-backed bytes at a virtual address, without copying; errors as `file_offset`."""
        return self.reader.read(vaddr, size)

    @cached_property
    def span(self) -> tuple[int, int]:
        """The page-rounded range of virtual addresses that the segments take."""
        start, end = self.loads[0].vaddr, self.loads[-1].end
        return start // PAGE * PAGE, -(-end // PAGE) * PAGE

    @cached_property
    def interp(self) -> str | None:
        """PT_INTERP's path."""
        return read_interp(self.reader, self.phdrs)

    @cached_property
    def tls(self) -> Tls | None:
        """PT_TLS; None where it is empty."""
        return read_tls(self.reader, self.phdrs)

    @cached_property
    def relro(self) -> tuple[int, int] | None:
        """PT_GNU_RELRO's (vaddr, memsz), not rounded to pages."""
        return read_relro(self.reader, self.phdrs, self.span)

    @cached_property
    def stack_executable(self) -> bool:
        """Whether the file asks for an executable stack; on x86-64, saying nothing does."""
        phdr = find_phdr(self.phdrs, PT.GNU_STACK)
        return phdr is None or bool(phdr.flags & PF.X)

    @cached_property
    def phdr_vaddr(self) -> int | None:
        """Where the program headers are in memory, if they are."""
        return find_phdr_vaddr(self.reader, self.phdrs, self.phoff)

    # The dynamic section

    @cached_property
    def dynamic_vaddr(self) -> int | None:
        phdr = find_phdr(self.phdrs, PT.DYNAMIC)
        return None if phdr is None else phdr.vaddr

    @cached_property
    def _dynamic(self) -> Dynamic:
        phdr = find_phdr(self.phdrs, PT.DYNAMIC)
        return read_dynamic(self.reader, None if phdr is None else (phdr.vaddr, phdr.memsz))

    @property
    def dynamic(self) -> Table:
        """The dynamic entries before DT_NULL."""
        return self._dynamic.entries

    def tag(self, tag: int) -> int | None:
        """The value of a dynamic tag, the last one's where there are several."""
        return self._dynamic.get(tag)

    def _string_tag(self, tag: DT) -> str | None:
        offset = self.tag(tag)
        return None if offset is None else self.string(offset)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """DT_NEEDED, in order."""
        return tuple(self.string(offset, _PATH_MAX) for offset in self._dynamic.all(DT.NEEDED))

    @cached_property
    def soname(self) -> str | None:
        return self._string_tag(DT.SONAME)

    @cached_property
    def rpath(self) -> str | None:
        """DT_RPATH, unexpanded; the caller lets DT_RUNPATH win."""
        return self._string_tag(DT.RPATH)

    @cached_property
    def runpath(self) -> str | None:
        return self._string_tag(DT.RUNPATH)

    @property
    def flags_dt(self) -> int:
        """DT_FLAGS."""
        return self.tag(DT.FLAGS) or 0

    @property
    def flags_1(self) -> int:
        """DT_FLAGS_1."""
        return self.tag(DT.FLAGS_1) or 0

    @property
    def symbolic(self) -> bool:
        return self.tag(DT.SYMBOLIC) is not None or bool(self.flags_dt & DF.SYMBOLIC)

    @property
    def bind_now(self) -> bool:
        return (
            self.tag(DT.BIND_NOW) is not None
            or bool(self.flags_dt & DF.BIND_NOW)
            or bool(self.flags_1 & DF_1.NOW)
        )

    @property
    def textrel(self) -> bool:
        return self.tag(DT.TEXTREL) is not None or bool(self.flags_dt & DF.TEXTREL)

    @property
    def init(self) -> int | None:
        return self.tag(DT.INIT)

    @property
    def fini(self) -> int | None:
        return self.tag(DT.FINI)

    def _array(self, start: DT, size: DT) -> tuple[int, int] | None:
        vaddr, length = self._dynamic.range(start, size, 8)
        if not length:
            return None
        self.reader.file_offset(vaddr, length, f"DT_{start.name}")
        return vaddr, length

    @cached_property
    def init_array(self) -> tuple[int, int] | None:
        """(vaddr, bytes) of DT_INIT_ARRAY, None where it is empty."""
        return self._array(DT.INIT_ARRAY, DT.INIT_ARRAYSZ)

    @cached_property
    def preinit_array(self) -> tuple[int, int] | None:
        return self._array(DT.PREINIT_ARRAY, DT.PREINIT_ARRAYSZ)

    # Strings and symbols

    @cached_property
    def _strings(self) -> StringTable:
        vaddr = self.tag(DT.STRTAB)
        if vaddr is None:
            return StringTable(self.reader, self.data[:0])
        size = self.tag(DT.STRSZ) or self.reader.backed(vaddr)
        return StringTable(self.reader, self.reader.read(vaddr, size, "DT_STRTAB"))

    @property
    def strings(self) -> Bytes:
        """.dynstr; to the end of its segment where DT_STRSZ is missing."""
        return self._strings.data

    def string(self, offset: int, limit: int | None = None) -> str:
        """The string at an offset into .dynstr; bytes that are not UTF-8 become surrogates.

        Raises LinkError ``parse/bad-string`` outside the table, where no NUL ends the string, and
        where it is longer than ``limit`` bytes.
        """
        return self._strings.get(offset, limit)

    @cached_property
    def _symbol_count(self) -> int:
        def highest_used() -> int:
            used = [int(table["r_sym"].max()) for table in self._rela if len(table)]
            return max(used, default=-1)

        return count_symbols(self.reader, self._dynamic, highest_used)

    @cached_property
    def symbols(self) -> Table:
        """.dynsym, the reserved entry 0 included."""
        return self.reader.array(self.tag(DT.SYMTAB) or 0, SYM, self._symbol_count, "DT_SYMTAB")

    def symbol_name(self, index: int) -> str:
        """The name of a symbol, without version; LinkError where the table has no such index."""
        if not 0 <= index < len(self.symbols):
            raise self.reader.error(
                "bad-symbol",
                f"no symbol {index}, the table has {len(self.symbols)}",
                table="DT_SYMTAB",
            )
        return self.string(int(self.symbols["st_name"][index]))

    @cached_property
    def name_hashes(self) -> npt.NDArray[np.uint64]:
        """`name_hash` of each symbol's name.

        Raises LinkError ``parse/bad-string`` where a symbol has no valid name.
        """
        return frozen(self._strings.hashes(self.symbols["st_name"].astype(np.int64)))

    # Versions

    @cached_property
    def versym(self) -> npt.NDArray[np.uint16] | None:
        """.gnu.version, an entry per symbol."""
        vaddr = self.tag(DT.VERSYM)
        if vaddr is None:
            return None
        return self.reader.array(vaddr, HALF, self._symbol_count, "DT_VERSYM")

    def _version_string(self, offset: int) -> str:
        return self.string(offset, _PATH_MAX)

    @cached_property
    def verdefs(self) -> tuple[VersionDef, ...]:
        """The versions the object defines, the base definition (its name) included."""
        vaddr, count = self.tag(DT.VERDEF), self.tag(DT.VERDEFNUM)
        if vaddr is None or not count:
            return ()
        return read_verdefs(self.reader, self._version_string, vaddr, count)

    @cached_property
    def verneeds(self) -> tuple[VersionNeed, ...]:
        """The versions the object needs of others."""
        vaddr, count = self.tag(DT.VERNEED), self.tag(DT.VERNEEDNUM)
        if vaddr is None or not count:
            return ()
        return read_verneeds(self.reader, self._version_string, vaddr, count)

    @cached_property
    def versions(self) -> dict[int, Version]:
        """Index in .gnu.version to version; see `index_versions`."""
        return index_versions(self.verdefs, self.verneeds)

    def symbol_version(self, index: int) -> str | None:
        """The name of a symbol's version, None for the base version or none at all."""
        if self.versym is None or index >= len(self.versym):
            return None
        version = self.versions.get(int(self.versym[index]) & 0x7FFF)
        return None if version is None else version.name

    # Relocations

    @cached_property
    def _rela(self) -> tuple[Table, Table]:
        return read_rela(self.reader, self._dynamic)

    @cached_property
    def rela(self) -> Table:
        """DT_RELA without the PLT's; every r_sym is an index of `symbols`."""
        return check_symbols(self.reader, self._rela[0], "DT_RELA", self._symbol_count)

    @cached_property
    def jmprel(self) -> Table:
        """DT_JMPREL; every r_sym is an index of `symbols`."""
        return check_symbols(self.reader, self._rela[1], "DT_JMPREL", self._symbol_count)

    @cached_property
    def relr(self) -> npt.NDArray[np.uint64]:
        """The virtual addresses that DT_RELR relocates."""
        return read_relr(self.reader, self._dynamic)

    # What others find

    @cached_property
    def derivations(self) -> dict[str, Mapping[str, npt.NDArray[Any]]]:
        """What `derived` has computed, by the full name of the function."""
        return {}

    def derived(self, compute: Derivation) -> Mapping[str, npt.NDArray[Any]]:
        """``compute(self)``, computed once and perhaps in an earlier process: read-only arrays.

        ``compute`` is a function at the top of a module and depends on nothing but this file's
        bytes.
        """
        key = f"{compute.__module__}.{compute.__qualname__}"
        found = self.derivations.get(key)
        if found is None:
            found = {name: frozen(array) for name, array in compute(self).items()}
            self.derivations[key] = found
        return found

    # Notes

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        return read_notes(self.reader, self.phdrs)

    @cached_property
    def build_id(self) -> bytes | None:
        return find_build_id(self.notes)

    @cached_property
    def properties(self) -> dict[int, bytes]:
        """The GNU properties, type to data."""
        return read_properties(self.reader, self.notes)
