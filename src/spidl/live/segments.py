"""The real segments of a library, mapped over its shell.

Pages come from the original file, so text is shared with every other process and with glibc's own
instances.  Code is mapped without PROT_EXEC and becomes executable only when the library is
initialised; no page is ever writable and executable.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf import DF_1, DT, ET, PF, ElfFile
from spidl.link.actions import Protection
from spidl.link.dso import Dso, identity_of
from spidl.link.memory import U8, U64, Memory
from spidl.link.space import AddressSpace, Mapping, Provenance, page_down, page_up
from spidl.link.writes import CopyRun, Write
from spidl.live import process
from spidl.live.outline import Outline

_READ_WRITE = Protection.READ | Protection.WRITE


def check_loadable(file: ElfFile) -> None:
    """Refuse what must not be loaded.

    Raises `LinkError` ``live/not-a-library``, ``live/unsafe``, ``live/outside``.
    """
    program = file.type != ET.DYN or bool(file.flags_1 & DF_1.PIE)
    if program or file.dynamic_vaddr is None:
        raise LinkError(
            "live/not-a-library",
            f"{file.name} is {'a program' if program else 'no dynamic object'}",
            place=Place(file.name),
            help="only shared objects can be loaded into a process",
        )
    reason = None
    if file.stack_executable:
        reason = "wants an executable stack"
    elif file.textrel:
        reason = "has relocations in its text (DT_TEXTREL)"
    elif any(load.flags & PF.W and load.flags & PF.X for load in file.loads):
        reason = "has a segment that is writable and executable"
    if reason is not None:
        raise LinkError(
            "live/unsafe", f"{file.name} {reason}", place=Place(file.name),
            help="build it as position-independent code (-fPIC, -z noexecstack)",
        )  # fmt: skip
    for table, size in ((DT.INIT_ARRAY, DT.INIT_ARRAYSZ), (DT.FINI_ARRAY, DT.FINI_ARRAYSZ)):
        vaddr, length = file.tag(table) or 0, file.tag(size) or 0
        if length and not any(
            load.vaddr <= vaddr <= vaddr + length <= load.vaddr + load.memsz for load in file.loads
        ):
            raise LinkError(
                "live/outside",
                f"{file.name} has DT_{table.name} outside its segments",
                place=Place(file.name, "PT_DYNAMIC", vaddr=vaddr),
                help="the file is damaged: reinstall the package it belongs to",
            )


def mappings(dso: Dso, bias: int, by: Provenance) -> tuple[Mapping, ...]:
    """The mappings of an object at a bias, with their final permissions except for RELRO."""
    made = []
    for load in dso.file.loads:
        protection = _protection(load.flags)
        first, lead = page_down(load.vaddr), load.vaddr - page_down(load.vaddr)
        backed_end = page_up(load.vaddr + load.filesz) if load.filesz else first
        whole_end = page_up(load.vaddr + load.memsz)
        if backed_end > first:
            offset = load.offset - lead
            filled = lead + load.filesz if load.flags & PF.W else backed_end - first
            content = dso.file.data[offset : offset + filled]
            made.append(
                Mapping(bias + first, backed_end - first, protection, by,
                        dso.path if dso.identity else None, offset, len(content), content)
            )  # fmt: skip
        if whole_end > backed_end:
            made.append(Mapping(bias + backed_end, whole_end - backed_end, protection, by))
    return tuple(made)


def _protection(flags: int) -> Protection:
    return Protection((flags >> 2 & 1) | (flags & 2) | (flags & 1) << 2)


def map_segments(outline: Outline, bias: int, parts: Sequence[Mapping]) -> None:
    """Map an object's segments over its shell; text is readable only.

    Raises `LinkError` ``live/changed``, ``live/mapping``, ``live/no-memory``.
    """
    descriptor = -1
    try:
        if outline.identity is not None:
            descriptor = _open(outline)
        at = outline.start + bias
        for part in parts:
            if part.start > at:  # a hole: it stays reserved
                process.map_zeros(at, part.start - at, Protection.NONE)
            _map(part, descriptor)
            at = part.end
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open(outline: Outline) -> int:
    """A descriptor of the file that was parsed: no other."""
    try:
        descriptor = os.open(outline.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise changed(outline.path, error.strerror or "it cannot be opened") from None
    if identity_of(os.fstat(descriptor)) != outline.identity:
        os.close(descriptor)
        raise changed(outline.path, "it is another file now")
    return descriptor


def changed(path: str, how: str) -> LinkError:
    return LinkError(
        "live/changed", f"{path} changed while it was loaded: {how}", place=Place(path),
        help="load it again",
    )  # fmt: skip


def _map(part: Mapping, descriptor: int) -> None:
    protection = part.protection & ~Protection.EXEC
    writable = bool(protection & Protection.WRITE)
    if part.path is not None:
        process.map_file(part.start, part.length, protection, descriptor, part.offset)
        if writable and part.filled < part.length:
            ctypes.memset(part.start + part.filled, 0, part.length - part.filled)
    elif part.content is None:
        process.map_zeros(part.start, part.length, protection)
    else:
        process.map_zeros(part.start, part.length, _READ_WRITE)
        process.memory(part.start, part.filled)[:] = part.content
        process.protect(part.start, part.length, protection)


def write_all(space: AddressSpace, parts: Iterable[Mapping]) -> None:
    """Perform everything that passes wrote, in the live memory of writable mappings.

    A batch that lies in one run of pages takes one step, as nearly all do.  Raises `LinkError`
    ``relocate/outside``.
    """
    blocks = [
        (part.start, process.memory(part.start, part.length))
        for part in parts
        if part.protection & Protection.WRITE
    ]
    runs = _runs(blocks)
    starts = np.array([start for start, _ in runs], np.uint64)
    for number, write in enumerate(space.writes):
        if not _write_at_once(write, starts, runs):
            space.apply(Memory(blocks), number)
            return


def _runs(blocks: list[tuple[int, U8]]) -> list[tuple[int, U64]]:
    """Blocks that follow one another, as words."""
    ends: list[list[int]] = []
    for start, data in sorted(blocks, key=lambda block: block[0]):
        if ends and ends[-1][1] == start:
            ends[-1][1] += len(data)
        else:
            ends.append([start, start + len(data)])
    return [(start, process.memory(start, end - start).view(np.uint64)) for start, end in ends]


def _write_at_once(write: Write | CopyRun, starts: U64, runs: list[tuple[int, U64]]) -> bool:
    if not isinstance(write, Write) or write.width != 8 or not runs:
        return False
    at = int(np.searchsorted(starts, write.addresses[0], "right")) - 1
    start, words = runs[max(at, 0)]
    where = write.addresses - np.uint64(start)
    if int(np.bitwise_or.reduce(where)) & 7:
        return False
    where >>= np.uint64(3)
    if int(where.max()) >= len(words):  # what lies before wraps
        return False
    words[where] = write.values
    return True


def make_executable(parts: Sequence[Mapping]) -> None:
    """Let the code run."""
    for part in parts:
        if part.protection & Protection.EXEC:
            process.protect(part.start, part.length, part.protection)
