"""A small builder of ELF64 x86-64 objects in memory: for generated objects and for tests."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spidl.elf.constants import (
    DT,
    ET,
    PAGE,
    PF,
    PT,
    SHN,
    STB,
    STT,
    STV,
    VERSYM_HIDDEN,
    R,
)
from spidl.elf.encode import (
    Segment,
    Strings,
    encoded,
    gnu_hash_table,
    gnu_sort_key,
    pack_headers,
    relr_table,
    sysv_hash_table,
    verdef_table,
    verneed_table,
)
from spidl.elf.tables import EHDR, PHDR


@dataclass(frozen=True, slots=True)
class Define:
    """A symbol's content and kind.

    Functions (and IFUNC resolvers) go to the text segment, STT_TLS to the TLS image, everything
    else to the writable segment.  ``align`` is in bytes.
    """

    content: bytes
    type: STT = STT.FUNC
    binding: STB = STB.GLOBAL
    visibility: STV = STV.DEFAULT
    align: int = 16


@dataclass(frozen=True, slots=True)
class Undefined:
    """A symbol needed from elsewhere, in ``version`` of ``file`` (a soname) if given."""

    name: str
    version: str | None = None
    file: str | None = None
    binding: STB = STB.GLOBAL
    type: STT = STT.NOTYPE


@dataclass(frozen=True, slots=True)
class Relocate:
    """A relocation of the word ``offset`` bytes into the symbol ``place``.

    ``symbol`` is the symbol the entry names, with ``@VERSION`` where the same name is needed in
    several versions; ``target`` a symbol of this object whose address is
    added to the addend (R_X86_64_RELATIVE, IRELATIVE).  R_X86_64_PC32 against ``target`` is done
    at once and leaves no entry.  ``plt`` puts the entry into DT_JMPREL, and ``slot`` into the word.
    """

    place: str
    type: R
    symbol: str | None = None
    target: str | None = None
    addend: int = 0
    offset: int = 0
    plt: bool = False
    slot: int = 0


@dataclass(slots=True)
class _Symbol:
    """An entry of .dynsym in the making; ``key`` is the caller's name for it."""

    key: str
    name: str
    info: int
    other: int
    version: int
    section: int
    value: int = 0
    size: int = 0

    @property
    def encoded(self) -> bytes:
        return encoded(self.name)


