"""Telling ld.so where the program lies, so that a later dlopen("$ORIGIN/...") works.

The program's link_map has no l_origin until it is asked for; then ld.so reads /proc/self/exe, which
names the image.  The field's offset differs between builds: it is found by looking at the libraries'
link_maps, which hold a pointer to their own folder's name there.
"""

from __future__ import annotations

import os

import numpy as np

from spidl.elf import STT
from spidl.link.link import Link
from spidl.link.memory import Memory
from spidl.link.runtime import Runtime

_MAP_SIZE = 1408
"""Bytes of struct link_map to look at; it grew from 1120 to 1200 over glibc 2.31 to 2.41."""


def find_debug(runtime: Runtime) -> int:
    """The run-time address of _r_debug, 0 if the linker has none."""
    return find_symbol(runtime, b"_r_debug") or find_symbol(runtime, b"_dl_debug_addr")


def find_symbol(runtime: Runtime, name: bytes) -> int:
    """The run-time address of one of the linker's exported objects or functions, else 0."""
    file = runtime.linker.file
    for index in np.flatnonzero(file.symbols["st_value"] != 0):
        symbol = file.symbols[int(index)]
        if symbol["st_info"] & 15 != STT.TLS and file.symbol_name(int(index)).encode() == name:
            return runtime.linker.symbol_address(int(index))
    return 0


def link_maps(memory: Memory, debug: int) -> list[tuple[int, str]]:
    """(address, l_name) of each link_map in the debugger's list (struct r_debug, <link.h>)."""
    found: list[tuple[int, str]] = []
    at = _word(memory, debug + 8)
    while at and len(found) < 100_000:
        found.append((at, _string(memory, _word(memory, at + 8))))
        at = _word(memory, at + 24)
    return found


def origin_field(memory: Memory, debug: int) -> int | None:
    """The address of the program's l_origin, None where this build does not show it."""
    maps = link_maps(memory, debug)
    candidates: set[int] | None = None
    for at, name in maps[1:]:
        if not name.startswith("/"):
            continue
        folder = os.path.dirname(name)
        here = set()
        for offset in range(40, _MAP_SIZE, 8):
            try:
                if _string(memory, _word(memory, at + offset)) == folder:
                    here.add(offset)
            except LookupError:
                break
        if here:
            candidates = here if candidates is None else candidates & here
    if not maps or candidates is None or len(candidates) != 1:
        return None
    field = maps[0][0] + candidates.pop()
    return field if _word(memory, field) == 0 else None


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
