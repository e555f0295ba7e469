"""Hashes of symbol names: the ABI's two, and one that numpy computes for a whole table at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from spidl.elf.tables import Bytes

_MASK: Final = (1 << 64) - 1
_RADIX: Final = 0x9E3779B97F4A7C15
_INVERSE: Final = pow(_RADIX, -1, 1 << 64)
_LENGTH: Final = 0xC2B2AE3D27D4EB4F
_CHUNK: Final = 1 << 15
"""Bytes that are weighted at a time; as 64-bit words they fit the second-level cache."""


def sysv_hash(name: bytes) -> int:
    """The hash of DT_HASH and of version names (gABI, "Hash Table")."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value


def gnu_hash(name: bytes) -> int:
    """The hash of DT_GNU_HASH: h * 33 + c from 5381, 32 bits."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def name_hash(name: bytes) -> int:
    """A 64-bit hash of a name: sum of byte * radix**position, mixed with the length.

    The same in every process and for every file, so it may be cached.  It is not collision-proof:
    who finds two equal hashes compares the names.
    """
    value = 0
    for byte in reversed(name):
        value = (value * _RADIX + byte) & _MASK
    return (value + len(name) * _LENGTH) & _MASK


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    """base**0 ... base**(count-1) mod 2**64, by doubling."""
    powers = np.ones(max(count, 1), dtype=np.uint64)
    done = 1
    while done < count:
        step = min(done, count - done)
        np.multiply(powers[:step], np.uint64(pow(base, done, 1 << 64)), out=powers[done:][:step])
        done += step
    return powers


_WEIGHTS: Final = _powers(_RADIX, _CHUNK)
_UNWEIGHTS: Final = _powers(_INVERSE, _CHUNK)


def name_hashes(
    strings: Bytes, starts: npt.NDArray[np.int64], nuls: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """`name_hash` of the strings at many offsets at once.

    ``nuls`` are the offsets of all NULs of the table, ascending; at or behind every start there is
    one.  One pass over the table forms sums of byte * radix**position up to each NUL; a name's hash
    is the difference of two sums divided by radix**start (an odd number has an inverse modulo
    2**64).
    """
    at_end = at_start = np.searchsorted(nuls, starts)
    ends, marks = nuls[at_end], nuls
    inner = np.concatenate([[-1], nuls])[at_end] + 1 != starts
    if inner.any():
        # Linkers let a name that is the tail of another share its bytes: it starts behind no NUL.
        # (np.unique would do, but its first call in a process costs 15 ms.)
        marks = np.sort(np.concatenate([nuls, starts[inner] - 1]))
        marks = marks[np.concatenate([[True], marks[1:] != marks[:-1]])]
        at_end, at_start = np.searchsorted(marks, ends), np.searchsorted(marks, starts)
    sums = _prefix_sums(strings, marks)
    chunk, rest = np.divmod(starts, _CHUNK)
    scales = _powers(pow(_INVERSE, _CHUNK, 1 << 64), len(strings) // _CHUNK + 1)
    hashes: npt.NDArray[np.uint64] = sums[at_end + 1] - sums[at_start]
    hashes *= scales[chunk] * _UNWEIGHTS[rest]
    hashes += (ends - starts).astype(np.uint64) * np.uint64(_LENGTH)
    return hashes


def _prefix_sums(strings: Bytes, marks: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """0, and the weighted sum of the bytes up to and including each mark (ascending, distinct)."""
    sums = np.zeros(len(marks) + 1, dtype=np.uint64)
    buffer = np.empty(_CHUNK + 1, dtype=np.uint64)
    starts = range(0, len(strings), _CHUNK)
    cuts = [*np.searchsorted(marks, starts).tolist(), len(marks)]
    total, scale = 0, 1
    for number, start in enumerate(starts):
        # A chunk at a time stays in cache; the whole table in 64-bit words would not.
        part = strings[start : start + _CHUNK]
        np.multiply(part, _WEIGHTS[: len(part)], out=buffer[: len(part)])
        buffer[len(part)] = 0  # where the last mark of a chunk is its last byte
        first, behind = cuts[number], cuts[number + 1]
        steps = np.zeros(behind - first + 1, dtype=np.int64)
        np.subtract(marks[first:behind], start - 1, out=steps[1:])
        here = np.cumsum(np.add.reduceat(buffer[: len(part) + 1], steps))
        sums[first + 1 : behind + 1] = here[:-1] * np.uint64(scale) + np.uint64(total)
        total = (total + int(here[-1]) * scale) & _MASK
        scale = scale * pow(_RADIX, _CHUNK, 1 << 64) & _MASK
    return sums
