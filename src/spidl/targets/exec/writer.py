"""A linked image as an ELF file that the kernel runs.

A static ET_EXEC: private pages, boot's code, its action table.  All of it is written in one go:
page-cache folios made piecewise cost a fifth more page faults at start.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError, Place, Refusal
from spidl.elf import DT, DYN, EHDR, ET, PHDR, PT
from spidl.files import write_whole
from spidl.link.actions import Action, Protect, Protection, TableFlag
from spidl.link.image import LinkedImage, Pages
from spidl.link.memory import is_zeros
from spidl.link.space import PAGE, page_up
from spidl.targets.exec.boot import load_boot
from spidl.targets.exec.table import Front, encode

_SHDR = struct.Struct("<IIQQQQIIQQ")
_SHT_STRTAB, _SHT_DYNAMIC = 3, 6
_ZERO_RUN = 16
"""Pages of zeros that are worth a segment of their own (no file content, no page cache)."""
_HUGE = 2 << 20
_MOST_SEGMENTS = 1100
"""The kernel reads at most 64 KiB of program headers (fs/binfmt_elf.c, load_elf_phdrs)."""


@dataclass(frozen=True, slots=True)
class _Segment:
    address: int
    content: npt.NDArray[np.uint8] | bytes
    size: int
    flags: int


def encode_image(image: LinkedImage, front: Front | None = None) -> bytearray:
    """The file's bytes; ``front`` is asked at a start that does not fit.

    Raises `Refusal` ``exec/too-many-segments``.
    """
    boot = load_boot()
    code_at = image.boot
    spans = _spans(image)
    segments, protects = fewer(_segments(image.pages), _MOST_SEGMENTS - 6)
    actions: list[Action] = [*image.checks, *image.files, *protects, *image.actions]
    table = encode(
        actions,
        program=image.program.encode(errors="surrogateescape"),
        spans=spans,
        flags=TableFlag.POLICY if image.policy else TableFlag(0),
        front=front,
    )
    segments.append(_Segment(code_at, boot.code, len(boot.code), 5))
    table_at = code_at + boot.table
    table = table.ljust(page_up(len(table)), b"\0")
    segments.append(_Segment(table_at, table, len(table), 4))
    header_at = table_at + len(table) + PAGE
    count = len(segments) + 3
    if count > _MOST_SEGMENTS:
        raise Refusal(
            "exec/too-many-segments",
            f"{image.program} needs {count} segments, the kernel reads {_MOST_SEGMENTS}",
            place=Place(image.program),
            help="it has too many libraries for one image; it starts the plain way",
        )
    return _lay_out(segments, header_at, count, code_at + boot.entry, image.debug)


def _segments(pages: tuple[Pages, ...]) -> list[_Segment]:
    """Private pages as segments; long runs of zero pages become segments without content."""
    segments = []
    for region in sorted(pages, key=lambda p: p.address):
        flags = _flags(region.protection)
        for start, end, zero in zero_runs(region.content):
            content = b"" if zero else region.content[start:end]
            segments.append(_Segment(region.address + start, content, end - start, flags))
    return segments


def fewer(segments: list[_Segment], most: int) -> tuple[list[_Segment], list[Action]]:
    """At most so many segments: neighbours are joined, and boot divides their permissions again.

    Short runs of zeros join the content before them first, which costs file size only; then
    neighbours of different permission, each at the price of one mprotect.
    """
    groups = [[segment] for segment in segments]
    for across_permissions in (False, True):
        surplus = len(groups) - most
        joined: list[list[_Segment]] = []
        for group in groups:
            if surplus > 0 and joined and _joins(joined[-1][-1], group[0], across_permissions):
                joined[-1] += group
                surplus -= 1
            else:
                joined.append(group)
        groups = joined
    whole, protects = [], []
    for group in groups:
        flags = next((part.flags for part in group if part.flags & 2), group[0].flags)
        whole.append(_joined(group, flags))
        protects += [
            Protect(part.address, part.size, _protection(part.flags))
            for part in group
            if part.flags != flags
        ]
    return whole, list[Action](protects)


def _joins(before: _Segment, after: _Segment, across_permissions: bool) -> bool:
    if before.address + before.size != after.address:
        return False
    small = before.size + after.size <= 1 << 16 or bool(len(before.content) and len(after.content))
    return small and (across_permissions or before.flags == after.flags)


def _joined(group: list[_Segment], flags: int) -> _Segment:
    first, last = group[0], group[-1]
    if len(group) == 1:
        return first
    content = np.zeros(last.address + last.size - first.address, np.uint8)
    for part in group:
        at = part.address - first.address
        content[at : at + len(part.content)] = np.frombuffer(part.content, np.uint8)
    return _Segment(first.address, content, len(content), flags)


def zero_runs(content: npt.NDArray[np.uint8]) -> list[tuple[int, int, bool]]:
    """(start, end, all zero) in bytes: content split at long or trailing runs of zero pages."""
    if not len(content):
        return []
    if is_zeros(content):
        return [(0, len(content), True)]
    words = content.view(np.uint64).reshape(-1, PAGE // 8)
    full = np.flatnonzero(words.any(axis=1))
    if not len(full):
        return [(0, len(content), True)]
    runs: list[tuple[int, int, bool]] = []
    breaks = np.flatnonzero(np.diff(full) > _ZERO_RUN)
    starts = np.concatenate([full[:1], full[breaks + 1]])
    ends = np.concatenate([full[breaks], full[-1:]]) + 1
    at = 0
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if i == 0 and start <= _ZERO_RUN:
            start = 0
        if start > at:
            runs.append((at * PAGE, start * PAGE, True))
        runs.append((start * PAGE, end * PAGE, False))
        at = end
    if at * PAGE < len(content):
        runs.append((at * PAGE, len(content), True))
    return runs


def _lay_out(
    segments: list[_Segment], header_at: int, count: int, entry: int, debug: int
) -> bytearray:
    """Headers first, then each segment's content on page boundaries; at most ``count`` headers."""
    dynamic = np.zeros(2, DYN)
    dynamic[0] = (DT.DEBUG, debug)
    dynamic_at = (EHDR.itemsize + count * PHDR.itemsize + 15) & -16
    where = header_at + dynamic_at
    sections = _sections(dynamic_at, where, dynamic.nbytes)
    first_page = page_up(dynamic_at + dynamic.nbytes + len(sections))
    at = first_page
    rows: list[list[int]] = []
    chunks: list[tuple[int, npt.NDArray[np.uint8] | bytes]] = []
    for segment in segments:
        size = len(segment.content)
        if size >= _HUGE and not segment.flags & 2:
            # Congruent with its address: large folios of the page cache map in one go.
            at += (segment.address - at) % _HUGE
        if size:
            chunks.append((at, segment.content))
        last = rows[-1] if rows else None
        if last and size and last[2:4] == [at - last[5], segment.address - last[6]] \
                and last[1] == segment.flags and last[5] == last[6]:  # fmt: skip
            last[5:7] = [last[5] + size, last[6] + segment.size]
        else:
            rows.append([PT.LOAD, segment.flags, at if size else 0, segment.address,
                         segment.address, size, segment.size, PAGE])  # fmt: skip
        at += page_up(size)
    rows += [
        [PT.LOAD, 4, 0, header_at, header_at, first_page, first_page, PAGE],
        [PT.DYNAMIC, 4, dynamic_at, where, where, dynamic.nbytes, dynamic.nbytes, 8],
        [PT.GNU_STACK, 6, 0, 0, 0, 0, 0, 16],
    ]
    phdrs = np.array([tuple(row) for row in rows], PHDR)
    headers_size = EHDR.itemsize + phdrs.nbytes
    count = len(phdrs)
    ehdr = np.zeros(1, EHDR)
    ehdr["e_ident"] = np.frombuffer(b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), np.uint8)
    for name, value in (
        ("e_type", ET.EXEC), ("e_machine", 62), ("e_version", 1), ("e_entry", entry),
        ("e_phoff", EHDR.itemsize), ("e_ehsize", EHDR.itemsize), ("e_phentsize", PHDR.itemsize),
        ("e_phnum", count), ("e_shentsize", _SHDR.size), ("e_shnum", 3), ("e_shstrndx", 2),
        ("e_shoff", dynamic_at + dynamic.nbytes),
    ):  # fmt: skip
        ehdr[name] = value
    output = bytearray(at)
    output[: EHDR.itemsize] = ehdr.tobytes()
    output[EHDR.itemsize : headers_size] = phdrs.tobytes()
    output[dynamic_at : dynamic_at + dynamic.nbytes] = dynamic.tobytes()
    sections_at = dynamic_at + dynamic.nbytes
    output[sections_at : sections_at + len(sections)] = sections
    view = memoryview(output)
    for offset, content in chunks:
        view[offset : offset + len(content)] = np.frombuffer(content, np.uint8).data
    return output


