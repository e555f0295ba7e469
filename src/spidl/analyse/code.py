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
from spidl.analyse.native import (
    ENDS,
    FALLS,
    INTERRUPT,
    RETURNS,
    SYSCALL,
    UNSURE,
    Marks,
    Rows,
    sweep_fast,
)
from spidl.diagnostics import LinkError

if TYPE_CHECKING:
    import iced_x86

_BATCH: Final = 1 << 18
"""Bytes of code decoded at a time; an instruction takes some 60 bytes as a Python object."""

CALL, JUMP, BRANCH, MEMORY, BOUND, WIDE, TABLE = range(7)
"""Kinds of references: near call, jump, conditional jump; a RIP-relative operand; such an operand
of a call or jump through memory; an immediate or displacement that is an address; an entry of a
table of relative addresses."""
FLOWS: Final = (CALL, JUMP, BRANCH)
"""What leads to code for certain; others may lead to data."""


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

    def where(self, mask: npt.NDArray[np.bool_] | Column) -> Refs:
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
    marks = np.zeros(len(text.data), dtype=np.bool_)
    finals = np.full(len(starts), UNSURE, dtype=np.uint8)
    parts = list(sweep_fast(text, starts, ends, marks, finals))
    rest = np.flatnonzero(finals == UNSURE)
    impossible = [np.zeros(0, dtype=np.int64)]
    for batch in _batches(rest, starts, ends):
        decoder_ = _Batch(text, starts[batch], ends[batch])
        parts.append(decoder_.rows())
        impossible.append(decoder_.impossible())
        marks[decoder_.vaddrs - text.vaddr] = True
        finals[batch] = decoder_.finals()
    rows = Refs.join(Refs(*part) for part in parts)
    parts.clear()
    refs = rows.where(rows.kinds < WIDE)
    strange, cuts = _strange(text, starts, ends, certain, refs, marks, np.concatenate(impossible))
    return Decoded(
        refs,
        rows.sources[rows.kinds == SYSCALL],
        rows.sources[rows.kinds == INTERRUPT],
        rows.where(rows.kinds == WIDE),
        np.flatnonzero(finals == FALLS),
        np.flatnonzero(finals == RETURNS),
        strange,
        cuts,
    )


def _batches(rows: Column, starts: Column, ends: Column) -> Iterator[Column]:
    """Functions in pieces of some `_BATCH` bytes."""
    sizes = np.cumsum(ends[rows] - starts[rows])
    first = 0
    while first < len(rows):
        before = int(sizes[first - 1]) if first else 0
        last = max(int(np.searchsorted(sizes, before + _BATCH, "right")), first + 1)
        yield rows[first:last]
        first = last


class _Batch:
    """Some functions as iced reads them."""

    def __init__(self, text: Text, starts: Column, ends: Column) -> None:
        make, base = decoder(), text.vaddr
        decoders: Iterator[iced_x86.Decoder] = (
            make(64, bytes(text.data[start - base : end - base]), ip=start)
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        )
        self._found = list(chain.from_iterable(decoders))
        self._starts = starts
        count = len(self._found)
        self.vaddrs: Column = np.fromiter(map(attrgetter("ip"), self._found), np.int64, count)
        self._codes = np.fromiter(map(attrgetter("code"), self._found), np.uint16, count)

    def rows(self) -> Rows:
        """What they refer to."""
        table, found, numbers, vaddrs = codes(), self._found, self._codes, self.vaddrs
        is_relative = attrgetter("is_ip_rel_memory_operand")
        relative = np.fromiter(map(is_relative, found), np.bool_, len(found))
        kinds = table.kinds[numbers]
        branches, operands = np.flatnonzero(kinds >= 0), np.flatnonzero(relative)
        led = map(attrgetter("near_branch_target"), compress(found, (kinds >= 0).tolist()))
        targets = np.fromiter(led, np.uint64, len(branches)).astype(np.int64)
        memory = map(attrgetter("ip_rel_memory_address"), compress(found, relative.tolist()))
        addressed = np.fromiter(memory, np.uint64, len(operands)).astype(np.int64)
        wide = np.flatnonzero(table.wide[numbers])
        values = np.fromiter((found[at].immediate64 for at in wide.tolist()), np.uint64, len(wide))
        syscalls = np.flatnonzero(numbers == table.syscall)
        interrupts = [at for at in np.flatnonzero(numbers == table.interrupt).tolist()
                      if found[at].immediate8 == 0x80]  # fmt: skip
        others = np.array([*syscalls.tolist(), *interrupts], dtype=np.int64)
        return (
            vaddrs[np.concatenate([branches, operands, wide, others])],
            np.concatenate([targets, addressed, values.astype(np.int64), others * 0]),
            np.concatenate([
                kinds[branches],
                np.where(table.bound[numbers[operands]], BOUND, MEMORY),
                np.full(len(wide), WIDE),
                np.where(numbers[others] == table.syscall, SYSCALL, INTERRUPT),
            ]).astype(np.int8),
        )  # fmt: skip

    def finals(self) -> npt.NDArray[np.uint8]:
        """How each function ends, padding left aside."""
        table, numbers = codes(), self._codes
        real = np.flatnonzero(~table.padding[numbers])
        last = np.searchsorted(self.vaddrs[real], np.append(self._starts[1:], 1 << 62)) - 1
        last = real[np.maximum(last, 0)] if len(real) else np.zeros(len(last), dtype=np.int64)
        inside = (self.vaddrs[last] >= self._starts) & ~table.padding[numbers[last]]
        final = numbers[last]
        found = np.where(table.calls[final], RETURNS, np.where(table.ends[final], ENDS, FALLS))
        return np.where(inside, found, ENDS).astype(np.uint8)

    def impossible(self) -> Column:
        """Where programs do not come.

        Bytes behind a last call that does not return are nobody's.
        """
        table, numbers, vaddrs = codes(), self._codes, self.vaddrs
        at = np.flatnonzero(table.impossible[numbers])
        last = np.append(np.isin(vaddrs[1:], self._starts), True)[at] if len(vaddrs) else at > 0
        return vaddrs[at[~(last & table.calls[numbers[np.maximum(at - 1, 0)]])]]


def _strange(
    text: Text,
    starts: Column,
    ends: Column,
    certain: Column,
    refs: Refs,
    marks: Marks,
    impossible: Column,
) -> tuple[Column, Column]:
    """Indexes of functions with what is no code inside their certain range; targets of branches
    between two instructions."""
    offsets = refs.targets - text.vaddr
    odd = np.flatnonzero((refs.kinds <= BRANCH) & (offsets >= 0) & (offsets < len(marks)))
    odd = odd[~marks[offsets[odd]]]
    sources, targets = refs.sources[odd], refs.targets[odd]
    led = np.searchsorted(starts, targets, "right") - 1
    between = (led >= 0) & (targets < ends[led])
    between &= sources < certain[np.searchsorted(starts, sources, "right") - 1]
    # `je 1f; lock; 1: cmpxchg ...` is how glibc saves the prefix with one thread.
    between &= text.data[np.maximum(targets - text.vaddr - 1, 0)] != 0xF0
    sources, targets = sources[between], targets[between]
    bad = np.concatenate([impossible, sources, targets])
    owner = np.searchsorted(starts, bad, "right") - 1
    return np.unique(owner[bad < certain[owner]]), np.unique(targets)
