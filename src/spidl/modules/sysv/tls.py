"""Post-load: each object with PT_TLS gets its module id and its place in the static block.

Variant II of the TLS ABI (psABI 3.4.6): blocks lie below the thread pointer.  The packing is
that of glibc's _dl_determine_tlsoffset (elf/dl-tls.c), which fills gaps that alignment leaves;
code with TPOFF relocations only works if both agree, and every adopted link checks it.
"""

from __future__ import annotations

from spidl.api import Link, TlsBlock, loading_order


def place_tls(link: Link) -> None:
    """Number the TLS segments in load order and place them."""
    offset = gap_top = gap_bottom = 0
    module = 0
    for dso in loading_order(link.objects):
        tls = dso.file.tls
        if tls is None:
            continue
        module += 1
        first = -(tls.vaddr & (tls.align - 1)) & (tls.align - 1)
        if gap_bottom - gap_top >= tls.memsz:
            at = _round_up(gap_top + tls.memsz - first, tls.align) + first
            if at <= gap_bottom:
                gap_top = at
                dso.tls = TlsBlock(module, at)
                continue
        at = _round_up(offset + tls.memsz - first, tls.align) + first
        if at > offset + tls.memsz + (gap_bottom - gap_top):
            gap_top, gap_bottom = offset, at - tls.memsz
        offset = at
        dso.tls = TlsBlock(module, at)


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) & -align
