"""ptrace(2) and process_vm_readv(2) as Python functions, for x86-64; no policy.

Every function raises `OSError` with the kernel's errno.  A tracee obeys only the *thread* that is
its tracer, so all calls for one tracee must come from one thread.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

TRACEME = 0
_POKEDATA = 5
_PEEKUSER = 3
_POKEUSER = 6
_CONT = 7
_SINGLESTEP = 9
_GETREGS = 12
_SETREGS = 13
_SYSCALL = 24
_SETOPTIONS = 0x4200
_SETSIGMASK = 0x420B

OPTION_SYSGOOD = 0x1
OPTION_SECCOMP = 0x80
OPTION_EXITKILL = 0x100000
EVENT_SECCOMP = 7
SYSCALL_STOP = 0x80
"""With OPTION_SYSGOOD, this bit is set in the signal of a system call stop."""

WALL = 0x40000000
"""waitpid's __WALL."""

_SYS_PTRACE = 101
_DEBUG_REGISTERS = 848
"""offsetof(struct user, u_debugreg), <sys/user.h>."""
_IOV_MAX = 1024

REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base"),
    *("ds", "es", "fs", "gs"),
)
"""The fields of struct user_regs_struct, <sys/user.h>, in order."""

R10, R8, RAX, RDX, RSI, RDI, ORIG_RAX, RIP, RSP = (
    REGISTERS.index(name)
    for name in ("r10", "r8", "rax", "rdx", "rsi", "rdi", "orig_rax", "rip", "rsp")
)
"""Indices into `Registers`."""

NewRegisters = ctypes.c_uint64 * len(REGISTERS)
Registers = ctypes.Array[ctypes.c_uint64]
Bytes = npt.NDArray[np.uint8]

# PyDLL keeps the interpreter lock: none of these calls blocks, and giving the lock away and
# getting it back costs more than most of them.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = (
    *(ctypes.c_long, ctypes.c_long, ctypes.c_long),
    *(ctypes.c_void_p, ctypes.c_void_p),
)
_syscall.restype = ctypes.c_long
_process_vm_readv = _libc.process_vm_readv
_process_vm_readv.argtypes = (
    *(ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong),
    *(ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong),
)
_process_vm_readv.restype = ctypes.c_ssize_t


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _syscall(_SYS_PTRACE, request, pid, address, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def set_options(pid: int, options: int) -> None:
    """PTRACE_SETOPTIONS; ``options`` is a sum of ``OPTION_*``."""
    _ptrace(_SETOPTIONS, pid, 0, options)


def set_signal_mask(pid: int, mask: int) -> None:
    """Replace the set of blocked signals (bit n-1 for signal n)."""
    word = ctypes.c_uint64(mask)
    _ptrace(_SETSIGMASK, pid, 8, ctypes.addressof(word))


def proceed(pid: int, signal: int = 0) -> None:
    """Let the tracee run, delivering ``signal`` unless it is 0."""
    _ptrace(_CONT, pid, 0, signal)


def proceed_to_syscall(pid: int, signal: int = 0) -> None:
    """Let the tracee run up to the next entry to or exit from a system call."""
    _ptrace(_SYSCALL, pid, 0, signal)


def step(pid: int, signal: int = 0) -> None:
    """Let the tracee run one instruction, delivering ``signal`` unless it is 0."""
    _ptrace(_SINGLESTEP, pid, 0, signal)


def get_registers(pid: int, registers: Registers | None = None) -> Registers:
    """All general registers, indexed by ``RAX`` and so on; reuses ``registers`` where given."""
    if registers is None:
        registers = NewRegisters()
    _ptrace(_GETREGS, pid, 0, ctypes.addressof(registers))
    return registers


def set_registers(pid: int, registers: Registers) -> None:
    _ptrace(_SETREGS, pid, 0, ctypes.addressof(registers))


def get_register(pid: int, index: int) -> int:
    word = ctypes.c_uint64()
    _ptrace(_PEEKUSER, pid, index * 8, ctypes.addressof(word))
    return word.value


def set_breakpoint(pid: int, address: int) -> None:
    """A hardware breakpoint on execution of ``address`` (Intel SDM 3B, 18.2: DR0, L0 of DR7).

    It changes no byte of the program, which a breakpoint instruction would.
    """
    _ptrace(_POKEUSER, pid, _DEBUG_REGISTERS, address)
    _ptrace(_POKEUSER, pid, _DEBUG_REGISTERS + 7 * 8, 1)


def write_word(pid: int, address: int, value: int) -> None:
    """Write eight bytes of the tracee's memory."""
    _ptrace(_POKEDATA, pid, address, value)


def new_buffer(size: int) -> Bytes:
    """Memory for ``size`` bytes."""
    return np.empty(size, np.uint8)


def read_memory(
    pid: int, ranges: Sequence[tuple[int, int]], allocate: Callable[[int], Bytes] = new_buffer
) -> Bytes:
    """The content of the (address, length in bytes) ranges, one behind the other.

    Pages that are mapped but not readable are read as well.  Raises OSError where a range is not
    mapped.
    """
    buffer = allocate(sum(length for _, length in ranges))
    remote = np.array(ranges, dtype=np.uint64).reshape(-1, 2)
    done = 0
    for first in range(0, len(ranges), _IOV_MAX):
        part = remote[first : first + _IOV_MAX]
        wanted = int(part[:, 1].sum())
        local = np.array([buffer.ctypes.data + done, wanted], dtype=np.uint64)
        got = _process_vm_readv(pid, local.ctypes.data, 1, part.ctypes.data, len(part), 0)
        if got != wanted:
            # PROT_NONE, or more than the 2 GiB that one call moves.
            _read_slowly(pid, ranges, buffer)
            break
        done += wanted
    return buffer


def _read_slowly(pid: int, ranges: Sequence[tuple[int, int]], buffer: Bytes) -> None:
    """As `read_memory`, through /proc/PID/mem, which disregards page permissions."""
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    view = buffer.data
    done = 0
    try:
        for address, length in ranges:
            end = done + length
            while done < end:
                got = os.preadv(descriptor, [view[done:end]], address)
                if got == 0:
                    raise OSError(f"no memory at {address:#x}")
                done += got
                address += got
    finally:
        os.close(descriptor)
