"""The binary form of an action table: the records that boot reads, as data.

The encoder packs them with `struct`, ``header.py`` prints them as C.  All numbers are
little-endian; records are laid out so that a C compiler adds no padding, which the generated
header asserts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from struct import Struct

MAGIC = int.from_bytes(b"SPIDLACT", "little")
VERSION = 2
"""The format's version: an image and the boot code in it always agree, this guards the build."""
PAGE = 4096
"""The page size of x86-64, in bytes."""
ADDRESS_END = 1 << 47
"""The end of the user's part of the address space on x86-64 with four-level paging."""

_C_TYPES = {"I": "uint32_t", "Q": "uint64_t", "q": "int64_t"}


@dataclass(frozen=True)
class Record:
    """One C struct: its fields are (name, `struct` code, array length or 0)."""

    name: str
    fields: tuple[tuple[str, str, int], ...]

    @cached_property
    def packer(self) -> Struct:
        return Struct("<" + "".join(f"{length or 1}{code}" for _, code, length in self.fields))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.packer.size

    def offsets(self) -> dict[str, int]:
        """The offset of each field, in bytes."""
        found, at = {}, 0
        for name, code, length in self.fields:
            found[name] = at
            at += Struct(f"<{length or 1}{code}").size
        return found

    def c_fields(self) -> list[str]:
        """The members as C declarations."""
        return [
            f"{_C_TYPES[code]} {name}{f'[{length}]' if length else ''};"
            for name, code, length in self.fields
        ]


HEADER = Record(
    "header",
    (
        ("magic", "Q", 0),
        ("size", "Q", 0),  # of the whole table; its last byte is 0, so every string ends
        ("version", "I", 0),
        ("flags", "I", 0),
        ("program", "I", 0),  # offset of the original program's path
        ("actions", "I", 0),
        ("action_count", "I", 0),
        ("spans", "I", 0),
        ("span_count", "I", 0),
        ("front", "I", 0),  # offset of the path that a failed check executes; 0 for none
        ("stale", "I", 0),  # offset of the variable that tells it what failed
        ("reserved", "I", 0),
    ),
)
ACTION = Record(
    "action",
    (
        ("kind", "I", 0),
        ("what", "I", 0),  # Check, ThreadCall or Protection
        ("value", "Q", 4),
        ("array", "I", 0),  # offset of records that belong to the action
        ("count", "I", 0),
        ("path", "I", 0),
        ("identity", "I", 0),
    ),
)
SPAN = Record("span", (("start", "Q", 0), ("end", "Q", 0)))
IDENTITY = Record(
    "file_identity",
    (
        ("device", "Q", 0),
        ("inode", "Q", 0),
        ("size", "Q", 0),
        ("mtime", "q", 2),  # seconds, nanoseconds
        ("ctime", "q", 2),
    ),
)
SEGMENT = Record(
    "segment",
    (
        ("address", "Q", 0),
        ("length", "Q", 0),
        ("offset", "Q", 0),
        ("protection", "I", 0),
        ("reserved", "I", 0),
    ),
)
WORD = Record(
    "word", (("address", "Q", 0), ("addend", "Q", 0), ("anchor", "I", 0), ("width", "I", 0))
)
CPUID = Record(
    "cpuid", (("leaf", "I", 0), ("subleaf", "I", 0), ("masks", "I", 4), ("values", "I", 4))
)
RANGES = Record("ranges", (("code", "Q", 2), ("data", "Q", 2)))
"""Where the program's code and data start and end, for IDENTITY."""
ORIGIN = Record(
    "origin", (("start", "Q", 0), ("end", "Q", 0), ("name", "I", 0), ("reserved", "I", 0))
)
"""Code and the offset of its object's name, for REPORT."""

OPENING = Record(
    "opening",
    (
        ("names", "I", 0),  # offset of offsets of strings
        ("name_count", "I", 0),
        ("files", "I", 0),
        ("file_count", "I", 0),
        ("openers", "I", 0),  # offset of numbers of origins
        ("opener_count", "I", 0),
    ),
)
OPENED = Record(
    "opened", (("path", "I", 0), ("identity", "I", 0), ("linked", "I", 0), ("reserved", "I", 0))
)
"""A file of an opening; identity 0: nothing may be there."""

RECORDS = (HEADER, ACTION, SPAN, IDENTITY, SEGMENT, WORD, CPUID, RANGES, ORIGIN, OPENING,
           OPENED)  # fmt: skip
