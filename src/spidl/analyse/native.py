"""The fast half of the sweep over machine code, in C (decode/sweep.c).

It knows instructions by a table that iced-x86 filled, and leaves every function with anything else
to iced.  Where the library is not built, iced does all, and finds the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spidl.analyse.layout import Column, Text

FALLS, RETURNS, ENDS, UNSURE = range(4)
"""How a function ends: what its last instruction does continues behind it; with a call; otherwise;
not known yet."""
SYSCALL, INTERRUPT = 16, 17
"""Kinds of rows that are no references: `syscall`, `int 0x80`."""
_ROOM: Final = 1 << 20
"""Rows that are taken at a time."""
_LIBRARY: Final = Path(__file__).parent.parent / "bin" / "sweep.so"

Rows = tuple[Column, Column, npt.NDArray[np.int8]]
"""Source, target and kind of what functions refer to."""
Marks = npt.NDArray[np.bool_]
"""For each byte of a text whether an instruction begins there."""


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(_LIBRARY))
    except OSError:
        return None
    library.spidl_sweep.restype = ctypes.c_int64
    library.spidl_sweep_prepare()
    return library


def is_built() -> bool:
    """Whether there is a fast half."""
    return _library() is not None


def sweep_fast(
    text: Text, starts: Column, ends: Column, marks: Marks, finals: npt.NDArray[np.uint8]
) -> Iterator[Rows]:
    """What functions [start, end) refer to, in batches; nothing where the library is not built.

    Instructions are noted in ``marks``, ends of functions in ``finals``, where `UNSURE` means that
    a function is left out.
    """
    library = _library()
    if library is None or not len(starts):
        return
    room = max(_ROOM, int((ends - starts).max()) // 2 + 1)
    data = np.ascontiguousarray(text.data)
    starts, ends = (np.ascontiguousarray(column, dtype=np.int64) for column in (starts, ends))
    sources, targets = np.empty(room, np.int64), np.empty(room, np.int64)
    kinds = np.empty(room, np.int8)
    found = ctypes.c_int64()
    first = 0
    while first < len(starts):
        first = library.spidl_sweep(
            _at(data), ctypes.c_int64(text.vaddr), _at(starts), _at(ends), ctypes.c_int64(first),
            ctypes.c_int64(len(starts)), ctypes.c_int64(room), _at(marks), _at(finals),
            _at(sources), _at(targets), _at(kinds), ctypes.byref(found),
        )  # fmt: skip
        count = found.value
        yield sources[:count].copy(), targets[:count].copy(), kinds[:count].copy()


def _at(column: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(column.ctypes.data)
