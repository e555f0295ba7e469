"""A summary inside the file that it describes: a note in a section called ``.seccomp``.

No segment holds it, so nothing else about the file changes: not what is mapped, not where.
"""

from __future__ import annotations

import struct

import numpy as np

from spidl.analyse.summary import Summary
from spidl.diagnostics import LinkError, Place
from spidl.elf import EHDR, ElfFile
from spidl.elf.tables import Bytes

SECTION = ".seccomp"
_OWNER = b"Spidl\0"
_TYPE = 1
"""The note's type; of Spidl's notes, the first."""
_SHDR = np.dtype(
    [
        ("sh_name", "<u4"), ("sh_type", "<u4"), ("sh_flags", "<u8"), ("sh_addr", "<u8"),
        ("sh_offset", "<u8"), ("sh_size", "<u8"), ("sh_link", "<u4"), ("sh_info", "<u4"),
        ("sh_addralign", "<u8"), ("sh_entsize", "<u8"),
    ]
)  # fmt: skip
_SHT_STRTAB, _SHT_NOTE = 3, 7


def sections(file: ElfFile) -> tuple[np.ndarray, bytes]:
    """The section headers and the content of their name table; empty where they make no sense.

    Nothing about what a file does depends on them: only notes and names for people are in there.
    """
    nothing = np.zeros(0, dtype=_SHDR), b""
    header = file.data[: EHDR.itemsize].view(EHDR)[0]
    start, count, names = (int(header[key]) for key in ("e_shoff", "e_shnum", "e_shstrndx"))
    end = start + count * _SHDR.itemsize
    if not start or int(header["e_shentsize"]) != _SHDR.itemsize or end > len(file.data):
        return nothing
    table = np.frombuffer(file.data[start:end].tobytes(), _SHDR)
    if names >= count:
        return nothing
    at, size = int(table["sh_offset"][names]), int(table["sh_size"][names])
    if at + size > len(file.data):
        return nothing
    return table, file.data[at : at + size].tobytes()


def _content(file: ElfFile) -> Bytes | None:
    """What the section holds."""
    table, names = sections(file)
    for name, at, size in table[["sh_name", "sh_offset", "sh_size"]].tolist():
        if names[name : name + len(SECTION) + 1] == SECTION.encode() + b"\0":
            return file.data[at : at + size] if at + size <= len(file.data) else None
    return None


def embedded(file: ElfFile) -> Summary | None:
    """The summary in a file; None without one, and where it is damaged or of another version.

    It says whose build-id it is of; the caller compares.
    """
    content = _content(file)
    if content is None or len(content) < 12:
        return None
    name_size, size, kind = content[:12].view("<u4").tolist()
    start = 12 + -(-name_size // 4) * 4
    if kind != _TYPE or content[12 : 12 + name_size].tobytes() != _OWNER:
        return None
    if start + size > len(content):
        return None
    try:
        return Summary.from_bytes(content[start : start + size], file.name)
    except LinkError:
        return None


def embed(file: ElfFile, summary: Summary) -> bytes:
    """The file's bytes with its summary in them, in the place of one that was there.

    Raises LinkError ``analyse/no-build-id`` for a file that the summary could not be told to
    belong to.
    """
    if not file.build_id:
        raise LinkError(
            "analyse/no-build-id",
            "the file has no build-id: nobody could tell that the summary is of this file",
            place=Place(file.name),
            help="link it with -Wl,--build-id",
        )
    packed = summary.to_bytes()
    note = struct.pack("<III", len(_OWNER), len(packed), _TYPE)
    note += _OWNER.ljust(8, b"\0") + packed + b"\0" * (-len(packed) % 4)
    table, names = sections(file)
    if not len(table):
        table, names = np.zeros(2, dtype=_SHDR), b"\0.shstrtab\0"
        table["sh_name"][1], table["sh_type"][1], table["sh_addralign"][1] = 1, _SHT_STRTAB, 1
        index = 1
    else:
        index = int(file.data[: EHDR.itemsize].view(EHDR)["e_shstrndx"][0])
    own = SECTION.encode() + b"\0"
    known = [at for at, name in enumerate(table["sh_name"].tolist())
             if names[name : name + len(own)] == own]  # fmt: skip
    table = np.concatenate([table, np.zeros(0 if known else 1, dtype=_SHDR)])
    row = known[0] if known else len(table) - 1
    content = bytearray(file.data.tobytes())
    content += b"\0" * (-len(content) % 8)
    table[row] = (table["sh_name"][row] if known else len(names), _SHT_NOTE, 0, 0, len(content),
                  len(note), 0, 0, 4, 0)  # fmt: skip
    content += note
    if not known:
        names += own
        table["sh_offset"][index], table["sh_size"][index] = len(content), len(names)
        content += names
    content += b"\0" * (-len(content) % 8)
    header = np.frombuffer(bytes(content[: EHDR.itemsize]), EHDR).copy()
    header["e_shoff"], header["e_shnum"] = len(content), len(table)
    header["e_shstrndx"], header["e_shentsize"] = index, _SHDR.itemsize
    content += table.tobytes()
    content[: EHDR.itemsize] = header.tobytes()
    return bytes(content)
