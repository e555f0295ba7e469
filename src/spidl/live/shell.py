"""The shell: a small ELF file that makes glibc the owner of a library's address range.

Its program headers reserve the library's span, and a *tail* of its own behind that.  glibc's dlopen
then gives it a bias, a TLS module, an entry for the unwinder and the debugger's list, a reference
count and a place in the order of destructors; it finds no code in it and no symbol to look up.
Afterwards the real segments are mapped over the span (`spidl.live.segments`).

A shell is first a value, its `ShellImage`, which is the same for every load but for the numbers in
the names: an image can be kept and opened again.

What glibc reads while it opens the shell stands at its real address in the file, which is otherwise
a hole: the head of the hash table, the version definitions, the initial TLS image.  What differs
from the library's own, the shell has in its tail: program headers, dynamic section, names, the TLS
slots and the list of destructors, which is empty until the library is initialised.

Offsets in a shell's file are virtual addresses minus the start of the span.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf import DT, ET, PAGE, PF, PHDR, PT, ElfFile, R
from spidl.elf.build import build_dso
from spidl.elf.encode import Segment, Strings
from spidl.live import process
from spidl.live.process import LinkMap
from spidl.live.tls import Slot, TlsNeeds, image_relocations

_HASH_HEAD = 16
"""Bytes of a hash table that glibc reads when it opens an object (_dl_setup_hash)."""
_RELA = struct.Struct("<QIIq")
_DYN = struct.Struct("<qQ")
_VERDEF, _VERDAUX = 20, 8
_serials = itertools.count(int.from_bytes(os.urandom(5), "little"))
"""They begin anywhere: another copy of this package may be in the process."""
_latest: weakref.WeakValueDictionary[int, Shell] = weakref.WeakValueDictionary()
"""The shell that was opened last with a handle."""
_Row = tuple[int, int, int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class ShellImage:
    """The file of a shell; every address is virtual.

    ``parts`` are (virtual address, content) of what is not a hole in it; the last part is the tail,
    ``slots`` the places of the TLS slots; ``exits`` those of the destructor list and of the
    DT_FINI_ARRAYSZ word that makes it count.
    """

    base: str
    """The library's file name."""
    start: int
    size: int
    """In bytes, from ``start``."""
    parts: Sequence[tuple[int, bytes]]
    names: Mapping[str, int]
    """Places of the names in the tail: its own first, then by what glibc knows its needs."""
    slots: Mapping[Slot, int]
    exits: tuple[int, int]
    headers: tuple[int, bytes]
    """Place of the program headers, and what debuggers are to see there."""
    dynamic: int | None
    """The library's own dynamic section, None where it cannot be shown: glibc walks the one that it
    shows for DT_NEEDED, so these become the shell's names."""
    words: Sequence[tuple[int, int]]
    """(place, value) of each DT_NEEDED entry of that: names as offsets from its .dynstr."""

    @property
    def tail(self) -> int:
        """Where the tail begins."""
        return self.parts[-1][0]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Shell:
    """An open shell: ``handle`` is dlopen's."""

    image: ShellImage
    handle: int
    soname: str
    bias: int
    slots: dict[Slot, int]
    """Run-time addresses of the TLS slots."""
    closed: bool = field(default=False)

    def __post_init__(self) -> None:
        _latest[self.handle] = self

    @property
    def map(self) -> LinkMap:
        return LinkMap(self.handle)

    @property
    def is_latest(self) -> bool:
        """Whether no later shell has its handle: glibc uses the memory of closed ones again."""
        return _latest.get(self.handle) is self

    @property
    def start(self) -> int:
        """First address of the span."""
        return self.bias + self.image.start

    @property
    def end(self) -> int:
        """First address behind the span and the tail."""
        return self.start + self.image.size

    def slot(self, slot: Slot) -> int:
        """The word that glibc put into a TLS slot."""
        return process.read_word(self.slots[slot])

    def show(self, name: str) -> None:
        """Let debuggers and dl_iterate_phdr see the library where they saw its shell."""
        at, headers = self.image.headers
        ctypes.memmove(self.bias + at, headers, len(headers))
        for place, value in self.image.words:
            process.write_word(self.bias + place, value)
        dynamic = self.image.dynamic
        self.map.show(name, None if dynamic is None else self.bias + dynamic)

    def close(self) -> None:
        """Give the reference back: glibc runs the destructors and unmaps everything."""
        if not self.closed:
            self.closed = True
            process.close_object(self.handle)


