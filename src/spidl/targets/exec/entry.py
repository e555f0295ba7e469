"""The first stop of a capture: read what the kernel built, and move the program to its place."""

from __future__ import annotations

import resource
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from spidl.diagnostics import LinkError, Place
from spidl.targets.exec import ptrace
from spidl.targets.exec.child import Child
from spidl.targets.exec.proc import program_break, read_vmas
from spidl.targets.exec.setup import SYS_MREMAP
from spidl.targets.exec.snapshot import Anchors, CapturePlan, Placement, Vma

_AT_PHDR, _AT_BASE, _AT_ENTRY, _AT_PLATFORM, _AT_RANDOM = 3, 7, 9, 15, 25
_AT_EXECFN, _AT_SYSINFO_EHDR = 31, 33
_RANDOM_BYTES = 16
_MREMAP_FIXED = 1 | 2
"""MREMAP_MAYMOVE | MREMAP_FIXED."""
_SYSCALL_INSTRUCTION = b"\x0f\x05"
_NO_SYSCALL = 0xFFFFFFFFFFFFFFFF
_STACK_ROOM = 1 << 20
"""Bytes below the stack that placements must leave free: it grows before the stop."""
_ARENA_ROOM = 1 << 24
"""Bytes from the arena's start that must be free."""


class Collision(Exception):
    """The kernel's random choices lie where the plan wants something: another run may do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the kernel built, after moving; ``syscall`` is the address of such an instruction."""

    anchors: Anchors
    vdso: bytes
    syscall: int


def prepare(child: Child) -> Entry:
    """Move program and interpreter to their places and correct the auxiliary vector.

    The child must be at its first instruction and stays there.  Raises `Collision`, and LinkError
    ``adopt/setup`` where the kernel refuses a move.
    """
    pid, plan = child.pid, child.plan
    registers = ptrace.get_registers(pid)
    # It is in the signal stop of execve, and no system call is to be restarted behind that.
    registers[ptrace.ORIG_RAX] = _NO_SYSCALL
    vmas = read_vmas(pid)
    anchors, vdso = _read_anchors(child, vmas, registers[ptrace.RSP])
    moves = _moves(plan, anchors.auxv_values)
    _check_room(plan, vmas, moves, program_break(pid))
    syscall = _find_syscall(child, vmas, vdso, anchors.vdso)
    start = registers[ptrace.RIP]
    for placement, delta in moves:
        old = range(placement.start - delta, placement.end - delta)
        if registers[ptrace.RIP] in old:
            start += delta
        for vma in vmas:
            if vma.start in old:
                length, target = vma.end - vma.start, vma.start + delta
                arguments = (vma.start, length, length, _MREMAP_FIXED, target)
                result = call(child, registers, syscall, SYS_MREMAP, *arguments)
                if result != target:
                    raise _not_moved(plan, vma, target, result)
                if vma.start <= syscall < vma.end:
                    syscall += delta
    _correct_auxv(pid, plan, anchors, [placement for placement, _ in moves])
    registers[ptrace.RIP] = start
    ptrace.set_registers(pid, registers)
    return Entry(anchors, vdso, syscall)


def call(
    child: Child, registers: ptrace.Registers, instruction: int, number: int, *arguments: int
) -> int:
    """Make a system call in the stopped child through the ``syscall`` at ``instruction``.

    Returns what the kernel put into rax.  The caller sets the registers again afterwards;
    ``registers`` are those of the child and remain as they are.
    """
    used = ptrace.NewRegisters.from_buffer_copy(registers)
    slots = (ptrace.RDI, ptrace.RSI, ptrace.RDX, ptrace.R10, ptrace.R8)
    for slot, argument in zip(slots, arguments, strict=False):
        used[slot] = argument
    used[ptrace.RAX] = number
    used[ptrace.ORIG_RAX] = _NO_SYSCALL
    used[ptrace.RIP] = instruction
    ptrace.set_registers(child.pid, used)
    signal = 0
    while True:
        ptrace.step(child.pid, signal)
        signal = child.signal_to_pass(child.wait())
        if ptrace.get_register(child.pid, ptrace.RIP) != instruction:
            return ptrace.get_register(child.pid, ptrace.RAX)


