"""What the program headers other than PT_LOAD say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spidl.elf.constants import PT
from spidl.elf.reader import Reader
from spidl.elf.tables import PHDR, Table

_PATH_MAX = 4096


@dataclass(frozen=True, slots=True)
class Tls:
    """PT_TLS: the initial content of a thread's block; addresses virtual, sizes in bytes."""

    vaddr: int
    memsz: int
    filesz: int
    align: int
    offset: int


@dataclass(frozen=True, slots=True)
class Phdr:
    """One program header as Python integers; addresses virtual, sizes in bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


def find_phdr(phdrs: Table, kind: PT, which: int = -1) -> Phdr | None:
    """A program header of a kind: the last one, which is what ld.so uses, if not told otherwise."""
    found = np.flatnonzero(phdrs["p_type"] == kind)
    return Phdr(*phdrs[int(found[which])].tolist()) if len(found) else None


def read_interp(reader: Reader, phdrs: Table) -> str | None:
    """PT_INTERP's path; of several the first, as in the kernel.

    Raises LinkError ``parse/bad-interp`` under the conditions that make the kernel refuse it.
    """
    phdr = find_phdr(phdrs, PT.INTERP, 0)
    if phdr is None:
        return None
    inside = phdr.offset + phdr.filesz <= len(reader.data) and 2 <= phdr.filesz <= _PATH_MAX
    path = reader.data[phdr.offset : phdr.offset + phdr.filesz].tobytes() if inside else b""
    if not path.endswith(b"\0"):
        raise reader.error(
            "bad-interp",
            "not a path that a NUL ends",
            table="PT_INTERP",
            vaddr=phdr.vaddr,
        )
    return path.split(b"\0")[0].decode(errors="surrogateescape")


def read_tls(reader: Reader, phdrs: Table) -> Tls | None:
    """PT_TLS; None where it is empty, as in ld.so.

    Raises LinkError ``parse/bad-segment`` for impossible sizes, ``parse/outside`` where the initial
    content is not in the file.
    """
    phdr = find_phdr(phdrs, PT.TLS)
    if phdr is None or phdr.memsz == 0:
        return None
    align = max(phdr.align, 1)
    if phdr.filesz > phdr.memsz or align & (align - 1) or max(phdr.memsz, align) >= 1 << 32:
        raise reader.error(
            "bad-segment", "PT_TLS has impossible sizes", table="PT_TLS", vaddr=phdr.vaddr
        )
    if phdr.filesz:
        reader.file_offset(phdr.vaddr, phdr.filesz, "PT_TLS")
    return Tls(phdr.vaddr, phdr.memsz, phdr.filesz, align, phdr.offset)


def read_relro(reader: Reader, phdrs: Table, span: tuple[int, int]) -> tuple[int, int] | None:
    """PT_GNU_RELRO's (vaddr, memsz), not rounded to pages.

    Raises LinkError ``parse/bad-segment`` where that lies outside ``span``.
    """
    phdr = find_phdr(phdrs, PT.GNU_RELRO)
    if phdr is None or phdr.memsz == 0:
        return None
    if phdr.vaddr < span[0] or phdr.vaddr + phdr.memsz > span[1]:
        raise reader.error(
            "bad-segment", "it lies outside the segments", table="PT_GNU_RELRO", vaddr=phdr.vaddr
        )
    return phdr.vaddr, phdr.memsz


def find_phdr_vaddr(reader: Reader, phdrs: Table, phoff: int) -> int | None:
    """Where the program headers are in memory: PT_PHDR says so, or the segment that has them."""
    phdr = find_phdr(phdrs, PT.PHDR)
    if phdr is not None:
        return phdr.vaddr
    end = phoff + len(phdrs) * PHDR.itemsize
    for load in reader.loads:
        if load.offset <= phoff and end <= load.offset + load.filesz:
            return load.vaddr + phoff - load.offset
    return None