def new_soname(base: str) -> str:
    """A name that no other shell has, always as long for the same library."""
    return f"spidl:{next(_serials):012x}:{base}"


def open_shell(file: ElfFile, needed: Sequence[str | None], tls: TlsNeeds) -> Shell:
    """Make the shell of a library and open it.

    ``needed`` are the names by which glibc knows what the library needs, one for each DT_NEEDED,
    None for what glibc does not have yet (a cycle).  Raises `LinkError` ``live/static-tls``,
    ``live/shell``.
    """
    base = os.path.basename(file.name)
    soname = new_soname(base)
    names = [soname if name is None else name for name in needed]
    return open_image(_Builder(file, soname, names, tls).image(base), soname, file.name)


def open_image(image: ShellImage, soname: str, path: str) -> Shell:
    """Open a shell; ``path`` is the library's.  Raises as `open_shell`."""
    descriptor = -1
    try:
        descriptor = os.memfd_create(f"spidl:{image.base[:60]}", os.MFD_CLOEXEC)
        os.truncate(descriptor, image.size)
        for vaddr, content in image.parts:
            os.pwrite(descriptor, content, vaddr - image.start)
        handle = process.open_object(_unique_path(descriptor, next(_serials)))
    except OSError as error:
        raise _not_opened(path, error) from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    bias = LinkMap(handle).bias
    slots = {slot: bias + vaddr for slot, vaddr in image.slots.items()}
    return Shell(image, handle, soname, bias, slots)


def _unique_path(descriptor: int, serial: int) -> bytes:
    """A path of the descriptor that no other shell had: glibc knows objects by name first.

    The serial number is spelled in binary with path steps that change nothing.  The process is
    named by its number: a debugger opens the path too, and /proc/self would be the debugger's own.
    """
    steps = "".join("./" if bit == "1" else "/" for bit in f"{serial:b}")
    return f"/proc/{os.getpid()}/fd/{steps}{descriptor}".encode()


def open_bundle(needed: Sequence[str], soname: str | None = None) -> int:
    """Open an object that only needs others; gives dlopen's handle.

    Raises `LinkError` ``live/shell``.
    """
    descriptor = -1
    try:
        descriptor = os.memfd_create("spidl:bundle", os.MFD_CLOEXEC)
        os.write(descriptor, build_dso(soname or new_soname("bundle"), {}, needed=needed))
        return process.open_object(_unique_path(descriptor, next(_serials)))
    except OSError as error:
        raise _not_opened("what belongs together", error) from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def tell_debugger() -> None:
    """Let a debugger that watches this process look at the list of objects again.

    It looks when glibc opens an object, and `LinkMap.show` comes after that.
    """
    with suppress(LinkError, OSError):  # the debugger looks at the next occasion
        with open("/proc/self/status", "rb") as status:
            if b"\nTracerPid:\t0\n" in status.read():
                return
        process.close_object(open_bundle(()))


def _not_opened(path: str, error: OSError) -> LinkError:
    text = str(error)
    if "static TLS" in text:
        return LinkError(
            "live/static-tls",
            f"{path} wants static thread-local storage, and none is left",
            place=Place(path, "PT_TLS"),
            notes=(text,),
            help="start Python with GLIBC_TUNABLES=glibc.rtld.optional_static_tls=16384",
        )
    return LinkError(
        "live/shell",
        f"the C library does not open a shell for {path}: {text}",
        place=Place(path),
        help="see `ulimit -n` and `ulimit -v`; a sandbox of this process may forbid it",
    )