class _Builder:
    """The steps of `build_dso`, in the order of the methods: nothing's size depends on an address
    (DT_RELR gets room for the worst case), so room is given first and content filled in later."""

    def __init__(self, symbols: Mapping[str, Define | bytes], base: int) -> None:
        self.base = base
        self.defines = {
            key: value if isinstance(value, Define) else Define(value)
            for key, value in symbols.items()
        }
        self.strings = Strings()
        self.symbols = [_Symbol("", "", 0, 0, 0, SHN.UNDEF)]
        self.versions: dict[str, int] = {}
        self.versioned: dict[str, int] = {}
        """Undefined symbols by NAME@VERSION."""
        self.needs: dict[str, dict[str, int]] = {}
        self.hashed_from = 1
        self.entries: list[tuple[int, int]] = []
        self.parts: dict[DT, tuple[int, int]] = {}
        """Tables of the first segment: tag to (file offset, bytes)."""
        self.addresses: dict[str, int] = {}
        self.arrays: dict[DT, tuple[int, Sequence[str]]] = {}

    # Symbols and versions

    @property
    def version_count(self) -> int:
        """The next free version index; 0 and 1 are local and global."""
        return 2 + len(self.versions) + sum(len(names) for names in self.needs.values())

    def collect(self, absolute: Mapping[str, int], undefined: Iterable[Undefined | str]) -> None:
        """Fill the symbol table: undefined symbols first, then the hashed ones by bucket."""
        defined: list[_Symbol] = []
        for key in (*self.defines, *absolute):
            name, at, version = key.partition("@")
            if at:
                number = self.versions.setdefault(version.lstrip("@"), len(self.versions) + 2)
                hidden = 0 if version.startswith("@") else VERSYM_HIDDEN
            else:
                number, hidden = 1, 0
            if key in absolute:
                kind, other, section, size = STB.GLOBAL << 4, 0, int(SHN.ABS), 0
                value = absolute[key]
            else:
                define = self.defines[key]
                kind, other = define.binding << 4 | define.type, define.visibility
                section, size, value = _SECTION, len(define.content), 0
            defined.append(_Symbol(key, name, kind, other, number | hidden, section, value, size))
        for item in undefined:
            need = Undefined(item) if isinstance(item, str) else item
            index = 1
            if need.version is not None:
                names = self.needs.setdefault(need.file or "", {})
                index = names.setdefault(need.version, self.version_count)
            kind = need.binding << 4 | need.type
            self.versioned[f"{need.name}@{need.version}"] = len(self.symbols)
            self.symbols.append(_Symbol(need.name, need.name, kind, 0, index, SHN.UNDEF))
        self.hashed_from = len(self.symbols)
        count = len(defined)
        defined.sort(key=lambda symbol: gnu_sort_key(symbol.encoded, count))
        self.symbols += defined
        for symbol in self.symbols:
            self.strings.add(symbol.name)

    # Layout

    def lay_out_head(
        self, soname: str | None, hash_style: str, phdrs: int, interp: str | None, rows: list[int]
    ) -> None:
        """The read-only segment; ``rows`` are the numbers of RELA, PLT and RELR relocations."""
        names = [symbol.encoded for symbol in self.symbols]
        verdef = verdef_table(self.strings, soname or "", list(self.versions))
        verneed = verneed_table(self.strings, self.needs)
        versym = b"".join(struct.pack("<H", symbol.version) for symbol in self.symbols)
        gnu = gnu_hash_table(names[self.hashed_from :], self.hashed_from)
        versioned = bool(self.versions or self.needs)
        self.head = Segment(0)
        self.head.place(EHDR.itemsize + phdrs * PHDR.itemsize)
        self.interp_at = self.head.put(b"" if interp is None else encoded(interp) + b"\0")
        for tag, content in {
            DT.GNU_HASH: gnu if hash_style in ("gnu", "both") else b"",
            DT.HASH: sysv_hash_table(names) if hash_style in ("sysv", "both") else b"",
            DT.SYMTAB: bytes(24 * len(self.symbols)),
            DT.STRTAB: bytes(self.strings.content),
            DT.VERSYM: versym if versioned else b"",
            DT.VERDEF: verdef if self.versions else b"",
            DT.VERNEED: verneed,
            DT.RELA: bytes(24 * rows[0]),
            DT.JMPREL: bytes(24 * rows[1]),
            DT.RELR: bytes(16 * rows[2]),
        }.items():
            if content:
                self.parts[tag] = self.head.put(content), len(content)

    def lay_out_text(self) -> None:
        self.text = Segment(self.head.next_page)
        self._put(self.text, (STT.FUNC, STT.GNU_IFUNC))
        self.text.place(1)  # never empty

    def lay_out_data(self, init: Sequence[str], fini: Sequence[str], relro: bool) -> None:
        """The writable segment: dynamic section and arrays (RELRO), TLS image, variables."""
        self.data = Segment(self.text.next_page)
        self.dynamic_at = self.data.place(16 * (len(self.entries) + 2 * len(DT)))
        for tag, names in ((DT.INIT_ARRAY, init), (DT.FINI_ARRAY, fini)):
            if names:
                self.arrays[tag] = self.data.place(8 * len(names)), names
        self.relro_end = self.data.place(0, PAGE if relro else 8)
        self.tls_at = self.data.place(0, _TLS_ALIGN)
        self._put(self.data, (STT.TLS,))
        self.tls_size = self.data.end - self.tls_at
        self._put(self.data, tuple(STT))
        self.data.place(1)

    def _put(self, segment: Segment, types: tuple[STT, ...]) -> None:
        for key, define in self.defines.items():
            if define.type in types and key not in self.addresses:
                self.addresses[key] = self.base + segment.put(define.content, define.align)

    # Content

    def fill_symbols(self) -> None:
        rows = b""
        for symbol in self.symbols:
            value = symbol.value
            if symbol.section == _SECTION:
                value = self.addresses[symbol.key]
                if symbol.info & 15 == STT.TLS:
                    value -= self.base + self.tls_at
            rows += struct.pack(
                "<IBBHQQ",
                self.strings.add(symbol.name),
                symbol.info,
                symbol.other,
                symbol.section,
                value,
                symbol.size,
            )
        self.head.write(self.parts[DT.SYMTAB][0], rows)

    def write(self, address: int, content: bytes) -> None:
        """Write at a virtual address of the text or data segment."""
        offset = address - self.base
        (self.data if offset >= self.data.start else self.text).write(offset, content)

    def relocate(
        self, relocations: Sequence[Relocate], relr: Sequence[tuple[str, int, str]]
    ) -> None:
        index_of = {symbol.key: index for index, symbol in enumerate(self.symbols)}
        index_of |= self.versioned
        rows: dict[DT, bytes] = {DT.RELA: b"", DT.JMPREL: b""}
        for offset, names in self.arrays.values():
            for number, name in enumerate(names):
                where = self.base + offset + 8 * number
                rows[DT.RELA] += struct.pack("<QIIq", where, R.RELATIVE, 0, self.addresses[name])
        for item in relocations:
            where = self.addresses[item.place] + item.offset
            value = item.addend + (self.addresses[item.target] if item.target else 0)
            if item.type == R.PC32:
                self.write(where, struct.pack("<i", value - where))
                continue
            number = index_of[item.symbol] if item.symbol else 0
            tag = DT.JMPREL if item.plt else DT.RELA
            rows[tag] += struct.pack("<QIIq", where, item.type, number, value)
            if item.plt:
                # As compilers' tools do, for a loader that binds lazily.
                self.write(where, struct.pack("<Q", item.slot))
        for tag, content in rows.items():
            if content:
                self.head.write(self.parts[tag][0], content)
        words = {
            self.addresses[place] + offset: self.addresses[target] for place, offset, target in relr
        }
        for where, value in words.items():
            self.write(where, struct.pack("<Q", value))
        if words:
            packed = relr_table(sorted(words))
            self.head.write(self.parts[DT.RELR][0], packed)
            self.parts[DT.RELR] = self.parts[DT.RELR][0], len(packed)

    def fill_dynamic(self) -> None:
        entries = self.entries
        for tag, (offset, size) in self.parts.items():
            entries.append((tag, self.base + offset))
            if tag in _SIZES:
                entries.append((_SIZES[tag], size))
            entries += _COMPANIONS.get(tag, ())
        if DT.VERDEF in self.parts:
            entries.append((DT.VERDEFNUM, len(self.versions) + 1))
        if self.needs:
            entries.append((DT.VERNEEDNUM, len(self.needs)))
        for tag, (offset, names) in self.arrays.items():
            entries += [(tag, self.base + offset), (_SIZES[tag], 8 * len(names))]
        packed = b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)
        self.data.write(self.dynamic_at, packed)

    def fill_headers(
        self, type: ET, entry: int, interp: str | None, stack: PF, relro: bool, phnum: int
    ) -> bytes:
        """The finished file."""
        rw, size = PF.R | PF.W, EHDR.itemsize + phnum * PHDR.itemsize
        rows: list[tuple[int, int, int, int, int]] = []  # type, flags, offset, size, align
        if interp is not None:
            rows.append((PT.PHDR, PF.R, EHDR.itemsize, size - EHDR.itemsize, 8))
            rows.append((PT.INTERP, PF.R, self.interp_at, len(encoded(interp)) + 1, 1))
        rows += [
            (PT.LOAD, PF.R, 0, self.head.end, PAGE),
            (PT.LOAD, PF.R | PF.X, self.text.start, len(self.text.content), PAGE),
            (PT.LOAD, rw, self.data.start, len(self.data.content), PAGE),
            (PT.DYNAMIC, rw, self.dynamic_at, 16 * (len(self.entries) + 1), 8),
        ]
        if self.tls_size:
            rows.append((PT.TLS, PF.R, self.tls_at, self.tls_size, _TLS_ALIGN))
        if relro:
            start = self.data.start
            rows.append((PT.GNU_RELRO, PF.R, start, self.relro_end - start, 1))
        rows.append((PT.GNU_STACK, stack, 0, 0, 16))
        packed = pack_headers(type, entry, self.base, rows)
        assert len(packed) <= size, "room for every program header was given"
        self.head.write(0, packed)
        file = bytearray(self.data.end)
        for segment in (self.head, self.text, self.data):
            file[segment.start : segment.end] = segment.content
        return bytes(file)