def _sections(offset: int, address: int, size: int) -> bytes:
    """Section headers for .dynamic, without which gdb's BFD takes no file that has PT_DYNAMIC."""
    names = b"\0.dynamic\0.shstrtab\0"
    names_at = offset + size + 3 * _SHDR.size
    return b"".join((
        bytes(_SHDR.size),
        _SHDR.pack(1, _SHT_DYNAMIC, 2, address, offset, size, 2, 0, 8, DYN.itemsize),
        _SHDR.pack(10, _SHT_STRTAB, 0, 0, names_at, len(names), 0, 0, 1, 0),
        names,
    ))  # fmt: skip


def _spans(image: LinkedImage) -> list[tuple[int, int]]:
    """What actions may touch: private pages and the addresses of mapped files, joined."""
    ranges = [(pages.address, pages.end) for pages in image.pages]
    for file in image.files:
        ranges += [(s.address, s.address + page_up(s.length)) for s in file.segments]
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _flags(protection: Protection) -> int:
    """PROT_* to PF_*."""
    return (
        (4 if protection & Protection.READ else 0)
        | (2 if protection & Protection.WRITE else 0)
        | (1 if protection & Protection.EXEC else 0)
    )


def _protection(flags: int) -> Protection:
    """PF_* to PROT_*."""
    return Protection((flags >> 2 & 1) | (flags & 2) | (flags & 1) << 2)


def write_image(path: str, content: bytes | bytearray) -> None:
    """Write an image whole or not at all, for its owner only.

    Raises `LinkError` ``exec/cannot-write``.
    """
    try:
        write_whole(path, content, stat.S_IRWXU)
    except OSError as error:
        raise LinkError(
            "exec/cannot-write",
            f"cannot write the image: {error.strerror}",
            place=Place(path),
            help="give a path in a folder that you may write to and that has room",
        ) from None
