"""What our passes wrote against what the run-time linker wrote: every link is its own test."""

from __future__ import annotations

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf import DT
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.memory import U64, Memory, among
from spidl.link.space import CopyRun, Write


def compare(link: Link, linker: Dso, theirs: Memory, *, slots_bound: bool) -> None:
    """Raise `LinkError` ``adopt/differs`` for a word on which we and ld.so disagree.

    A word that a module answers for may differ.  The linker's own words are left out, since it goes
    on writing to them, and those of objects in other namespaces, which it does not relocate.
    Without ``slots_bound`` (a PLT symbol is undefined, so that no run with LD_BIND_NOW gets
    through) PLT slots hold their lazy value there and are left out too.
    """
    skip = _rewritten(link)
    others = (linker, *link.apart)
    apart = {dso.label for dso in others}
    agreed = _agree(link, apart, theirs, skip, slots_bound=slots_bound)
    for write in link.space.writes:
        if isinstance(write, CopyRun):
            if write.origin and not any(d.start <= write.origin < d.end for d in others):
                _compare_copy(write, theirs)
            continue
        if agreed or write.by.dso in apart:
            continue
        if write.table == "DT_JMPREL" and not slots_bound:
            continue
        checked = np.flatnonzero(write.owner < 0)
        if len(skip):
            checked = checked[~among(write.addresses[checked], skip)]
        checked = checked[theirs.holds(write.addresses[checked], write.width)]  # else a module's
        addresses = write.addresses[checked]
        found = theirs.read_words(addresses, write.width)
        mask = np.uint64(2 ** (8 * write.width) - 1)
        ours = write.values[checked] & mask
        different = np.flatnonzero(found != ours)
        if len(different):
            row = int(different[0])
            raise _difference(
                link, write, int(checked[row]), int(addresses[row]), int(ours[row]),
                int(found[row]), len(different),
            )  # fmt: skip


def _agree(link: Link, apart: set[str], theirs: Memory, skip: U64, *, slots_bound: bool) -> bool:
    """Whether no word differs, asked about all at once; False may also mean: look at each."""
    writes = [
        write
        for write in link.space.writes
        if isinstance(write, Write)
        and write.by.dso not in apart
        and (slots_bound or write.table != "DT_JMPREL")
    ]
    if any(write.width != 8 for write in writes):
        return False
    if not writes:
        return True
    addresses = np.concatenate([write.addresses for write in writes])
    try:
        found = theirs.read_words(addresses)
    except LookupError:
        return False
    found ^= np.concatenate([write.values for write in writes])
    different = np.flatnonzero(found)
    different = different[np.concatenate([write.owner for write in writes])[different] < 0]
    return bool(among(addresses[different], skip).all())


def _rewritten(link: Link) -> U64:
    """Words, in order, that are written more than once.

    They lie inside COPY targets, or ld.so fills them in, as it does DT_DEBUG's.
    """
    words: list[U64] = []
    for write in link.space.writes:
        if isinstance(write, CopyRun):
            end = write.address + len(write.content)
            words.append(np.arange(write.address & -8, end, 8, dtype=np.uint64))
    root = link.root
    if root.file.dynamic_vaddr is not None:
        for i in np.flatnonzero(root.file.dynamic["d_tag"] == DT.DEBUG):
            at = root.bias + root.file.dynamic_vaddr + 16 * int(i) + 8
            words.append(np.array([at], np.uint64))
    return np.sort(np.concatenate(words)) if words else np.zeros(0, np.uint64)


def _compare_copy(copy: CopyRun, theirs: Memory) -> None:
    """A copied object equals ours, or what the original holds by now."""
    size = len(copy.content)
    target = theirs.read_bytes(copy.address, size)
    if np.array_equal(target, copy.content):
        return
    if np.array_equal(target, theirs.read_bytes(copy.origin, size)):
        return
    raise LinkError(
        "adopt/differs",
        f"the object copied to {copy.address:#x} has another content under the system's linker",
        place=Place(copy.by.dso, "COPY"),
        help="please report this program: Spidl does not understand one of its libraries",
    )


def _difference(
    link: Link, write: Write, row: int, address: int, ours: int, theirs: int, count: int
) -> LinkError:
    dso = next(d for d in link.objects if d.label == write.by.dso)
    source = int(write.source[row])
    symbol = "no symbol"
    if source >= 0 and write.table in ("DT_RELA", "DT_JMPREL"):
        table = dso.file.rela if write.table == "DT_RELA" else dso.file.jmprel
        symbol = f"`{dso.file.symbol_name(int(table[source]['r_sym']))}`"
    return LinkError(
        "adopt/differs",
        f"Spidl and the system's linker disagree on {count} words of {dso.name}; the first, for "
        f"{symbol}: {_describe(link, ours)} here, {_describe(link, theirs)} there",
        place=Place(dso.path, write.table, source if source >= 0 else None, address - dso.bias),
        notes=(f"written by {write.by}",),
        help="please report this program: a library is bound by a rule that Spidl does not know",
    )


def _describe(link: Link, value: int) -> str:
    for dso in link.objects:
        if dso.start <= value < dso.end:
            return f"{value:#x} ({dso.name}+{value - dso.bias:#x})"
    return f"{value:#x}"
