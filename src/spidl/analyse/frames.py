"""Functions as .eh_frame_hdr knows them, and where exceptions land (LSB, "Exception Frames").

Everything here only adds functions and edges: bytes that make no sense are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from spidl.analyse.layout import Column, Layout
from spidl.elf import PT
from spidl.elf.segments import find_phdr
from spidl.elf.tables import Bytes

_EMPTY: Column = np.zeros(0, dtype=np.int64)
_ABSENT: Final = 0xFF
_SIZES = {0x00: 8, 0x02: 2, 0x03: 4, 0x04: 8, 0x0A: 2, 0x0B: 4, 0x0C: 8}
"""DW_EH_PE format to bytes; the others are of variable length."""
_SIGRETURN: Final = int.from_bytes(b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f", "little")
"""`mov $15, %rax` and the first byte of `syscall`."""
_PCREL, _INDIRECT = 0x10, 0x80


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """What the frame tables say; all columns virtual addresses."""

    starts: Column
    """First bytes of the FDEs' ranges, ascending."""
    ends: Column
    found: bool
    """Whether there is a table at all."""
    personalities: Column
    """Personality routines that CIEs name directly."""
    lands: tuple[Column, Column]
    """Pairs: start of the function that is unwound, landing pad."""


@dataclass(frozen=True, slots=True)
class _Cie:
    """What of a CIE is needed to read its FDEs."""

    pointers: int
    """DW_EH_PE of addresses, `_ABSENT` where they cannot be read."""
    lsda: int
    personality: int | None
    signal: bool = False
    """Of a signal's frame: glibc's begin a byte early (sigaction.c), for unwinders that look up
    the byte before a return address."""


def read_frames(layout: Layout) -> Frames:
    """The FDEs behind PT_GNU_EH_FRAME's sorted table."""
    nothing = Frames(_EMPTY, _EMPTY, False, _EMPTY, (_EMPTY, _EMPTY))
    phdr = find_phdr(layout.file.phdrs, PT.GNU_EH_FRAME)
    if phdr is None:
        return nothing
    head = layout.halves_at(phdr.vaddr + np.array([0, 4, 8], dtype=np.int64))
    version, pointer, count, table = (int(head[0]) >> at & 0xFF for at in (0, 8, 16, 24))
    # Every linker writes this form; ld.so's unwinder searches other forms without a table too.
    if version != 1 or count != 0x03 or table != 0x3B or _SIZES.get(pointer & 0xF) != 4:
        return nothing
    entries = int(head[2])
    if not 0 < entries <= len(layout.file.data) // 8:
        return nothing
    at = phdr.vaddr + 12 + 8 * np.arange(entries, dtype=np.int64)
    starts = phdr.vaddr + layout.halves_at(at)
    fdes = phdr.vaddr + layout.halves_at(at + 4)
    fine = layout.in_text(starts)
    starts, fdes = starts[fine], fdes[fine]
    order = np.argsort(starts, kind="stable")
    return _read_fdes(layout, starts[order], fdes[order])


def _read_fdes(layout: Layout, starts: Column, fdes: Column) -> Frames:
    heads = fdes + 4 - layout.halves_at(fdes + 4)
    unique, which = np.unique(heads, return_inverse=True)
    cies = [_read_cie(layout, vaddr) for vaddr in unique.tolist()]
    sizes = np.array([_SIZES.get(cie.pointers & 0xF, 4) for cie in cies], dtype=np.int64)[which]
    lengths = layout.halves_at(fdes + 8 + sizes) & 0xFFFFFFFF
    wide = np.flatnonzero(sizes == 8)
    lengths[wide] = layout.words_at(fdes[wide] + 16)
    lengths = np.where((lengths > 0) & (lengths < 1 << 40), lengths, 1)
    early = np.flatnonzero(np.array([cie.signal for cie in cies], dtype=np.bool_)[which])
    early = early[layout.words_at(starts[early] + 1) == _SIGRETURN]
    starts = starts.copy()
    starts[early] += 1
    lengths[early] -= 1
    personalities = [cie.personality for cie in cies if cie.personality is not None]
    kinds = np.array([cie.lsda for cie in cies], dtype=np.int64)[which]
    has = np.flatnonzero((kinds != _ABSENT) & (kinds & _INDIRECT == 0))
    lands = _EMPTY, _EMPTY
    if len(has):
        # Behind the range comes the length of the augmentation data, then the pointer.
        at = fdes[has] + 8 + 2 * sizes[has] + 1
        lsdas = _pointers_at(layout, at, kinds[has])
        real = lsdas > 0
        lands = _landing_pads(layout, lsdas[real], starts[has][real])
    return Frames(
        starts, starts + lengths, True, np.array(personalities, dtype=np.int64), lands
    )  # fmt: skip


def _pointers_at(layout: Layout, at: Column, kinds: Column) -> Column:
    """Encoded pointers that are relative to themselves or absolute; 0 for none."""
    wide = np.isin(kinds & 0xF, (0x00, 0x04, 0x0C))
    values = np.where(wide, layout.words_at(at), layout.halves_at(at))
    relative = kinds & 0x70 == _PCREL
    return np.where((values == 0) | (values >= 1 << 48), 0, np.where(relative, values + at, values))


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return value, at


