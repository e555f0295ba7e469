"""The dynamic section: PT_DYNAMIC's tags and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spidl.elf.constants import DT
from spidl.elf.reader import Reader
from spidl.elf.tables import DYN, Table


@dataclass(frozen=True, eq=False, slots=True)
class Dynamic:
    """The entries before DT_NULL, and a look-up by tag where the last of several wins, as in
    glibc's elf_get_dynamic_info."""

    reader: Reader
    entries: Table
    values: dict[int, int]

    def get(self, tag: int) -> int | None:
        return self.values.get(tag)

    def all(self, tag: int) -> list[int]:
        """The values of every entry with this tag, in order."""
        values: list[int] = self.entries["d_val"][self.entries["d_tag"] == tag].tolist()
        return values

    def range(self, start: DT, size: DT, unit: int) -> tuple[int, int]:
        """(virtual address, bytes) of a table; (0, 0) without one."""
        vaddr, length = self.get(start), self.get(size)
        if vaddr is None or length == 0:
            return 0, 0
        if length is None or length % unit:
            raise self.reader.error(
                "bad-dynamic",
                f"DT_{start.name} without DT_{size.name}"
                if length is None
                else f"DT_{size.name} is {length}, no multiple of {unit}",
                table="PT_DYNAMIC",
            )
        return vaddr, length


def read_dynamic(reader: Reader, place: tuple[int, int] | None) -> Dynamic:
    """The dynamic section in (virtual address, bytes); an empty one for None.

    Raises LinkError ``parse/bad-dynamic`` where no DT_NULL ends it, ``parse/outside`` where it is
    not in the file.
    """
    if place is None:
        return Dynamic(reader, np.zeros(0, dtype=DYN), {})
    vaddr, size = place
    if not reader.backed(vaddr):
        raise reader.error(
            "outside",
            "the dynamic section is not in the file",
            table="PT_DYNAMIC",
            vaddr=vaddr,
            help="a file of separate debug information has headers only; give the program itself",
        )
    entries = reader.array(vaddr, DYN, size // DYN.itemsize, "PT_DYNAMIC")
    nulls = np.flatnonzero(entries["d_tag"] == DT.NULL)
    if not len(nulls):
        raise reader.error(
            "bad-dynamic", "the dynamic section has no DT_NULL", table="PT_DYNAMIC", vaddr=vaddr
        )
    entries = entries[: int(nulls[0])]
    values = dict(zip(entries["d_tag"].tolist(), entries["d_val"].tolist(), strict=True))
    return Dynamic(reader, entries, values)
