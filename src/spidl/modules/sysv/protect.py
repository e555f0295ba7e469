"""Protect: what was relocated and is constant from then on becomes read-only (PT_GNU_RELRO)."""

from __future__ import annotations

from spidl.api import Dso, Link, Protect, Protection, page_down
from spidl.modules.sysv.relocate import starts_itself


def protect(dso: Dso, link: Link) -> list[Protect]:
    """RELRO in whole pages: both ends round down (glibc's _dl_protect_relro)."""
    if dso.file.relro is None or starts_itself(dso):
        return []
    vaddr, size = dso.file.relro
    start = page_down(dso.bias + vaddr)
    end = page_down(dso.bias + vaddr + size)
    return [Protect(start, end - start, Protection.READ)] if end > start else []
