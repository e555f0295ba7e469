"""Which system calls a Go program makes by numbers that it hands from function to function.

Go's own calling convention is not C's, so an analysis of C's arguments does not follow a number to
`syscall.Syscall`.  But Go programs carry a table of all their functions with names (the pclntab,
src/internal/abi and src/debug/gosym of Go), stripped or not.  So the callers of the functions that
take a number are found, and the constants that these load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.api import I64, ElfFile

TAKERS = re.compile(
    r"(?:syscall|golang\.org/x/sys/unix|vendor/golang\.org/x/sys/unix|(?:internal/)?runtime/"
    r"(?:internal/)?syscall|internal/syscall/unix|runtime)"
    r"\.(?:Syscall\d*|RawSyscall\d*|SyscallNoError|RawSyscallNoError|rawSyscallNoError"
    r"|rawVforkSyscall|runtime_doAllThreadsSyscall|AllThreadsSyscall6?|doAllThreadsSyscall"
    r"|syscall_RawSyscall6|syscall_syscall6?)(?:\.abi\w+)?$"
)
"""Functions whose first argument is the number (src/syscall/syscall_linux.go and asm files)."""

_MAGICS = {b"\xf1\xff\xff\xff\0\0\x01\x08": 1, b"\xf0\xff\xff\xff\0\0\x01\x08": 1,
           b"\xfa\xff\xff\xff\0\0\x01\x08": 0}  # fmt: skip
"""How tables begin: of Go 1.20, 1.18 (offsets of functions), 1.16 (addresses)."""
_MADE = b"\xff Go buildinf:"
_EXECUTE, _WRITE = 1, 2
_HIGHEST = 512


@dataclass(frozen=True, slots=True)
class _Functions:
    entries: I64
    """Virtual addresses, ascending; the last is the end."""
    takers: I64
    """Rows of the functions in `TAKERS`."""


def numbers(file: ElfFile) -> Mapping[str, npt.NDArray[Any]]:
    """``number``: what callers of `TAKERS` may name, ascending; empty for a file not made by Go."""
    found: set[int] = set()
    functions = _functions(file)
    if functions is not None and len(functions.takers):
        for load in file.loads:
            if load.flags & _EXECUTE and load.filesz:
                code = file.data[load.offset : load.offset + load.filesz]
                found |= _constants(code, load.vaddr, functions)
    return {"number": np.array(sorted(found), np.int64)}


def _constants(code: npt.NDArray[np.uint8], vaddr: int, functions: _Functions) -> set[int]:
    """Constants below 512 in functions that call a taker: in EAX, where the first argument is
    (ABIInternal), or on the stack (ABI0)."""
    calls = _calls(code, vaddr, np.sort(functions.entries[functions.takers]))
    callers = np.unique(np.searchsorted(functions.entries, calls, side="right") - 1)
    found: set[int] = set()
    for row in callers.tolist():
        if not 0 <= row < len(functions.entries) - 1:
            continue
        first, behind = (int(functions.entries[at]) - vaddr for at in (row, row + 1))
        body = bytes(code[max(first, 0) : behind])
        for pattern in (rb"\xb8(..\0\0)", rb"\x48\xc7\x04\x24(..\0\0)", rb"\x48\xc7\xc0(..\0\0)"):
            values = (int.from_bytes(m[1], "little") for m in _overlapping(pattern, body))
            found |= {value for value in values if value < _HIGHEST}
        if b"\x31\xc0" in body:  # xor eax, eax
            found.add(0)
    return found


def _overlapping(pattern: bytes, body: bytes) -> list[re.Match[bytes]]:
    return list(re.finditer(b"(?=" + pattern + b")", body, re.DOTALL))


def _calls(code: npt.NDArray[np.uint8], vaddr: int, targets: I64) -> I64:
    """Addresses of calls and jumps to any of the targets, which are ascending."""
    found = [np.zeros(0, np.int64)]
    for opcode in (0xE8, 0xE9):
        at = np.flatnonzero(code[: max(len(code) - 4, 0)] == opcode)
        words = [code[at + 1 + byte].astype(np.uint32) << np.uint32(8 * byte) for byte in range(4)]
        distance = np.bitwise_or.reduce(words, axis=0).view(np.int32).astype(np.int64)
        leads = at + vaddr + 5 + distance
        rows = np.minimum(np.searchsorted(targets, leads), len(targets) - 1)
        found.append(at[targets[rows] == leads] + vaddr)
    return np.concatenate(found)


def _functions(file: ElfFile) -> _Functions | None:
    """The functions of the first table that is one; None for a file without."""
    if not _is_made_by_go(file):
        return None
    for load in file.loads:
        data = bytes(file.data[load.offset : load.offset + load.filesz])
        for magic, has_offsets in _MAGICS.items():
            at = data.find(magic)
            while at >= 0:
                start = _word_at(file, load.vaddr + at + 24, data[at + 24 : at + 32])
                functions = _table(data[at:], start if has_offsets else None)
                if functions is not None:
                    return functions
                at = data.find(magic, at + 1)
    return None


def _is_made_by_go(file: ElfFile) -> bool:
    """Whether the data say so (src/debug/buildinfo of Go, since 1.13)."""
    return any(
        bytes(file.data[load.offset : load.offset + load.filesz]).find(_MADE) >= 0
        for load in file.loads
        if load.flags & _WRITE
    )


def _word_at(file: ElfFile, vaddr: int, content: bytes) -> int:
    """A word, or the address that it is relocated to (R_X86_64_RELATIVE)."""
    rows = file.rela["r_addend"][file.rela["r_offset"] == np.uint64(vaddr)]
    return int(rows[0]) if len(rows) else int.from_bytes(content, "little")


def _table(data: bytes, start: int | None) -> _Functions | None:
    """A pclntab: its header, and functions with the offsets of their names.

    ``start`` is where the text begins, in tables that count from there.
    """
    has_offsets = start is not None
    words = np.frombuffer(data[8 : 8 + 8 * 8], "<u8").astype(np.int64)
    if len(words) < 8 or (start or 0) >> 62:
        return None
    count, names_at, table_at = (int(words[at + (at > 0 and has_offsets)]) for at in (0, 2, 6))
    kind, size = ("<u4", 4) if has_offsets else ("<u8", 8)
    if not (0 < count < 1 << 24 and 0 < names_at < len(data) and 0 < table_at < len(data)):
        return None
    columns = np.frombuffer(data[table_at : table_at + (2 * count + 1) * size], kind)
    if len(columns) < 2 * count + 1:
        return None
    entries = columns[::2].astype(np.int64) + (start or 0)
    at = columns[1::2].astype(np.int64) + table_at + size  # behind the entry is the name's offset
    if (np.diff(entries) < 0).any() or int(at.min()) < 0 or int(at.max()) + 4 > len(data):
        return None
    raw = np.frombuffer(data, np.uint8)
    offsets = np.full(count, names_at, np.int64)
    for byte in range(4):
        offsets += raw[at + byte].astype(np.int64) << (8 * byte)
    takers = [
        row
        for row, offset in enumerate(offsets.tolist())
        if TAKERS.match(data[offset : offset + 80].partition(b"\0")[0].decode(errors="replace"))
    ]
    return _Functions(entries, np.array(takers, np.int64))
