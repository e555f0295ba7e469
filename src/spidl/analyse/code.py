"""Machine code as columns: what each aligned instruction refers to.

The decoder is iced-x86, an optional dependency: it is imported when something is analysed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, compress
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from spidl.analyse.layout import Column, Text
from spidl.diagnostics import LinkError

if TYPE_CHECKING:
    import iced_x86

_BATCH: Final = 1 << 18
"""Bytes of code decoded at a time; an instruction takes some 60 bytes as a Python object."""

CALL, JUMP, BRANCH, MEMORY, BOUND, WIDE, TABLE = range(7)
"""Kinds of references: near call, jump, conditional jump; a RIP-relative operand; such an operand
of a call or jump through memory; an immediate or displacement that is an address; an entry of a
table of relative addresses."""
FLOWS: Final = (CALL, JUMP, BRANCH, TABLE)
"""What leads to code for certain; others may lead to data."""

_SEQUEL, _END, _PADDING = 1, 2, 4
"""What is known of an opcode: can continue behind it; ends a function; may be padding."""


def decoder() -> type[iced_x86.Decoder]:
    """iced's decoder.  Raises LinkError ``analyse/no-iced`` where it is not installed."""
    try:
        import iced_x86
    except ImportError:
        raise LinkError(
            "analyse/no-iced",
            "system calls are found with the decoder iced-x86, which is not installed",
            help="pip install 'spidl[seccomp]'",
        ) from None
    return iced_x86.Decoder


@dataclass(frozen=True, slots=True)
class Codes:
    """Properties of iced's opcodes, by number."""

    kinds: npt.NDArray[np.int8]
    """CALL, JUMP or BRANCH for near branches with a target, -1 for all others."""
    bound: npt.NDArray[np.bool_]
    """Calls and jumps through a register or memory."""
    jumps: npt.NDArray[np.bool_]
    """Jumps through a register or memory."""
    ends: npt.NDArray[np.bool_]
    """Nothing continues behind it."""
    calls: npt.NDArray[np.bool_]
    padding: npt.NDArray[np.bool_]
    impossible: npt.NDArray[np.bool_]
    """Programs do not execute it: not an instruction, or the kernel's own."""
    wide: npt.NDArray[np.bool_]
    """Has an immediate of 64 bits."""
    syscall: int
    interrupt: int
    traps: frozenset[int]
    """`ud2`, `hlt` and the like: they end, and nothing comes back."""
    load_eax: int
    """`mov r32, imm32`."""
    eax: int