def _read_anchors(child: Child, vmas: Sequence[Vma], stack: int) -> tuple[Anchors, bytes]:
    """Parse the initial process stack (psABI 3.4.1); returns the vDSO's content as well."""
    pid, plan = child.pid, child.plan
    end = next((vma.end for vma in vmas if vma.start <= stack < vma.end), stack)
    vdso = next((vma for vma in vmas if vma.path == "[vdso]"), None)
    ranges = [(stack, end - stack)]
    if vdso is not None:
        ranges.append((vdso.start, vdso.end - vdso.start))
    content = ptrace.read_memory(pid, ranges).tobytes()
    size = end - stack
    words = struct.unpack_from(f"<{size // 8}Q", content)
    argc = words[0]
    environment = 1 + argc + 1
    auxv = words.index(0, environment) + 1
    values: dict[int, int] = {}
    for index in range(auxv, len(words) - 1, 2):
        if words[index] == 0:
            break
        values[words[index]] = words[index + 1]
    random = values.get(_AT_RANDOM, 0)
    at = random - stack
    limit = plan.stack_limit
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_STACK)[0] & 0xFFFFFFFFFFFFFFFF
    base = values.get(_AT_SYSINFO_EHDR, 0)
    anchors = Anchors(
        stack=stack,
        argc=argc,
        argv=stack + 8,
        envp=stack + environment * 8,
        auxv=stack + auxv * 8,
        auxv_values=values,
        random=content[at : at + _RANDOM_BYTES] if random else b"",
        random_address=random,
        platform=values.get(_AT_PLATFORM, 0),
        execfn=values.get(_AT_EXECFN, 0),
        vdso=base,
        vdso_end=vdso.end if vdso is not None and base else 0,
        brk=0,
        thread=pid,
        stack_limit=limit,
    )
    return anchors, content[size:]


def _moves(plan: CapturePlan, auxv: dict[int, int]) -> list[tuple[Placement, int]]:
    """What must be moved, and how far; the auxiliary vector tells where it is."""
    moves = []
    if delta := plan.entry - auxv.get(_AT_ENTRY, plan.entry):
        moves.append((plan.main, delta))
    base = auxv.get(_AT_BASE, 0)
    if plan.interpreter is not None and base and plan.base != base:
        moves.append((plan.interpreter, plan.base - base))
    return moves


def _check_room(
    plan: CapturePlan, vmas: Sequence[Vma], moves: Sequence[tuple[Placement, int]], brk: int
) -> None:
    """Nothing may lie where something is to come, not even what is about to leave that place.

    The break neither: the kernel would call [heap] what lies around it.
    """
    wanted = [(placement.start, placement.end) for placement, _ in moves]
    wanted += [(library.start, library.end) for library in plan.libraries]
    wanted.append((plan.arena, plan.arena + _ARENA_ROOM))
    if any(start <= brk <= end for start, end in wanted):
        raise Collision(f"the break at {brk:#x}")
    for vma in vmas:
        low = vma.start - _STACK_ROOM if vma.path == "[stack]" else vma.start
        if any(start < vma.end and low < end for start, end in wanted):
            raise Collision(f"{vma.path or 'a mapping'} at {vma.start:#x}-{vma.end:#x}")


def _find_syscall(child: Child, vmas: Sequence[Vma], vdso: bytes, base: int) -> int:
    at = vdso.find(_SYSCALL_INSTRUCTION)
    if at >= 0 and base:
        return base + at
    # Without a vDSO (vdso=0, User Mode Linux): the bytes in any code serve, ld.so has them.
    for vma in reversed(vmas):
        if vma.protection & 4 and not vma.path.startswith("["):
            content = ptrace.read_memory(child.pid, [(vma.start, vma.end - vma.start)]).tobytes()
            at = content.find(_SYSCALL_INSTRUCTION)
            if at >= 0:
                return vma.start + at
    raise LinkError(
        "adopt/setup",
        "neither the vDSO nor the code that execve mapped holds a syscall instruction",
        place=Place(child.plan.program),
    )


def _correct_auxv(
    pid: int, plan: CapturePlan, anchors: Anchors, moved: Sequence[Placement]
) -> None:
    corrections = {}
    if plan.main in moved:
        corrections = {_AT_PHDR: plan.phdr, _AT_ENTRY: plan.entry}
    if plan.interpreter in moved:
        corrections[_AT_BASE] = plan.base
    for index, type_ in enumerate(anchors.auxv_values):
        if type_ in corrections:
            anchors.auxv_values[type_] = corrections[type_]
            ptrace.write_word(pid, anchors.auxv + index * 16 + 8, corrections[type_])


def _not_moved(plan: CapturePlan, vma: Vma, target: int, result: int) -> LinkError:
    return LinkError(
        "adopt/setup",
        f"the kernel did not move {vma.start:#x}-{vma.end:#x} to {target:#x}",
        place=Place(plan.program),
        notes=(f"mremap returned {result:#x}",),
    )
