"""Bytes at virtual addresses, from a file: the one place where ranges are checked."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError, Place
from spidl.elf.constants import PF
from spidl.elf.tables import Bytes

_DAMAGED = "the file is damaged: reinstall the package it belongs to, or build it again"
_ADVICE = {
    "not-elf": "give the path of a program or shared library",
    "wrong-class": "Spidl links 64-bit x86-64 programs; start this one without it",
    "wrong-machine": "Spidl links 64-bit x86-64 programs; start this one without it",
    "wrong-abi": "Spidl links Linux programs; start this one without it",
    "wrong-type": "give the path of a linked program or shared library",
    "rel-unsupported": "build it with a linker that writes DT_RELA, as x86-64 wants it",
}
"""What can be done about an error; about most, only one thing."""


@dataclass(frozen=True, slots=True)
class Load:
    """A PT_LOAD segment: virtual address, file offset and sizes in bytes."""

    vaddr: int
    memsz: int
    offset: int
    filesz: int
    flags: PF
    align: int

    @property
    def end(self) -> int:
        """The virtual address behind the segment's memory."""
        return self.vaddr + self.memsz


@dataclass(frozen=True, eq=False)
class Reader:
    """A file's bytes and its segments."""

    name: str
    data: Bytes
    loads: tuple[Load, ...]

    @cached_property
    def _starts(self) -> list[int]:
        return [load.vaddr for load in self.loads]

    def error(
        self,
        what: str,
        message: str,
        *,
        table: str | None = None,
        index: int | None = None,
        vaddr: int | None = None,
        offset: int | None = None,
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> LinkError:
        """A ``parse/`` error at a place of this file."""
        place = Place(self.name, table, index, vaddr, offset)
        advice = help or _ADVICE.get(what, _DAMAGED)
        return LinkError(f"parse/{what}", message, place=place, notes=notes, help=advice)

    def load_at(self, vaddr: int) -> Load | None:
        """The segment whose memory holds a virtual address."""
        index = bisect_right(self._starts, vaddr) - 1
        if index < 0 or vaddr >= self.loads[index].end:
            return None
        return self.loads[index]

    def backed(self, vaddr: int) -> int:
        """How many bytes from a virtual address to the end of its segment come from the file."""
        load = self.load_at(vaddr)
        return 0 if load is None else max(0, load.vaddr + load.filesz - vaddr)

    def file_offset(self, vaddr: int, size: int = 1, table: str | None = None) -> int:
        """The file offset of ``size`` bytes at a virtual address.

        Raises LinkError ``parse/outside`` where they do not all come from one segment's file part.
        """
        load = self.load_at(vaddr)
        if load is None or size < 0 or vaddr + size > load.vaddr + load.filesz:
            raise self.error(
                "outside",
                f"{size} bytes at {vaddr:#x} are not inside the file part of one segment",
                table=table,
                vaddr=vaddr,
            )
        return load.offset + vaddr - load.vaddr

    def read(self, vaddr: int, size: int, table: str | None = None) -> Bytes:
        """File-backed bytes at a virtual address, without copying; errors as `file_offset`."""
        if size == 0:
            return self.data[:0]
        offset = self.file_offset(vaddr, size, table)
        return self.data[offset : offset + size]

    def array(
        self, vaddr: int, dtype: np.dtype[Any], count: int, table: str | None = None
    ) -> npt.NDArray[Any]:
        """``count`` entries of a table at a virtual address; errors as `file_offset`."""
        return self.read(vaddr, count * dtype.itemsize, table).view(dtype)