_SECTION = 1
"""st_shndx of what is defined here; there are no section headers to index."""
_TLS_ALIGN = 64
_SIZES = {
    DT.STRTAB: DT.STRSZ,
    DT.RELA: DT.RELASZ,
    DT.JMPREL: DT.PLTRELSZ,
    DT.RELR: DT.RELRSZ,
    DT.INIT_ARRAY: DT.INIT_ARRAYSZ,
    DT.FINI_ARRAY: DT.FINI_ARRAYSZ,
}
_COMPANIONS: dict[DT, tuple[tuple[DT, int], ...]] = {
    DT.SYMTAB: ((DT.SYMENT, 24),),
    DT.RELA: ((DT.RELAENT, 24),),
    DT.RELR: ((DT.RELRENT, 8),),
    DT.JMPREL: ((DT.PLTREL, DT.RELA),),
}


def build_dso(
    soname: str | None,
    symbols: Mapping[str, Define | bytes] | None = None,
    *,
    needed: Sequence[str] = (),
    absolute: Mapping[str, int] | None = None,
    undefined: Iterable[Undefined | str] = (),
    relocations: Sequence[Relocate] = (),
    relr: Sequence[tuple[str, int, str]] = (),
    init: Sequence[str] = (),
    fini: Sequence[str] = (),
    tags: Sequence[tuple[int, int | str]] = (),
    hash_style: Literal["gnu", "sysv", "both", "none"] = "gnu",
    base: int = 0,
    type: ET = ET.DYN,
    interp: str | None = None,
    entry: str | None = None,
    executable_stack: bool = False,
    relro: bool = True,
) -> bytes:
    """An ELF file with three PT_LOADs (R, RX, RW) that the system's dlopen accepts.

    ``symbols`` maps names to content; plain bytes are a function.  A name, absolute ones included,
    may carry a version as in GNU as's .symver: ``f@@V2`` is the default, ``f@V1`` a hidden one.
    ``absolute`` symbols are SHN_ABS.  ``relr`` lists (place, offset, target): words that DT_RELR
    relocates.  ``init`` and ``fini`` name functions for the arrays; ``tags`` are further dynamic
    entries, whose strings go to the string table.  ``base`` is the first virtual address in bytes;
    ``type``, ``interp`` and ``entry`` (a symbol) make a program.  Raises KeyError for a place,
    target, symbol or function that is not defined here.
    """
    builder = _Builder(symbols or {}, base)
    builder.collect(absolute or {}, undefined)
    names: list[tuple[int, int | str]] = [(DT.NEEDED, name) for name in needed]
    if soname is not None:
        names.append((DT.SONAME, soname))
    for tag, value in (*names, *tags):
        number = builder.strings.add(value) if isinstance(value, str) else value
        builder.entries.append((tag, number))
    if relr and "libc.so.6" in builder.needs:
        # glibc (elf/dl-version.c) wants this of objects that could run on an older one.
        builder.needs["libc.so.6"].setdefault("GLIBC_ABI_DT_RELR", builder.version_count)
    kept = [item for item in relocations if item.type != R.PC32]
    plt = sum(item.plt for item in kept)
    rows = [len(kept) - plt + len(init) + len(fini), plt, len(relr)]
    phdrs = 9  # the most there can be
    builder.lay_out_head(soname, hash_style, phdrs, interp, rows)
    builder.lay_out_text()
    builder.lay_out_data(init, fini, relro)
    builder.fill_symbols()
    builder.relocate(relocations, relr)
    builder.fill_dynamic()
    start = 0 if entry is None else builder.addresses[entry]
    stack = PF.R | PF.W | (PF.X if executable_stack else PF(0))
    return builder.fill_headers(type, start, interp, stack, relro, phdrs)
