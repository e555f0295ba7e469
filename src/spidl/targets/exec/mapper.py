"""Where the dynamic linker's mappings go: its calls of mmap are rewritten on their way."""

from __future__ import annotations

import dataclasses
import mmap
import os
from bisect import bisect_right
from collections.abc import Sequence

from spidl.diagnostics import LinkError, Place
from spidl.targets.exec import ptrace
from spidl.targets.exec.child import Child
from spidl.targets.exec.snapshot import Placement, Vma

_PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_MAP_FIXED_NOREPLACE = 0x100000
_NO_SYSCALL = 0xFFFFFFFFFFFFFFFF


def _page_up(value: int) -> int:
    return -(-value // _PAGE) * _PAGE


class Mapper:
    """Answers the mmap and munmap calls of one child; ``arena`` is its bump pointer."""

    def __init__(self, child: Child) -> None:
        self._pid = child.pid
        self._plan = child.plan
        self.arena = child.plan.arena
        self.unexpected: list[str] = []
        self._waiting = {
            (library.device, library.inode): library for library in child.plan.libraries
        }
        self._placed: list[Placement] = []
        self._surplus: tuple[int, Placement] | None = None
        """The end of a reservation as the linker knows it, and the library it is for."""

    def place(self, registers: ptrace.Registers) -> None:
        """The child is about to mmap without a fixed address: give it one."""
        length = _page_up(registers[ptrace.RSI])
        library = None
        if registers[ptrace.R10] & mmap.MAP_ANONYMOUS:
            if registers[ptrace.RDX] == _PROT_NONE:
                library = self._reserved()
                if library is not None:
                    self._surplus = (library.start + length, library)
                    registers[ptrace.RSI] = library.length
        else:
            library = self._mapped(registers[ptrace.R8] & 0xFFFFFFFF)
        if library is not None:
            registers[ptrace.RDI] = library.start
        else:
            registers[ptrace.RDI] = self.arena
            self.arena += length
        registers[ptrace.R10] |= _MAP_FIXED_NOREPLACE
        ptrace.set_registers(self._pid, registers)

    def _mapped(self, descriptor: int) -> Placement | None:
        """The library that the descriptor is, if it has a place and is not there yet."""
        path = f"/proc/{self._pid}/fd/{descriptor}"
        try:
            status = os.stat(path)
        except FileNotFoundError:
            # A bad descriptor: the kernel tells the linker.
            return None
        library = self._waiting.pop((status.st_dev, status.st_ino), None)
        if library is not None:
            self._placed.append(library)
        elif _is_elf(path):
            self.unexpected.append(os.readlink(path))
        return library

    def _reserved(self) -> Placement | None:
        """The over-aligned library that an anonymous reservation is for.

        glibc (2.35 and later, _dl_map_segment in elf/dl-map-segments.h) reserves p_align bytes
        more than the library has, maps the library with MAP_FIXED at the first aligned address,
        and unmaps the surplus before and behind.  The reservation here starts at the place itself
        and is not longer than the library, since neighbours may lie where the surplus would be;
        `trim` then keeps the linker from unmapping those.
        """
        if all(library.align <= _PAGE for library in self._waiting.values()):
            return None
        directory = f"/proc/{self._pid}/fd"
        for name in os.listdir(directory):
            status = os.stat(f"{directory}/{name}")
            library = self._waiting.get((status.st_dev, status.st_ino))
            if library is not None and library.align > _PAGE:
                if library.start % library.align:
                    raise LinkError(
                        "adopt/misplaced",
                        f"{library.start:#x} is no multiple of the alignment {library.align:#x}",
                        place=Place(library.path),
                    )
                del self._waiting[library.device, library.inode]
                self._placed.append(library)
                return library
        return None

    def trim(self, registers: ptrace.Registers) -> None:
        """The child is about to munmap: spare what lies behind a shortened reservation."""
        if self._surplus is None:
            return
        end, library = self._surplus
        start, length = registers[ptrace.RDI], _page_up(registers[ptrace.RSI])
        if start + length != end or start < library.start:
            return
        self._surplus = None
        if start < library.end:
            registers[ptrace.RSI] = library.end - start
        else:
            registers[ptrace.ORIG_RAX] = _NO_SYSCALL
            registers[ptrace.RAX] = 0
        ptrace.set_registers(self._pid, registers)

    def identify(self, vmas: Sequence[Vma]) -> list[Vma]:
        """The mappings with device numbers as stat(2) gives them.

        The kernel shows those of the file system, which on btrfs are not those of its subvolumes.
        """
        placements = sorted(self._plan.placements, key=lambda placement: placement.start)
        starts = [placement.start for placement in placements]
        known = {(placement.device, placement.inode) for placement in placements}
        answers = []
        for vma in vmas:
            if vma.inode and (vma.device, vma.inode) not in known:
                owner = placements[bisect_right(starts, vma.start) - 1]
                if owner.start <= vma.start < owner.end and owner.inode == vma.inode:
                    vma = dataclasses.replace(vma, device=owner.device)
            answers.append(vma)
        return answers

    def check(self, vmas: Sequence[Vma]) -> None:
        """Every object that was mapped must be in its place: LinkError ``adopt/misplaced``."""
        found = {(vma.start, vma.device, vma.inode) for vma in vmas if vma.inode}
        own = (self._plan.main, self._plan.interpreter)
        for placement in [*self._placed, *(item for item in own if item is not None)]:
            if (placement.start, placement.device, placement.inode) not in found:
                raise LinkError(
                    "adopt/misplaced",
                    f"the file is not mapped at {placement.start:#x}, where the link wants it",
                    place=Place(placement.path),
                    notes=(f"its alignment is {placement.align:#x}",),
                )


def _is_elf(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False