class _Builder:
    """Lays out a shell; every address is virtual."""

    def __init__(self, file: ElfFile, soname: str, needed: Sequence[str], tls: TlsNeeds) -> None:
        self.file = file
        self.soname = soname
        self.start, end = file.span
        self.tail = Segment(end)
        self.names: dict[str, int] = {}
        self.slots: dict[Slot, int] = {}
        self.parts: list[tuple[int, bytes]] = []
        """(virtual address, content) of what is not a hole."""
        self.image_words = image_relocations(file) if tls.slots and file.tls else []
        rows = self._rows(0, 0)
        count = max(len(rows), len(file.phdrs) + 1)
        self.phdrs = self.tail.place(count * PHDR.itemsize, 8), count
        self._put_names([soname, *needed])
        entries = self._put_tables(needed, tls)
        dynamic = self.tail.put(b"".join(_DYN.pack(*entry) for entry in entries))
        size_at = [tag for tag, _ in entries].index(DT.FINI_ARRAYSZ)
        self.exits = self.exits_at, dynamic + size_at * _DYN.size + 8
        self.size = self.tail.next_page - self.start
        rows = self._rows(dynamic, len(entries) * _DYN.size)
        rows += [(PT.NULL, 0, 0, 0, 0, 0, 0, 0)] * (count - len(rows))
        packed = b"".join(struct.pack("<2I6Q", *row) for row in rows)
        self.tail.write(self.phdrs[0], packed)
        self.parts.append((self.start, self._header()))
        self.parts.append((self.tail.start, bytes(self.tail.content)))
        self.needed = needed

    def image(self, base: str) -> ShellImage:
        """The result."""
        shown = dynamic_is_writable(self.file)
        return ShellImage(
            base, self.start, self.size, self.parts, self.names, self.slots, self.exits,
            (self.phdrs[0], self._shown()), self.file.dynamic_vaddr if shown else None,
            self._needed_words() if shown else (),
        )  # fmt: skip

    def _shown(self) -> bytes:
        """The program headers of the library, and one for the tail."""
        file = self.file
        table = file.phdrs[file.phdrs["p_type"] != PT.INTERP]
        shown = np.zeros(self.phdrs[1], table.dtype)
        shown[: len(table)] = table
        tail = shown[len(table)]
        tail["p_type"], tail["p_flags"] = PT.LOAD, PF.R | PF.W
        tail["p_vaddr"] = tail["p_paddr"] = self.tail.start
        tail["p_filesz"] = tail["p_memsz"] = self.size - (self.tail.start - self.start)
        shown["p_vaddr"][: len(table)][table["p_type"] == PT.PHDR] = self.phdrs[0]
        return shown.tobytes()

    def _needed_words(self) -> list[tuple[int, int]]:
        file, strings = self.file, self.file.tag(DT.STRTAB) or 0
        assert file.dynamic_vaddr is not None, "checked before the shell was made"
        rows = np.flatnonzero(file.dynamic["d_tag"] == DT.NEEDED).tolist()
        return [
            (file.dynamic_vaddr + 16 * row + 8, self.names[name] - strings)
            for row, name in zip(rows, self.needed, strict=True)
        ]

    def _header(self) -> bytes:
        ident = b"\x7fELF\x02\x01\x01" + bytes(9)
        return struct.pack(
            "<16s2HI3QI6H", ident, ET.DYN, 62, 1, 0, self.phdrs[0] - self.start, 0, 0,
            64, PHDR.itemsize, self.phdrs[1], 64, 0, 0,
        )  # fmt: skip

    def _put_names(self, names: Sequence[str]) -> None:
        strings = Strings()
        for name in names:
            strings.add(name)
        at = self.tail.put(bytes(strings.content), 1)
        self.names = {name: at + strings.offsets[name] for name in names}

    def _put_tables(self, needed: Sequence[str], tls: TlsNeeds) -> list[tuple[int, int]]:
        """Everything the dynamic section speaks of; gives its entries."""
        file = self.file
        strings = file.tag(DT.STRTAB) or 0
        entries: list[tuple[int, int]] = [
            (DT.SONAME, self.names[self.soname] - strings & (2**64 - 1)),
            *((DT.NEEDED, self.names[name] - strings & (2**64 - 1)) for name in needed),
            (DT.STRTAB, strings),
            (DT.STRSZ, file.tag(DT.STRSZ) or len(file.strings)),
            (DT.SYMTAB, file.tag(DT.SYMTAB) or 0),
            (DT.SYMENT, 24),
        ]
        for tag in (DT.GNU_HASH, DT.HASH):
            table = file.tag(tag)
            if table is not None:
                entries.append((tag, table))
                self.parts.append((table, file.read(table, _HASH_HEAD).tobytes()))
        versions, definitions = file.tag(DT.VERSYM), file.tag(DT.VERDEF)
        if versions is not None and definitions is not None and file.verdefs:
            entries += [(DT.VERSYM, versions), (DT.VERDEF, definitions),
                        (DT.VERDEFNUM, len(file.verdefs))]  # fmt: skip
            self.parts.append((definitions, _definitions(file, definitions)))
        if file.tls is not None and file.tls.filesz:
            image = file.read(file.tls.vaddr, file.tls.filesz)
            self.parts.append((file.tls.vaddr, image.tobytes()))
        rela = b"".join(
            _RELA.pack(place, R.RELATIVE, 0, value) for place, value in self.image_words
        )
        for slot in tls.slots:
            self.slots[slot] = self.tail.place(16 if slot.type == R.TLSDESC else 8, 8)
            rela += _RELA.pack(self.slots[slot], slot.type, 0, slot.addend)
        if rela:
            entries += [(DT.RELA, self.tail.put(rela)), (DT.RELASZ, len(rela)), (DT.RELAENT, 24)]
        self.exits_at = self.tail.place(8 + (file.tag(DT.FINI_ARRAYSZ) or 0) // 8 * 8)
        return [*entries, (DT.FINI_ARRAY, self.exits_at), (DT.FINI_ARRAYSZ, 0), (DT.NULL, 0)]

    def _rows(self, dynamic: int, length: int) -> list[_Row]:
        """Program headers as glibc is to see them while it opens the shell."""
        file = self.file
        align = max((load.align for load in file.loads), default=PAGE)
        align = align if self.start % max(align, 1) == 0 else PAGE
        span = self.tail.start - self.start
        flags = PF.R | PF.W if self.image_words else PF.R
        tail = len(self.tail.content)

        def row(kind: int, flags: int, vaddr: int, filesz: int, memsz: int, align: int) -> _Row:
            return kind, flags, vaddr - self.start, vaddr, vaddr, filesz, memsz, align

        table, count = self.phdrs if length else (self.tail.start, 0)
        rows = [
            row(PT.PHDR, PF.R, table, count * PHDR.itemsize, count * PHDR.itemsize, 8),
            row(PT.LOAD, flags, self.start, span, span, max(align, PAGE)),
            row(PT.LOAD, PF.R | PF.W, self.tail.start, tail, tail, PAGE),
            row(PT.DYNAMIC, PF.R | PF.W, dynamic or self.tail.start, length, length, 8),
            row(PT.GNU_STACK, PF.R | PF.W, self.start, 0, 0, 16),
        ]
        if file.tls is not None:
            rows.append(row(PT.TLS, PF.R, file.tls.vaddr, file.tls.filesz, file.tls.memsz,
                            file.tls.align))  # fmt: skip
        for phdr in file.phdrs[file.phdrs["p_type"] == PT.GNU_EH_FRAME]:
            size = int(phdr["p_memsz"])
            rows.append(row(PT.GNU_EH_FRAME, PF.R, int(phdr["p_vaddr"]), size, size, 4))
        return rows


def dynamic_is_writable(file: ElfFile) -> bool:
    """Whether the dynamic section is in writable pages: some linkers put it elsewhere (lld's
    -z rodynamic)."""
    vaddr = file.dynamic_vaddr
    assert vaddr is not None, "checked before the shell was made"
    end = vaddr + 16 * len(file.dynamic)
    return any(
        load.flags & PF.W and load.vaddr <= vaddr and end <= load.vaddr + load.memsz
        for load in file.loads
    )


def _definitions(file: ElfFile, vaddr: int) -> bytes:
    """The bytes of DT_VERDEF, with the holes between its parts."""
    at = end = vaddr
    while True:
        head = struct.unpack("<4H3I", file.read(at, _VERDEF).tobytes())
        aux, following = head[5], head[6]
        end = max(end, at + _VERDEF, at + aux + _VERDAUX)
        if not following:
            return file.read(vaddr, end - vaddr).tobytes()
        at += following
