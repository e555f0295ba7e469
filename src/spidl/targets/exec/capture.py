"""One capture run: a program stopped when its dynamic linker has finished, and read out.

The program runs under ptrace with every mapping where the plan wants it: what execve maps is moved
(`entry`), what the dynamic linker maps is redirected as it asks (`Mapper`), and a hardware
breakpoint stops it.  No byte of it is changed on the way except three words of the auxiliary
vector.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

from spidl.diagnostics import LinkError, Place, Refusal
from spidl.link.actions import Protection, ThreadCall
from spidl.targets.exec import child as children
from spidl.targets.exec import ptrace
from spidl.targets.exec.child import Child
from spidl.targets.exec.content import pages_of, read_private
from spidl.targets.exec.entry import Collision, Entry, call, prepare
from spidl.targets.exec.mapper import Mapper
from spidl.targets.exec.proc import anonymous_pages, program_break, read_vmas
from spidl.targets.exec.setup import SYS_BRK, SYS_MMAP, SYS_MUNMAP
from spidl.targets.exec.snapshot import (
    Anchors,
    CapturePlan,
    Placement,
    Region,
    Snapshot,
    ThreadCallRecord,
    Vma,
)

__all__ = [
    "Anchors",
    "CapturePlan",
    "Placement",
    "Region",
    "Snapshot",
    "ThreadCallRecord",
    "Vma",
    "capture",
]

_RUNS = 8
"""Attempts to find a run in which the kernel's random choices leave the placements free."""
_THREAD_CALLS = {int(number): number for number in ThreadCall}
_ERRORS = 0xFFFFFFFFFFFFF001
"""Results from here on are -errno."""


def capture(
    plan: CapturePlan,
    allocate: Callable[[int], ptrace.Bytes] = ptrace.new_buffer,
    *,
    beside: bool = False,
) -> Snapshot:
    """Run ``plan.program`` up to ``plan.stop`` and return its state there; the child is gone then.

    ``allocate`` gives the memory, in bytes, that the program's own pages are read into.  With
    ``beside`` another run may be going on: this one is on another processor.

    Raises LinkError: ``adopt/exec`` (it cannot be executed), ``adopt/died`` (it ended before the
    stop), ``adopt/timeout``, ``adopt/no-room`` (the kernel's own mappings lie where the plan wants
    a file), ``adopt/misplaced`` (a library is not where the plan wants it), ``adopt/setup``;
    Refusal: ``adopt/no-ptrace``, ``adopt/no-seccomp``, ``adopt/no-breakpoint``,
    ``adopt/no-exec-memory``.
    """
    for _ in range(_RUNS):
        with _one_processor(max if beside else min), children.start(plan) as child:
            try:
                return _run(child, allocate)
            except Collision as caught:
                collision = str(caught)
            except ProcessLookupError:
                raise child.lost() from None
            except OSError as error:
                raise LinkError(
                    "adopt/setup",
                    f"the kernel refused an operation on the traced program: {error.strerror}",
                    place=Place(plan.program),
                ) from error
    raise LinkError(
        "adopt/no-room",
        f"the kernel's mappings lie where the link wants its own, in each of {_RUNS} runs",
        place=Place(plan.program),
        notes=(f"last in the way: {collision}",),
        help="link again: the addresses are chosen anew",
    )


