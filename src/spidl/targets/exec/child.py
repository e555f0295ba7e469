"""Start a program stopped under ptrace, and end it again.

The child is made by clone(CLONE_VM | CLONE_VFORK): it borrows this process's memory until execve,
so that nothing is copied and no Python runs in it (a forked interpreter of a process with threads
may find any lock held).  It performs the calls of `setup`, in 86 bytes of code.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from spidl.diagnostics import LinkError, Place, Refusal
from spidl.targets.exec import ptrace
from spidl.targets.exec.setup import Buffers, SetupCall, setup_calls
from spidl.targets.exec.snapshot import CapturePlan

_CODE = bytes.fromhex(
    "f30f1efa"  # endbr64
    "4989f9"  # mov    %rdi, %r9            the table
    "b838000000"  # mov    $56, %eax            clone
    "bf11410000"  # mov    $0x4111, %edi        CLONE_VM | CLONE_VFORK | SIGCHLD
    "31f6"  # xor    %esi, %esi           on this stack, which the child leaves alone
    "31d2"  # xor    %edx, %edx
    "4d31d2"  # xor    %r10, %r10
    "4531c0"  # xor    %r8d, %r8d           the fifth argument of every call
    "0f05"  # syscall
    "85c0"  # test   %eax, %eax
    "7401"  # jz     child
    "c3"  # ret                         parent: the pid, or -errno
    "498b01"  # child: mov (%r9), %rax
    "498b7908"  # mov    8(%r9), %rdi
    "498b7110"  # mov    16(%r9), %rsi
    "498b5118"  # mov    24(%r9), %rdx
    "4d8b5120"  # mov    32(%r9), %r10
    "0f05"  # syscall
    "49894130"  # mov    %rax, 48(%r9)        the result, for the parent
    "4885c0"  # test   %rax, %rax
    "7907"  # jns    next
    "4983793800"  # cmpq   $0, 56(%r9)          may it fail?
    "7406"  # je     leave
    "4983c140"  # next: add $64, %r9
    "ebd5"  # jmp    child
    "b8e7000000"  # leave: mov $231, %eax       exit_group
    "0f05"  # syscall
    "0f0b"  # ud2
)


def _high(descriptor: int) -> int:
    """The descriptor, moved above the standard three: dup3 onto itself would fail."""
    if descriptor > 2:
        return descriptor
    moved = int(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
    os.close(descriptor)
    return moved


@dataclass(slots=True)
class Child:
    """A process of ours; leaving the context kills and reaps it."""

    pid: int
    plan: CapturePlan
    _output: int
    _reaped: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._reaped:
            self.lost()
        os.close(self._output)

    def _collect(self) -> int:
        try:
            _, status = os.waitpid(self.pid, ptrace.WALL)
        except ChildProcessError:
            # Someone ignores SIGCHLD or waits for every child.
            self._reaped = True
            return 0
        self._reaped = os.WIFEXITED(status) or os.WIFSIGNALED(status)
        return status

    def wait(self) -> int:
        """Wait for the next stop and return its status.

        Raises LinkError ``adopt/died`` where the program ended instead, ``adopt/timeout`` where
        its time is up.
        """
        status = self._collect()
        if self._reaped:
            raise self._died(status)
        if os.WSTOPSIG(status) == signal.SIGALRM:
            raise LinkError(
                "adopt/timeout",
                f"the dynamic linker did not finish within {self.plan.timeout:g} s",
                place=Place(self.plan.program),
                notes=self.printed(),
                help="start the program without Spidl to see whether it hangs there as well",
            )
        return status

    def lost(self) -> LinkError:
        """What became of the child, which a ptrace call did not find any more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        status = 0
        while not self._reaped:
            status = self._collect()
        return self._died(status)

    @staticmethod
    def signal_to_pass(status: int) -> int:
        """The signal to deliver when the child goes on from this stop, or 0.

        Traps are the tracer's.  A stop signal stops the child once more, to be resumed likewise.
        """
        number = os.WSTOPSIG(status)
        return 0 if number & ~ptrace.SYSCALL_STOP == signal.SIGTRAP else number

    def printed(self) -> tuple[str, ...]:
        """What the program wrote to stdout and stderr, as notes."""
        text = os.pread(self._output, 4096, 0).decode(errors="replace").strip()
        return tuple(f"it printed: {line}" for line in text.splitlines()[:8])

    def _died(self, status: int) -> LinkError:
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
            what = f"was killed by {name}"
        else:
            what = f"exited with status {os.WEXITSTATUS(status)}"
        return LinkError(
            "adopt/died",
            f"the program {what} before its dynamic linker had finished",
            place=Place(self.plan.program),
            notes=self.printed(),
            help="start the program without Spidl: it should fail in the same way",
        )


def start(plan: CapturePlan) -> Child:
    """Start ``plan.program``; it is stopped at its first instruction, after execve.

    Raises LinkError ``adopt/exec`` or ``adopt/setup``, Refusal ``adopt/no-ptrace`` or
    ``adopt/no-seccomp``.
    """
    null = output = -1
    try:
        null = _high(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        output = _high(os.memfd_create("spidl-output", os.MFD_CLOEXEC))
        buffers = Buffers()
        calls = setup_calls(plan, output, null, buffers)
        table = ctypes.create_string_buffer(
            b"".join(
                struct.pack("=8Q", number, *arguments, *(0,) * (6 - len(arguments)), may_fail)
                for _, number, arguments, may_fail in calls
            )
        )
        pid = _clone(ctypes.addressof(table))
        child = Child(pid, plan, output)
    except BaseException:
        if output >= 0:
            os.close(output)
        raise
    finally:
        if null >= 0:
            os.close(null)
    try:
        _first_stop(child, calls, table)
    except BaseException:
        child.__exit__()
        raise
    return child


def _clone(table: int) -> int:
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(_CODE)
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        del view
        libc = ctypes.CDLL(None, use_errno=True)
        flags = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, flags) != 0:
            raise Refusal(
                "adopt/no-exec-memory",
                "this process may not make memory executable, which starting a traced child needs",
                help="the program starts the plain way; see SELinux's execmem",
            )
        pid = int(ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(address)(table))
    if pid < 0:
        raise LinkError("adopt/setup", f"cannot start a process: {os.strerror(-pid)}")
    return pid


def _first_stop(
    child: Child, calls: Sequence[SetupCall], table: ctypes.Array[ctypes.c_char]
) -> None:
    """Wait for execve's SIGTRAP, or tell which call failed."""
    try:
        child.wait()
    except LinkError:
        for index, (name, _, _, may_fail) in enumerate(calls):
            result = struct.unpack_from("=q", table.raw, index * 64 + 48)[0]
            if result < 0 and not may_fail:
                raise _failed(child.plan, name, -result) from None
        raise


def _failed(plan: CapturePlan, call: str, error: int) -> LinkError:
    reason = os.strerror(error)
    if call == "ptrace":
        return Refusal(
            "adopt/no-ptrace",
            f"ptrace is not allowed here ({reason}), and linking needs it once",
            notes=("a sandbox, Yama (kernel.yama.ptrace_scope = 3) or a tracer forbids it",),
            help="the program starts the plain way; link it where ptrace of a child is allowed",
        )
    if call == "seccomp":
        return Refusal(
            "adopt/no-seccomp",
            f"seccomp filters are not available here ({reason}), and linking needs one",
            help="the program starts the plain way",
        )
    if call == "execve":
        return LinkError(
            "adopt/exec", f"cannot execute the program: {reason}", place=Place(plan.program)
        )
    return LinkError("adopt/setup", f"{call} failed: {reason}", place=Place(plan.program))
