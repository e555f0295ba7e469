"""Load: an object gets its address and its segments become mappings (gABI, Program Loading)."""

from __future__ import annotations

from spidl.api import (
    ET,
    PAGE,
    Dso,
    Link,
    Mapping,
    Place,
    Placement,
    Protection,
    Refusal,
    page_down,
    page_up,
)

_HUGE = 2 << 20
_PROTECTIONS = {
    flags: Protection((flags >> 2 & 1) | (flags & 2) | (flags & 1) << 2) for flags in range(8)
}
"""PF_* to PROT_*."""
MOST_ZEROES = 1 << 31
"""Bytes without file content in one object: each is looked at, though none is stored."""


def load(dso: Dso, link: Link) -> Placement:
    """Place ``dso``: at its own addresses if it is ET_EXEC, else where there is room.

    Raises `Refusal` ``load/too-big``, ``load/executable-stack``.
    """
    file = dso.file
    start, end = file.span
    zeroes = sum(segment.memsz - segment.filesz for segment in file.loads)
    if zeroes > MOST_ZEROES:
        raise Refusal(
            "load/too-big",
            f"{dso.name} has {zeroes:#x} bytes of zeroed memory",
            place=Place(dso.path, "PT_LOAD"),
            help=f"an image may have {MOST_ZEROES:#x}; it starts the plain way",
        )
    if file.type == ET.EXEC:
        bias = 0
    else:
        align = max(PAGE, *(segment.align for segment in file.loads))
        if any(segment.filesz >= _HUGE for segment in file.loads):
            align = max(align, _HUGE)  # so that large folios of the page cache map in one go
        bias = link.space.allocate(end - start, align) - start
    if dso.identity is not None and file.stack_executable:
        raise Refusal(
            "load/executable-stack",
            f"{dso.name} wants an executable stack",
            place=Place(dso.path, "PT_GNU_STACK"),
            help="clear the mark if the code does not need it: patchelf --clear-execstack",
        )
    mappings = []
    for segment in file.loads:
        protection = _PROTECTIONS[segment.flags]
        first = page_down(segment.vaddr)
        lead = segment.vaddr - first
        writable = bool(int(segment.flags) & 2)
        backed_end = page_up(segment.vaddr + segment.filesz) if segment.filesz else first
        whole_end = page_up(segment.vaddr + segment.memsz)
        if backed_end > first:
            offset = segment.offset - lead
            # A writable segment's last page is cleared behind its file content; a read-only one
            # shows whatever the file holds there.
            filled = lead + segment.filesz if writable else backed_end - first
            content = file.data[offset : offset + filled]
            mappings.append(
                Mapping(
                    bias + first, backed_end - first, protection, link.by,
                    None if dso.identity is None else dso.path,
                    offset, len(content), content,
                )
            )  # fmt: skip
        if whole_end > backed_end:
            mappings.append(Mapping(bias + backed_end, whole_end - backed_end, protection, link.by))
    return Placement(bias, tuple(mappings))