def _read_cie(layout: Layout, vaddr: int) -> _Cie:
    """One CIE (LSB 10.6.1.1.1); unreadable ones name neither LSDA nor personality."""
    size = min(layout.file.reader.backed(vaddr), 256)
    try:
        data = bytes(layout.file.read(vaddr, size))
        end = data.index(0, 9)
        letters = data[9:end].decode("ascii")
        at = end + 1
        if "eh" in letters:
            at += 8
        _, at = _uleb(data, at)
        _, at = _uleb(data, at)
        _, at = _uleb(data, at) if data[8] > 1 else (0, at + 1)
        pointers, lsda, personality = 0, _ABSENT, None
        if letters.startswith("z"):
            _, at = _uleb(data, at)
            for letter in letters[1:]:
                if letter == "R":
                    pointers, at = data[at], at + 1
                elif letter == "L":
                    lsda, at = data[at], at + 1
                elif letter == "P":
                    kind, at = data[at], at + 1
                    size = _SIZES[kind & 0xF]
                    value = int.from_bytes(data[at : at + size], "little", signed=True)
                    if not kind & _INDIRECT:
                        personality = value + (vaddr + at if kind & 0x70 == _PCREL else 0)
                    at += size
        return _Cie(pointers, lsda, personality, "S" in letters)
    except (IndexError, ValueError, KeyError):
        return _Cie(0x1B, _ABSENT, None)


class _Cursors:
    """Places in the file's bytes that are read side by side."""

    def __init__(self, data: Bytes, at: Column) -> None:
        self.data = data
        self.at = at

    def byte(self) -> Column:
        """A byte from each, 0 behind the end."""
        inside = self.at < len(self.data)
        found = np.where(inside, self.data[np.where(inside, self.at, 0)], 0).astype(np.int64)
        self.at = self.at + 1
        return found

    def uleb(self) -> Column:
        """A number in unsigned LEB128 from each, its low 63 bits."""
        value = np.zeros(len(self.at), dtype=np.int64)
        more = np.arange(len(self.at))
        for shift in range(0, 63, 7):
            inside = self.at[more] < len(self.data)
            found = np.where(inside, self.data[np.where(inside, self.at[more], 0)], 0)
            value[more] |= (found.astype(np.int64) & 0x7F) << shift
            self.at[more] += 1
            more = more[found >= 0x80]
            if not len(more):
                break
        return value

    def fixed(self, size: int) -> Column:
        """An unsigned number of so many bytes from each."""
        value = np.zeros(len(self.at), dtype=np.int64)
        for at in range(min(size, 7)):
            value |= self.byte() << 8 * at
        self.at = self.at + (size - min(size, 7))
        return value


def _landing_pads(layout: Layout, lsdas: Column, starts: Column) -> tuple[Column, Column]:
    """(function, landing pad) of every call-site table (Itanium C++ ABI, exception tables; the
    layout is GCC's: libgcc's unwind-c++ parse_lsda_header)."""
    offsets = np.full(len(lsdas), -1, dtype=np.int64)
    for load in layout.file.loads:
        inside = (lsdas >= load.vaddr) & (lsdas < load.vaddr + load.filesz)
        offsets[inside] = lsdas[inside] - load.vaddr + load.offset
    starts, lsdas, offsets = (column[offsets >= 0] for column in (starts, lsdas, offsets))
    cursors = _Cursors(layout.file.data, offsets.copy())
    kinds = cursors.byte()
    bases = starts.copy()
    for kind in np.unique(kinds[kinds != _ABSENT]).tolist():
        rows = np.flatnonzero(kinds == kind)
        part = _Cursors(layout.file.data, cursors.at[rows])
        here = lsdas[rows] + 1
        value = part.uleb() if kind & 0xF == 0x01 else part.fixed(_SIZES.get(kind & 0xF, 8))
        if kind & 0x70 == _PCREL:
            signed = value - (1 << 32) * ((value >> 31) & 1) if kind & 0xF == 0x0B else value
            value = signed + here
        bases[rows] = value
        cursors.at[rows] = part.at
    types = cursors.byte()
    typed = np.flatnonzero(types != _ABSENT)
    part = _Cursors(layout.file.data, cursors.at[typed])
    part.uleb()
    cursors.at[typed] = part.at
    encodings = cursors.byte()
    lengths = cursors.uleb()
    ends = cursors.at + np.minimum(lengths, len(layout.file.data))
    from_: list[Column] = [_EMPTY]
    to: list[Column] = [_EMPTY]
    for encoding in np.unique(encodings).tolist():
        rows = np.flatnonzero(encodings == encoding)
        size = _SIZES.get(encoding & 0xF)
        part = _Cursors(layout.file.data, cursors.at[rows])
        while len(rows):
            live = part.at < ends[rows]
            rows, part.at = rows[live], part.at[live]
            if size is None:
                part.uleb(), part.uleb()
                pads = part.uleb()
            else:
                part.at = part.at + 2 * size
                pads = part.fixed(size)
            part.uleb()
            some = pads != 0
            from_.append(starts[rows][some])
            to.append((bases[rows] + pads)[some])
    sources, targets = np.concatenate(from_), np.concatenate(to)
    inside = layout.in_text(targets)
    return sources[inside], targets[inside]