@cache
def codes() -> Codes:
    """The table of opcodes, made once."""
    decoder()
    from iced_x86 import Code, FlowControl, Instruction, OpCodeInfo, OpCodeOperandKind, Register

    names = {getattr(Code, name): name for name in dir(Code) if name.isupper()}
    size = max(names) + 1
    kinds = np.full(size, -1, dtype=np.int8)
    properties = ("bound", "jumps", "ends", "calls", "padding", "impossible", "wide")
    flags = {name: np.zeros(size, dtype=np.bool_) for name in properties}
    near = {OpCodeOperandKind.BR16_1, OpCodeOperandKind.BR32_1, OpCodeOperandKind.BR64_1,
            OpCodeOperandKind.BR16_2, OpCodeOperandKind.BR32_4, OpCodeOperandKind.BR64_4,
            OpCodeOperandKind.XBEGIN_2, OpCodeOperandKind.XBEGIN_4}  # fmt: skip
    bound = (FlowControl.INDIRECT_BRANCH, FlowControl.INDIRECT_CALL)
    ends = (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH, FlowControl.RETURN,
            FlowControl.EXCEPTION)  # fmt: skip
    calls = (FlowControl.CALL, FlowControl.INDIRECT_CALL)
    traps = []
    for code, name in names.items():
        probe = Instruction()
        probe.code = code
        flow = probe.flow_control
        operands = [OpCodeInfo(code).op_kind(at) for at in range(OpCodeInfo(code).op_count)]
        if near & set(operands):
            kinds[code] = {FlowControl.CALL: CALL, FlowControl.UNCONDITIONAL_BRANCH: JUMP}.get(
                flow, BRANCH
            )
        flags["bound"][code] = flow in bound
        flags["jumps"][code] = flow == FlowControl.INDIRECT_BRANCH
        flags["ends"][code] = flow in ends or name == "HLT"
        flags["calls"][code] = flow in calls
        if flow == FlowControl.EXCEPTION or name == "HLT":
            traps.append(int(code))
        flags["padding"][code] = name.startswith("NOP") or name in ("INT3", "ADD_RM8_R8")
        # hlt stands behind calls that do not return; vmcall and rdmsr have no place in a program.
        flags["impossible"][code] = probe.is_invalid or (probe.is_privileged and name != "HLT")
        flags["wide"][code] = OpCodeOperandKind.IMM64 in operands
    return Codes(
        kinds, syscall=Code.SYSCALL, interrupt=Code.INT_IMM8, load_eax=Code.MOV_R32_IMM32,
        eax=Register.EAX, traps=frozenset(traps), **flags,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Refs:
    """References of code, one a row."""

    sources: Column
    """Virtual address of the instruction."""
    targets: Column
    kinds: npt.NDArray[np.int8]

    @classmethod
    def join(cls, parts: Iterable[Refs]) -> Refs:
        parts = list(parts)
        if not parts:
            empty = np.zeros(0, dtype=np.int64)
            return cls(empty, empty, np.zeros(0, dtype=np.int8))
        return cls(
            np.concatenate([part.sources for part in parts]),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.kinds for part in parts]),
        )

    def where(self, mask: npt.NDArray[np.bool_]) -> Refs:
        return Refs(self.sources[mask], self.targets[mask], self.kinds[mask])


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What a sweep over functions, each decoded from its start, has found."""

    refs: Refs
    syscalls: Column
    """Addresses of `syscall` instructions."""
    interrupts: Column
    """Of `int 0x80`."""
    wide: Refs
    """64-bit immediates as they stand there, kind WIDE; the targets are values."""
    falls: Column
    """Indexes of functions whose last instruction continues into what follows."""
    returns: Column
    """Indexes of functions that end with a call."""
    strange: Column
    """Indexes of functions that cannot be code from start to end: see `sweep`."""
    cuts: Column
    """Where branches lead between two of their instructions."""


def sweep(text: Text, starts: Column, ends: Column, certain: Column) -> Decoded:
    """Decode functions [start, end), ascending, inside one segment.

    ``certain`` are the ends of what is surely code (an FDE's range), equal to the start where
    nothing is known.  A function is *strange* where bytes in that range are no instruction or a
    branch leads between two.
    """
    data = bytes(text.data[starts[0] - text.vaddr : ends[-1] - text.vaddr]) if len(starts) else b""
    base = int(starts[0]) if len(starts) else 0
    parts: list[Decoded] = []
    first = 0
    # Batches end where a function does.
    while first < len(starts):
        last = int(np.searchsorted(ends, starts[first] + _BATCH, "right"))
        last = max(last, first + 1)
        rows = slice(first, last)
        parts.append(_batch(data, base, starts[rows], ends[rows], certain[rows], first))
        first = last
    return Decoded(
        Refs.join(part.refs for part in parts),
        _join(part.syscalls for part in parts),
        _join(part.interrupts for part in parts),
        Refs.join(part.wide for part in parts),
        _join(part.falls for part in parts),
        _join(part.returns for part in parts),
        _join(part.strange for part in parts),
        _join(part.cuts for part in parts),
    )


def _join(columns: Iterable[Column]) -> Column:
    parts = list(columns)
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _batch(
    data: bytes, base: int, starts: Column, ends: Column, certain: Column, first: int
) -> Decoded:
    table, make = codes(), decoder()
    decoders: Iterator[iced_x86.Decoder] = (
        make(64, data[start - base : end - base], ip=start)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    )
    found = list(chain.from_iterable(decoders))
    count = len(found)
    numbers = np.fromiter(map(attrgetter("code"), found), np.uint16, count)
    vaddrs = np.fromiter(map(attrgetter("ip"), found), np.int64, count)
    relative = np.fromiter(map(attrgetter("is_ip_rel_memory_operand"), found), np.bool_, count)
    kinds = table.kinds[numbers]
    branches = np.flatnonzero(kinds >= 0)
    led = map(attrgetter("near_branch_target"), compress(found, (kinds >= 0).tolist()))
    targets = np.fromiter(led, np.uint64, len(branches)).astype(np.int64)
    operands = np.flatnonzero(relative)
    memory = map(attrgetter("ip_rel_memory_address"), compress(found, relative.tolist()))
    addressed = np.fromiter(memory, np.uint64, len(operands)).astype(np.int64)
    wide = np.flatnonzero(table.wide[numbers])
    values = np.fromiter((found[at].immediate64 for at in wide.tolist()), np.uint64, len(wide))
    interrupts = [at for at in np.flatnonzero(numbers == table.interrupt).tolist()
                  if found[at].immediate8 == 0x80]  # fmt: skip
    del found
    refs = Refs(
        np.concatenate([vaddrs[branches], vaddrs[operands]]),
        np.concatenate([targets, addressed]),
        np.concatenate([kinds[branches],
                        np.where(table.bound[numbers[operands]], BOUND, MEMORY).astype(np.int8)]),
    )  # fmt: skip
    # The function of each instruction, and its last one that is not padding.
    bounds = np.searchsorted(vaddrs, np.concatenate([starts, ends[-1:]]))
    last, begin = bounds[1:] - 1, bounds[:-1]
    while True:
        padded = (last > begin) & table.padding[numbers[last]]
        if not padded.any():
            break
        last = last - padded
    final = numbers[last]
    calls = table.calls[final]
    near_branches = vaddrs[branches], targets
    strange, cuts = _strange(table, numbers, vaddrs, starts, certain, near_branches, data, base)
    return Decoded(
        refs,
        vaddrs[numbers == table.syscall],
        vaddrs[np.array(interrupts, dtype=np.int64)],
        Refs(vaddrs[wide], values.astype(np.int64), np.full(len(wide), WIDE, dtype=np.int8)),
        first + np.flatnonzero(~table.ends[final] & ~calls & ~table.padding[final]),
        first + np.flatnonzero(calls),
        first + strange,
        cuts,
    )


def _strange(
    table: Codes,
    numbers: npt.NDArray[np.uint16],
    vaddrs: Column,
    starts: Column,
    certain: Column,
    branches: tuple[Column, Column],
    data: bytes,
    base: int,
) -> tuple[Column, Column]:
    """Indexes of functions with what is no code inside their certain range; targets of branches
    between two instructions."""
    at = np.flatnonzero(table.impossible[numbers])
    # Bytes behind a last call that does not return are nobody's.
    last = np.append(np.isin(vaddrs[1:], starts), True)[at] if len(vaddrs) else at > 0
    bad = vaddrs[at[~(last & table.calls[numbers[np.maximum(at - 1, 0)]])]]
    sources, targets = branches
    owner = np.searchsorted(starts, sources, "right") - 1
    near = (targets >= starts[0]) & (targets <= vaddrs[-1]) & (sources < certain[owner])
    sources, targets = sources[near], targets[near]
    at = np.searchsorted(vaddrs, targets)
    between = vaddrs[np.minimum(at, len(vaddrs) - 1)] != targets
    # `je 1f; lock; 1: cmpxchg ...` is how glibc saves the prefix with one thread.
    behind = np.array([data[vaddr - 1 - base] == 0xF0 for vaddr in targets[between].tolist()], bool)
    sources, targets = sources[between][~behind], targets[between][~behind]
    bad = np.concatenate([bad, sources, targets])
    owner = np.searchsorted(starts, bad, "right") - 1
    return np.unique(owner[bad < certain[owner]]), np.unique(targets)
