"""The ELF header, the program headers, and the PT_LOAD segments a loader can map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spidl.diagnostics import Place, Refusal
from spidl.elf.constants import (
    ADDRESS_LIMIT,
    ELFCLASS32,
    ELFCLASS64,
    ELFDATA2LSB,
    ELFMAG,
    ELFOSABI_GNU,
    ELFOSABI_NONE,
    EM_386,
    EM_X86_64,
    ET,
    EV_CURRENT,
    PAGE,
    PF,
    PN_XNUM,
    PT,
)
from spidl.elf.reader import Load, Reader
from spidl.elf.tables import EHDR, PHDR, Bytes, Table


@dataclass(frozen=True, slots=True)
class Header:
    """The facts of the ELF header; ``phoff`` is a file offset in bytes, ``flags`` is e_flags."""

    type: int
    entry: int
    phoff: int
    flags: int
    phdrs: Table


def parse_header(data: Bytes, name: str) -> Header:
    """The header of an ELF64 x86-64 program or DSO.

    Raises LinkError ``parse/not-elf``, ``wrong-class``, ``wrong-machine``, ``wrong-type``,
    ``wrong-abi``, ``bad-header`` and ``truncated``; a Refusal for a 32-bit x86 one.
    """
    reader = Reader(name, data, ())
    magic = data[:4].tobytes()
    if magic != ELFMAG:
        raise _not_elf(reader, magic)
    if len(data) < EHDR.itemsize:
        raise reader.error("truncated", "the file ends inside its ELF header")
    header = data[: EHDR.itemsize].view(EHDR)[0]
    ident = header["e_ident"]
    if ident[4] == ELFCLASS32 and header["e_machine"] == EM_386:
        raise Refusal(
            "parse/wrong-class",
            "a 32-bit program",
            place=Place(name),
            help="Spidl links 64-bit x86-64 programs; this one starts under the system's linker",
        )
    if ident[4] != ELFCLASS64:
        raise reader.error(
            "wrong-class",
            "not a 64-bit ELF file",
            notes=(f"e_ident[EI_CLASS] is {ident[4]}",),
            help="Spidl links 64-bit x86-64 programs; run this one under the system's linker",
        )
    if ident[5] != ELFDATA2LSB:
        raise reader.error("wrong-machine", "not a little-endian ELF file")
    machine = int(header["e_machine"])
    if machine != EM_X86_64:
        raise reader.error(
            "wrong-machine",
            "not an x86-64 ELF file",
            notes=(f"e_machine is {machine}, not {EM_X86_64} (EM_X86_64)",),
        )
    if ident[6] != EV_CURRENT or header["e_version"] != EV_CURRENT:
        raise reader.error("bad-header", "unknown ELF version")
    if ident[7] not in (ELFOSABI_NONE, ELFOSABI_GNU):
        raise reader.error(
            "wrong-abi",
            "the file is for another operating system",
            notes=(f"e_ident[EI_OSABI] is {ident[7]}",),
        )
    kind = int(header["e_type"])
    if kind not in (ET.EXEC, ET.DYN):
        names = {ET.REL: "a relocatable object file", ET.CORE: "a core dump"}
        raise reader.error(
            "wrong-type",
            f"{names.get(ET(kind), 'not linked') if kind in list(ET) else 'an unknown type'},"
            " not a program or shared object",
            notes=(f"e_type is {kind}",),
        )
    phnum, phoff = int(header["e_phnum"]), int(header["e_phoff"])
    if phnum == 0 or phnum == PN_XNUM or header["e_phentsize"] != PHDR.itemsize:
        raise reader.error(
            "bad-header",
            "no usable program headers",
            notes=(f"e_phnum is {phnum}, e_phentsize is {header['e_phentsize']}",),
        )
    end = phoff + phnum * PHDR.itemsize
    if end > len(data):
        raise reader.error(
            "truncated", "the program headers lie behind the end of the file", offset=phoff
        )
    return Header(
        kind, int(header["e_entry"]), phoff, int(header["e_flags"]), data[phoff:end].view(PHDR)
    )


def _not_elf(reader: Reader, magic: bytes) -> Exception:
    if not len(reader.data):
        return reader.error("not-elf", "the file is empty")
    if len(magic) < 4 and ELFMAG.startswith(magic):
        return reader.error("truncated", "the file ends inside its ELF header")
    if magic.startswith(b"#!"):
        line = reader.data[2:258].tobytes().split(b"\n")[0].decode(errors="replace").strip()
        return reader.error(
            "not-elf",
            "a script, not an ELF file",
            notes=(f"its interpreter is `{line}`",),
            help="link the interpreter and give it the script as an argument",
        )
    return reader.error("not-elf", "not an ELF file", notes=(f"it starts with {magic!r}",))


def parse_loads(data: Bytes, name: str, phdrs: Table) -> tuple[Load, ...]:
    """The PT_LOAD segments that occupy memory, in the order of their addresses.

    They are ascending and apart (they may share a page, where the later one's file page wins, as
    in the kernel and ld.so), congruent with their file offsets modulo the page size, inside the
    file and below 2**47.  Raises LinkError ``parse/bad-segment`` or ``parse/truncated`` otherwise.
    """
    reader = Reader(name, data, ())
    loads: list[Load] = []
    for index in np.flatnonzero(phdrs["p_type"] == PT.LOAD).tolist():
        _, flags, offset, vaddr, _, filesz, memsz, align = phdrs[index].tolist()

        def bad(
            why: str, what: str = "bad-segment", index: int = index, vaddr: int = vaddr
        ) -> Exception:
            return reader.error(
                what, f"a PT_LOAD segment {why}", table="phdrs", index=index, vaddr=vaddr
            )

        if memsz == 0 and filesz == 0:
            continue
        if filesz > memsz:
            raise bad("is larger in the file than in memory")
        if vaddr + memsz > ADDRESS_LIMIT:
            raise bad("ends outside the address space")
        if align & (align - 1):
            raise bad(f"has an alignment that is no power of two ({align:#x})")
        if filesz:
            if (vaddr - offset) % PAGE:
                raise bad("has an address and a file offset that disagree modulo the page size")
            if offset + filesz > len(data):
                raise bad("lies behind the end of the file", "truncated")
        if loads and vaddr < loads[-1].end:
            raise bad("overlaps the one before it, or comes too late (they must ascend)")
        loads.append(Load(vaddr, memsz, offset, filesz, PF(flags & 7), max(align, 1)))
    if not loads:
        raise reader.error("bad-segment", "no PT_LOAD segment: there is nothing to map")
    return tuple(loads)
