"""PT_NOTE segments, the build-id, and the GNU properties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spidl.elf.constants import NT_GNU_BUILD_ID, NT_GNU_PROPERTY_TYPE_0, PT
from spidl.elf.reader import Reader
from spidl.elf.tables import WORD, Table


@dataclass(frozen=True, slots=True)
class Note:
    """One note: its owner's name, its type (meaningful per owner) and its content."""

    name: str
    type: int
    desc: bytes


def read_notes(reader: Reader, phdrs: Table) -> tuple[Note, ...]:
    """All notes of all PT_NOTE segments (gABI, "Note Section").

    Entries are padded to 4 bytes, to 8 in segments aligned so (.note.gnu.property).  Raises
    LinkError ``parse/bad-note`` or ``parse/truncated``.
    """
    notes: list[Note] = []
    total = 0
    for index in np.flatnonzero(phdrs["p_type"] == PT.NOTE).tolist():
        _, _, offset, vaddr, _, size, _, align = phdrs[index].tolist()
        if offset + size > len(reader.data):
            raise reader.error(
                "truncated", "a PT_NOTE segment lies behind the end of the file",
                table="phdrs", index=index, offset=offset,
            )  # fmt: skip
        total += size
        if total > len(reader.data):
            raise reader.error("bad-note", "PT_NOTE segments overlap", table="phdrs", index=index)
        pad = 8 if align == 8 else 4
        at, end = offset, offset + size
        while end - at >= 12:
            name_size, desc_size, kind = reader.data[at : at + 12].view(WORD).tolist()
            name_at = at + 12
            desc_at = name_at + name_size + -(12 + name_size) % pad
            if desc_at + desc_size > end:
                raise reader.error(
                    "bad-note", "a note is longer than its segment", vaddr=vaddr, offset=at
                )
            name = reader.data[name_at : name_at + name_size].tobytes().rstrip(b"\0")
            desc = reader.data[desc_at : desc_at + desc_size].tobytes()
            notes.append(Note(name.decode(errors="surrogateescape"), kind, desc))
            at = desc_at + desc_size + -desc_size % pad
    return tuple(notes)


def find_build_id(notes: tuple[Note, ...]) -> bytes | None:
    """The content of NT_GNU_BUILD_ID."""
    for note in notes:
        if note.name == "GNU" and note.type == NT_GNU_BUILD_ID:
            return note.desc
    return None


def read_properties(reader: Reader, notes: tuple[Note, ...]) -> dict[int, bytes]:
    """The GNU properties, type to data (x86-64 psABI, "Program Property")."""
    properties: dict[int, bytes] = {}
    for note in notes:
        if note.name != "GNU" or note.type != NT_GNU_PROPERTY_TYPE_0:
            continue
        at = 0
        while len(note.desc) - at >= 8:
            kind = int.from_bytes(note.desc[at : at + 4], "little")
            size = int.from_bytes(note.desc[at + 4 : at + 8], "little")
            if at + 8 + size > len(note.desc):
                raise reader.error(
                    "bad-note", "a GNU property is longer than its note", table="PT_NOTE"
                )
            properties[kind] = note.desc[at + 8 : at + 8 + size]
            at += 8 + size + -size % 8
    return properties
