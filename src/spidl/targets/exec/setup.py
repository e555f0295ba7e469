"""The system calls between clone and execve that give a captured program its surroundings."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import struct

from spidl.link.actions import ThreadCall
from spidl.targets.exec import ptrace
from spidl.targets.exec.snapshot import CapturePlan

SYS_MMAP = 9
SYS_MUNMAP = 11
SYS_BRK = 12
SYS_MREMAP = 25
_SYS_RT_SIGPROCMASK = 14
_SYS_DUP3 = 292
_SYS_SETITIMER = 38
_SYS_EXECVE = 59
_SYS_PTRACE = 101
_SYS_PERSONALITY = 135
_SYS_PRCTL = 157
_SYS_SETRLIMIT = 160
_SYS_SECCOMP = 317
_SYS_CLOSE_RANGE = 436

_ADDR_NO_RANDOMIZE = 0x0040000
_PERSONALITY_QUERY = 0xFFFFFFFF
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_MAP_FIXED_ANY = 0x10 | 0x100000
"""MAP_FIXED | MAP_FIXED_NOREPLACE."""

SetupCall = tuple[str, int, tuple[int, ...], bool]
"""Name, number, up to four arguments, whether it may fail."""


class Buffers:
    """Memory that the child's system calls read; it must outlive the child's execve."""

    def __init__(self) -> None:
        self._kept: list[object] = []

    def put(self, content: bytes) -> int:
        """The address of a copy of ``content``, zero-terminated."""
        buffer = ctypes.create_string_buffer(content, len(content) + 1)
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def strings(self, values: list[bytes]) -> int:
        """The address of a null-terminated vector of strings."""
        words = [self.put(value) for value in values]
        return self.put(struct.pack(f"={len(words) + 1}Q", *words, 0))


def _filter(plan: CapturePlan, *, unmaps: bool) -> bytes:
    """The seccomp filter as an array of struct sock_filter (<linux/filter.h>).

    mmap without a fixed address and the thread's set-up calls stop for the tracer; with ``unmaps``
    munmap as well.
    """
    allow, trace, no_memory = 0x7FFF0000, 0x7FF00000, 0x00050000 | 12
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    stops = [int(call) for call in ThreadCall] + ([SYS_MUNMAP] if unmaps else [])
    others = [line for stop in stops for line in ((equal, 0, 1, stop), (answer, 0, 0, trace))]
    if plan.deny_brk:
        others += [(equal, 0, 1, SYS_BRK), (answer, 0, 0, no_memory)]
    others.append((answer, 0, 0, allow))
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, 0xC000003E),  # AUDIT_ARCH_X86_64; a 32-bit call is none of ours
        (answer, 0, 0, allow),
        (load, 0, 0, 0),  # the number
        (equal, 0, 3, SYS_MMAP),
        (load, 0, 0, 16 + 3 * 8),  # mmap's flags
        (any_bit, 0, len(others) + 1, _MAP_FIXED_ANY),
        (answer, 0, 0, allow),
        *others,
        (answer, 0, 0, trace),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def setup_calls(plan: CapturePlan, output: int, null: int, buffers: Buffers) -> list[SetupCall]:
    """The child's way from clone to execve."""
    unmaps = any(library.align > mmap.PAGESIZE for library in plan.libraries)
    code = _filter(plan, unmaps=unmaps)
    timer = struct.pack("=4q", 0, 0, int(plan.timeout), int(plan.timeout % 1 * 1e6) or 1)
    environment = [
        os.fsencode(name) + b"=" + os.fsencode(value) for name, value in plan.environment.items()
    ]
    calls: list[SetupCall] = [
        # A signal must not stop the child before execve: its parent could not see that.  SIGTRAP
        # is how execve reports to the tracer, who then unblocks the others.
        ("sigprocmask", _SYS_RT_SIGPROCMASK, (2, buffers.put(_mask()), 0, 8), False),
        ("dup3", _SYS_DUP3, (null, 0, 0), False),
        ("dup3", _SYS_DUP3, (output, 1, 0), False),
        ("dup3", _SYS_DUP3, (output, 2, 0), False),
        ("close_range", _SYS_CLOSE_RANGE, (3, 0xFFFFFFFF, 0), True),
        ("prctl", _SYS_PRCTL, (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0), False),
        ("prctl", _SYS_PRCTL, (_PR_SET_NO_NEW_PRIVS, 1, 0, 0), False),
        # Timers outlive execve: no program can run longer than this.
        ("setitimer", _SYS_SETITIMER, (0, buffers.put(timer), 0), False),
    ]
    personality = ctypes.CDLL(None).personality(_PERSONALITY_QUERY)
    if personality != -1 and personality & _ADDR_NO_RANDOMIZE:
        cleared = personality & ~_ADDR_NO_RANDOMIZE
        calls.append(("personality", _SYS_PERSONALITY, (cleared,), True))
    if plan.stack_limit is not None:
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1] & 0xFFFFFFFFFFFFFFFF
        limits = buffers.put(struct.pack("=2Q", plan.stack_limit, hard))
        calls.append(("setrlimit", _SYS_SETRLIMIT, (resource.RLIMIT_STACK, limits), False))
    program = struct.pack("=HxxxxxxQ", len(code) // 8, buffers.put(code))
    calls += [
        ("ptrace", _SYS_PTRACE, (ptrace.TRACEME, 0, 0, 0), False),
        ("seccomp", _SYS_SECCOMP, (_SECCOMP_SET_MODE_FILTER, 0, buffers.put(program)), False),
        (
            "execve",
            _SYS_EXECVE,
            (
                buffers.put(os.fsencode(plan.program)),
                buffers.strings([os.fsencode(argument) for argument in plan.arguments]),
                buffers.strings(environment),
            ),
            False,
        ),
    ]
    return calls


def _mask() -> bytes:
    every = 0xFFFFFFFFFFFFFFFF
    return struct.pack("=Q", every & ~(1 << (signal.SIGTRAP - 1)))
