"""Telling ld.so where the program lies, so that a later dlopen("$ORIGIN/...") works.

The program's link_map has no l_origin until it is asked for; then ld.so reads /proc/self/exe,
which names the image.  The field's offset differs between builds: it is found by looking at the
libraries' link_maps, which hold a pointer to their own folder's name there.
"""

from __future__ import annotations

import os

import numpy as np

from spidl.elf import DT
from spidl.link.link import Link
from spidl.link.memory import U64, Memory
from spidl.targets.exec.area import Area
from spidl.targets.exec.maps import SIZE


def find_debug(link: Link, memory: Memory) -> int:
    """The run-time address of struct r_debug: what the linker put into DT_DEBUG, 0 if nothing."""
    root = link.root
    if root.file.dynamic_vaddr is None:
        return 0
    for index in np.flatnonzero(root.file.dynamic["d_tag"] == DT.DEBUG):
        return _word(memory, root.bias + root.file.dynamic_vaddr + 16 * int(index) + 8)
    return 0


def link_maps(memory: Memory, debug: int) -> list[tuple[int, str]]:
    """(address, l_name) of each link_map in the debugger's list (struct r_debug, <link.h>)."""
    found: list[tuple[int, str]] = []
    at = _word(memory, debug + 8)
    while at and len(found) < 100_000:
        found.append((at, _string(memory, _word(memory, at + 8))))
        at = _word(memory, at + 24)
    return found


def tell_origin(link: Link, memory: Memory, area: Area) -> int | None:
    """Write the program's l_origin; gives its offset in a link_map, if this build shows it."""
    debug = find_debug(link, memory)
    field = origin_field(memory, debug) if debug else None
    if field is None:
        return None
    program = link_maps(memory, debug)[0][0]
    if _word(memory, program + field) == 0:
        folder = os.path.dirname(os.path.realpath(link.root.path))
        at = area.add(folder.encode(errors="surrogateescape") + b"\0")
        memory.write_words(np.array([program + field], np.uint64), np.array([at], np.uint64))
    return field


def origin_field(memory: Memory, debug: int) -> int | None:
    """The offset of l_origin in a link_map, None where this build does not show it."""
    maps = link_maps(memory, debug)
    named = [(at, os.path.dirname(name)) for at, name in maps[1:] if name.startswith("/")]
    starts = np.array([at for at, _ in named], np.uint64)
    offsets = np.arange(40, SIZE, 8, dtype=np.uint64)
    fields: U64 = np.add.outer(starts, offsets).reshape(-1)
    pointers = np.zeros(len(fields), np.uint64)
    inside = memory.holds(fields)
    pointers[inside] = memory.read_words(fields[inside])
    # Most words are no pointers to strings, and most strings are no paths.
    rows = np.flatnonzero(memory.holds(pointers, 1))
    rows = rows[memory.read_words(pointers[rows], 1) == ord("/")]
    here: dict[int, set[int]] = {}
    for row in rows.tolist():
        at, folder = named[row // len(offsets)]
        if _string(memory, int(pointers[row])) == folder:
            here.setdefault(at, set()).add(int(fields[row]) - at)
    candidates = set.intersection(*here.values()) if here else set()
    if len(candidates) != 1:
        return None
    return candidates.pop()


def _word(memory: Memory, address: int) -> int:
    return int(memory.read_words(np.array([address], np.uint64))[0])


def _string(memory: Memory, address: int) -> str:
    """The string at an address of private memory, "" where there is none."""
    try:
        text = memory.read_bytes(address, 1)
        size = 64
        while 0 not in text and size <= 4096:
            text = memory.read_bytes(address, size)
            size *= 2
    except LookupError:
        text = _up_to_end(memory, address)
    return text.tobytes().partition(b"\0")[0].decode(errors="surrogateescape")


def _up_to_end(memory: Memory, address: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    for start, data in memory.blocks:
        if start <= address < start + len(data):
            return data[address - start :]
    return np.zeros(0, np.uint8)
