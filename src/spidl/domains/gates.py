"""Where the calls through an unresolved slot wait, and what unresolved data is.

A *gate* is a few instructions and a cell.  While the cell is empty, a caller sleeps in the kernel
(futex(2)) with its arguments kept; when the cell is filled, it jumps there.  So a call that a
running thread makes between an unresolve and the next resolve is late, not lost.

Gates are made a page at a time and live as long as the process: a thread may be in any of them.
Their pages are writable first and executable afterwards, never both; cells lie on another page.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from dataclasses import dataclass, field

from spidl.diagnostics import LinkError
from spidl.link.actions import Protection
from spidl.live import process

_PAGE = 4096
_SIZE, _CELL = 128, 16
"""Bytes of a gate's code and of its cell: the target, then the word that threads sleep on."""
_COUNT = _PAGE // _SIZE
_GUARD = 1 << 20
"""Least bytes of address space that stand for an unresolved variable."""
_FUTEX, _WAKE_PRIVATE = 202, 129
_EVERYBODY = 2**31 - 1

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
_syscall.restype = ctypes.c_long


def _assemble(gate: int, cell: int) -> bytes:
    """The code of a gate.

    It changes only %r11, which belongs to no one across a call (psABI 3.2.3); the kernel keeps all
    registers but %rax, %rcx and %r11 (psABI A.2.1), vector registers included.
    """
    code = bytearray()

    def relative(opcode: str, target: int) -> None:
        code.extend(bytes.fromhex(opcode))
        code.extend(struct.pack("<i", target - (gate + len(code) + 4)))

    code.extend(bytes.fromhex("f30f1efa"))  # endbr64
    relative("4c8b1d", cell)  # mov target(%rip), %r11
    code.extend(bytes.fromhex("4d85db 7403 41ffe3"))  # test; jz over the next; jmp *%r11
    code.extend(bytes.fromhex("50 57 56 52 51 4152"))  # push %rax %rdi %rsi %rdx %rcx %r10
    again = len(code)
    relative("488d3d", cell + 8)  # lea state(%rip), %rdi
    code.extend(bytes.fromhex("be80000000 31d2 4531d2"))  # FUTEX_WAIT_PRIVATE while 0, no timeout
    code.extend(bytes.fromhex("b8ca000000 0f05"))  # mov $SYS_futex, %eax; syscall
    relative("4c8b1d", cell)
    code.extend(bytes.fromhex("4d85db"))
    code.extend(b"\x74" + struct.pack("<b", again - (len(code) + 2)))  # jz again
    code.extend(bytes.fromhex("415a 59 5a 5e 5f 58 41ffe3"))  # pop all; jmp *%r11
    assert len(code) <= _SIZE, "a gate has its place"
    return bytes(code).ljust(_SIZE, b"\xcc")


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: the run-time addresses of its code and of its cell."""

    address: int
    cell: int

    def shut(self) -> None:
        """Let callers wait from now on."""
        ctypes.c_uint32.from_address(self.cell + 8).value = 0
        process.write_word(self.cell, 0)

    def open(self, target: int) -> None:
        """Let callers, also those that wait, go on to ``target``."""
        process.write_word(self.cell, target)
        ctypes.c_uint32.from_address(self.cell + 8).value = 1

    def wake(self) -> None:
        """Wake whoever waits; after `open`."""
        _syscall(_FUTEX, self.cell + 8, _WAKE_PRIVATE, _EVERYBODY)


@dataclass(slots=True)
class _Pool:
    free: list[Gate] = field(default_factory=list)
    pages: list[object] = field(default_factory=list)
    guards: dict[int, int] = field(default_factory=dict)


_pool = _Pool()


def _map(length: int, protection: int) -> int:
    try:
        pages = mmap.mmap(
            -1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection
        )  # fmt: skip
    except OSError as error:
        raise LinkError(
            "domain/no-memory", f"cannot map {length} bytes: {error.strerror}",
            help="see `ulimit -v`",
        ) from None  # fmt: skip
    view = ctypes.c_char.from_buffer(pages)
    _pool.pages += [pages, view]
    return ctypes.addressof(view)


def new_gate() -> Gate:
    """A gate that is shut.  Raises `LinkError` ``domain/no-memory``, ``live/mapping``."""
    if not _pool.free:
        start = _map(2 * _PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
        made = [
            Gate(start + number * _SIZE, start + _PAGE + number * _CELL) for number in range(_COUNT)
        ]
        content = b"".join(_assemble(gate.address, gate.cell) for gate in made)
        ctypes.memmove(start, content, len(content))
        process.protect(start, _PAGE, Protection.READ | Protection.EXEC)
        _pool.free = made[::-1]
    return _pool.free.pop()


def guard(size: int) -> int:
    """An address of at least ``size`` bytes that nobody may touch: unresolved data.

    A thread that reads or writes it gets SIGSEGV.  Raises `LinkError` ``domain/no-memory``.
    """
    length = max(_GUARD, size + _PAGE & -_PAGE)
    if length not in _pool.guards:
        start = _map(length, mmap.PROT_READ | mmap.PROT_WRITE)
        process.protect(start, length, Protection.NONE)
        _pool.guards[length] = start
    return _pool.guards[length]
