"""Redirecting a libc function at its entry, for callers that no link sees.

What a program opens at run time is bound by ld.so itself.  A launcher whose library asks
/proc/self/exe where its files are (Firefox's libxul, .NET's libhostfxr, Julia) would find the image
there.  So where a program may call dlopen, the two functions of libc that read links begin with a
jump to boot's shim.  That takes one private page of libc's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spidl.diagnostics import LinkError
from spidl.elf import SHN, STT, name_hash
from spidl.link.actions import MapFile, Segment
from spidl.link.dso import Dso
from spidl.link.image import Pages
from spidl.link.link import Link
from spidl.link.memory import among
from spidl.link.space import page_down, page_up

FUNCTIONS = ("readlink", "readlinkat")
_OPENERS = ("dlopen", "dlmopen")
_ENTRY = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?((?:\x49\x89\xca)?\xb8..\0\0)\x0f\x05", re.DOTALL)
"""``endbr64; mov r10, rcx; mov eax, number; syscall``, the first two where there is need.

The group is whole instructions that may run anywhere, and long enough for a jump.
"""
_JUMP, _NOP = b"\xe9", b"\x90"
_JUMP_SIZE = 5


@dataclass(frozen=True, slots=True)
class Redirect:
    """``code`` of function ``name`` at a run-time ``address``, which a jump shall replace."""

    name: str
    address: int
    code: bytes

    def jump(self, target: int) -> bytes:
        """The new code: to ``target``."""
        return jump(self.address, target).ljust(len(self.code), _NOP)

    def rest(self, here: int) -> bytes:
        """What goes to ``here``, for the shim to call as the real function."""
        there = here + len(self.code)
        return self.code + jump(there, self.address + len(self.code))


def jump(here: int, target: int) -> bytes:
    """``jmp target``, at ``here``."""
    return _JUMP + (target - (here + _JUMP_SIZE)).to_bytes(4, "little", signed=True)


def redirects(link: Link, reach: int) -> Iterator[Redirect]:
    """The functions to redirect: system calls from which the address ``reach`` is in reach."""
    if not any(_imports(dso, _OPENERS) for dso in link.objects):
        return
    for dso in link.objects:
        if abs(reach - dso.start) >= 1 << 30 or abs(reach - dso.end) >= 1 << 30:
            continue
        symbols = dso.file.symbols
        for name in FUNCTIONS:
            rows = np.flatnonzero(
                (dso.file.name_hashes == np.uint64(name_hash(name.encode())))
                & (symbols["st_shndx"] != SHN.UNDEF)
                & (symbols["st_info"] & 15 == STT.FUNC)
            )
            for vaddr in {int(symbols["st_value"][row]) for row in rows}:
                entry = _entry(dso, vaddr)
                if entry is not None:
                    at = dso.bias + vaddr + entry.start(1)
                    yield Redirect(name, at, entry[1])


def _imports(dso: Dso, names: Sequence[str]) -> bool:
    hashes = np.array(sorted(name_hash(name.encode()) for name in names), np.uint64)
    undefined = np.flatnonzero(dso.file.symbols["st_shndx"] == SHN.UNDEF)
    return bool(among(dso.file.name_hashes[undefined], hashes).any())


def _entry(dso: Dso, vaddr: int) -> re.Match[bytes] | None:
    try:
        return _ENTRY.match(dso.file.read(vaddr, 16).tobytes())
    except LinkError:
        return None


def rewrite(
    files: list[MapFile], pages: list[Pages], code: Sequence[tuple[int, bytes]], link: Link
) -> tuple[list[MapFile], list[Pages]]:
    """``files`` and ``pages`` with new code at run-time addresses.

    A page of a mapped file becomes one of the image's own.
    """
    for address, new in code:
        start, end = page_down(address), page_up(address + len(new))
        if not any(p.address <= start and end <= p.end for p in pages):
            files, taken = _take(files, start, end, link)
            pages = [*pages, *taken]
        for region in pages:
            if region.address <= start and end <= region.end:
                at = address - region.address
                region.content[at : at + len(new)] = np.frombuffer(new, np.uint8)
    return files, pages


def _take(
    files: list[MapFile], start: int, end: int, link: Link
) -> tuple[list[MapFile], list[Pages]]:
    """Cut [start, end) out of the segment that it lies in, as private pages."""
    kept: list[MapFile] = []
    taken: list[Pages] = []
    for file in files:
        parts: list[Segment] = []
        for segment in file.segments:
            stop = segment.address + page_up(segment.length)
            if not segment.address <= start < end <= stop:
                parts.append(segment)
                continue
            before, after = start - segment.address, end - segment.address
            data = next(d for d in link.objects if d.identity == file.identity).file.data
            part = data[segment.offset + before : segment.offset + after]
            content = np.zeros(end - start, np.uint8)
            content[: len(part)] = part
            taken.append(Pages(start, content, segment.protection))
            if before:
                parts.append(replace(segment, length=before))
            if segment.length > after:
                parts.append(
                    Segment(end, segment.length - after, segment.offset + after, segment.protection)
                )
        kept.append(replace(file, segments=tuple(parts)))
    return kept, taken
