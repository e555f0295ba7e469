"""Objects of other namespaces as ld.so is shown them: mapped, and otherwise left alone.

ld.so gives such an object its link_map and its thread-local storage, as it does for every other.
What it shall not do is to find it by its soname, load what it needs, bind to it or relocate it:
names and scopes of one namespace would get into another.  So the copy that it sees has no dynamic
entries for that.  `regroup` puts them back into the adopted memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spidl.elf import DT
from spidl.link.dso import Dso
from spidl.link.memory import U8, U64

_IGNORED = 0x6000_5350
"""A tag in the range of the operating system's that nobody knows (gABI, Dynamic Section)."""
_HIDDEN = frozenset(
    int(tag)
    for tag in (
        DT.NEEDED, DT.SONAME, DT.RPATH, DT.RUNPATH, DT.HASH, DT.GNU_HASH, DT.VERNEED,
        DT.VERNEEDNUM, DT.RELA, DT.RELASZ, DT.RELAENT, DT.RELACOUNT, DT.JMPREL, DT.PLTRELSZ,
        DT.PLTREL, DT.RELR, DT.RELRSZ, DT.RELRENT, DT.TEXTREL,
    )
)  # fmt: skip
_POINTERS = frozenset(int(tag) for tag in (DT.HASH, DT.GNU_HASH, DT.JMPREL, DT.RELA))
"""Hidden entries that ld.so moves by the bias (elf_get_dynamic_info, ADJUST_DYN_INFO)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A dynamic entry: its run-time address, its tag, and its value once ld.so has moved it."""

    address: int
    tag: int
    value: int


def hidden_entries(dso: Dso) -> list[Entry]:
    """The entries that ld.so is not shown."""
    vaddr = dso.file.dynamic_vaddr
    if vaddr is None:
        return []
    found = []
    for index, (tag, value) in enumerate(dso.file.dynamic.tolist()):
        if tag in _HIDDEN:
            moved = value + dso.bias if tag in _POINTERS else value
            found.append(Entry(dso.bias + vaddr + 16 * index, tag, moved))
    return found


def hidden_copy(dso: Dso) -> U8:
    """The file's content without them."""
    content = np.array(dso.file.data)
    for entry in hidden_entries(dso):
        offset = dso.file.reader.file_offset(entry.address - dso.bias)
        ignored: U64 = np.array([_IGNORED], "<u8")
        content[offset : offset + 8] = ignored.view(np.uint8)
    return content