@contextlib.contextmanager
def _one_processor(choose: Callable[[set[int]], int]) -> Iterator[None]:
    """Keep this thread, and the child it starts, on one of the processors that it may use.

    ld.so stores the APIC id that cpuid tells it, which must not differ between runs, but for the
    one that binds every slot and decides nothing; and tracer and tracee take turns, which is twice
    as fast without waking up another processor.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {choose(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _run(child: Child, allocate: Callable[[int], ptrace.Bytes]) -> Snapshot:
    pid = child.pid
    options = ptrace.OPTION_SECCOMP | ptrace.OPTION_SYSGOOD | ptrace.OPTION_EXITKILL
    ptrace.set_options(pid, options)
    ptrace.set_signal_mask(pid, 0)
    entry = prepare(child)
    try:
        ptrace.set_breakpoint(pid, child.plan.stop)
    except ProcessLookupError:
        raise
    except OSError as error:
        raise Refusal(
            "adopt/no-breakpoint",
            f"there is no hardware breakpoint here ({error.strerror}), and linking needs one",
            help="the program starts the plain way; some virtual machines hide debug registers",
        ) from error
    mapper = Mapper(child)
    calls = _to_the_stop(child, mapper)
    return _read(child, entry, mapper, calls, allocate)


def _to_the_stop(child: Child, mapper: Mapper) -> tuple[ThreadCallRecord, ...]:
    """Let the dynamic linker run, answering its system calls."""
    pid, stop = child.pid, child.plan.stop
    registers = ptrace.NewRegisters()
    calls = []
    signal = 0
    while True:
        ptrace.proceed(pid, signal)
        status = child.wait()
        signal = 0
        if status >> 16 == ptrace.EVENT_SECCOMP:
            ptrace.get_registers(pid, registers)
            number = registers[ptrace.ORIG_RAX]
            if number == SYS_MMAP:
                mapper.place(registers)
            elif number == SYS_MUNMAP:
                mapper.trim(registers)
            else:
                slots = (ptrace.RDI, ptrace.RSI, ptrace.RDX, ptrace.R10)
                a, b, c, d = (registers[slot] for slot in slots)
                if _succeeds(child):
                    calls.append(ThreadCallRecord(_THREAD_CALLS[number], (a, b, c, d)))
        elif ptrace.get_register(pid, ptrace.RIP) == stop:
            return tuple(calls)
        else:
            signal = child.signal_to_pass(status)


def _succeeds(child: Child) -> bool:
    """Complete the system call at whose entry the child is; did the kernel do it?"""
    signal = 0
    while True:
        ptrace.proceed_to_syscall(child.pid, signal)
        status = child.wait()
        if status >> 8 & ptrace.SYSCALL_STOP:
            return ptrace.get_register(child.pid, ptrace.RAX) < _ERRORS
        signal = child.signal_to_pass(status)


def _read(
    child: Child,
    entry: Entry,
    mapper: Mapper,
    calls: tuple[ThreadCallRecord, ...],
    allocate: Callable[[int], ptrace.Bytes],
) -> Snapshot:
    """Read out the child, which is at the stop."""
    pid, plan = child.pid, child.plan
    registers = ptrace.get_registers(pid)
    vmas = mapper.identify(read_vmas(pid))
    mapper.check(vmas)
    own = [vma for vma in vmas if not _is_kernels(vma)]
    candidates = [vma for vma in own if vma.inode and not vma.protection & Protection.WRITE]
    touched = anonymous_pages(pid, own)
    pages = pages_of(touched, candidates)
    files = [vma for vma, changed in zip(candidates, pages, strict=True) if not len(changed)]
    mapped = {vma.start for vma in files}
    private = [vma for vma in own if vma.start not in mapped]
    regions, content = read_private(pid, plan, private, touched, allocate)
    brk = program_break(pid)
    if not plan.deny_brk:
        brk = call(child, registers, entry.syscall, SYS_BRK, 0)
    return Snapshot(
        plan=plan,
        vmas=tuple(vmas),
        files=tuple(files),
        regions=tuple(regions),
        own=content,
        calls=calls,
        anchors=dataclasses.replace(entry.anchors, brk=brk),
        registers=dict(zip(ptrace.REGISTERS, registers, strict=True)),
        arena_end=mapper.arena,
        vdso=entry.vdso,
        unexpected=tuple(mapper.unexpected),
    )


def _is_kernels(vma: Vma) -> bool:
    """[stack], [heap], [vdso] and so on; a process may name anonymous memory [anon:...] itself."""
    return vma.path.startswith("[") and not vma.path.startswith("[anon")
