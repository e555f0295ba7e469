"""What registers and stack slots can hold at a place in a function.

A value is a small set of atoms: numbers, and what the function was given.  None is any value.
Everything that is not understood makes what it writes any value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

from spidl.analyse.code import decoder

if TYPE_CHECKING:
    from iced_x86 import Instruction


@dataclass(frozen=True, slots=True)
class Arg:
    """Argument ``index`` of a function: 0 to 5 in registers, from 6 on in the stack (psABI)."""

    index: int
    function: int


@dataclass(frozen=True, slots=True)
class Stack:
    """The address that lies ``offset`` bytes above the return address."""

    offset: int


@dataclass(frozen=True, slots=True)
class Global:
    """The content of the file's word at ``vaddr``."""

    vaddr: int


@dataclass(frozen=True, slots=True)
class Field:
    """What lies ``offset`` bytes behind where another atom points."""

    pointer: Arg | Global
    offset: int


Atom: TypeAlias = int | Arg | Stack | Global | Field
Value: TypeAlias = frozenset[Atom] | None

MOST: Final = 16
"""Atoms in a set; more become any value."""
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
ARGUMENTS: Final = (RDI, RSI, RDX, RCX, 8, 9)
"""Registers of the first arguments (psABI 3.2.3)."""
_M32, _M64 = (1 << 32) - 1, (1 << 64) - 1


@dataclass(slots=True)
class State:
    """Values before an instruction; registers and slots that are absent can hold anything."""

    registers: dict[int, frozenset[Atom]] = field(default_factory=dict)
    slots: dict[int, frozenset[Atom]] = field(default_factory=dict)
    """By offset from the return address."""
    escaped: int | None = None
    """The lowest offset whose address was handed out: others can write from there on."""

    @classmethod
    def entry(cls, function: int) -> State:
        """At the start of a function."""
        registers: dict[int, frozenset[Atom]] = {
            register: frozenset({Arg(at, function)}) for at, register in enumerate(ARGUMENTS)
        }
        registers[RSP] = frozenset({Stack(0)})
        slots: dict[int, frozenset[Atom]] = {
            8 * at: frozenset({Arg(5 + at, function)}) for at in range(1, 4)
        }
        return cls(registers, slots)

    def copy(self) -> State:
        return State(dict(self.registers), dict(self.slots), self.escaped)

    def join(self, other: State) -> bool:
        """Let this be what either can be; says whether it changed."""
        changed = _join(self.registers, other.registers)
        changed |= _join(self.slots, other.slots)
        if other.escaped is not None and (self.escaped is None or other.escaped < self.escaped):
            self.escaped = other.escaped
            changed = True
        return changed


def _join(into: dict[int, frozenset[Atom]], other: Mapping[int, frozenset[Atom]]) -> bool:
    changed = False
    for key in list(into):
        theirs = other.get(key)
        merged = None if theirs is None else into[key] | theirs
        if merged is None or len(merged) > MOST:
            del into[key]
            changed = True
        elif merged != into[key]:
            into[key] = merged
            changed = True
    return changed


class Machine:
    """Applies instructions to states.  Made once; the numbers of iced's enums are looked up."""

    def __init__(self) -> None:
        decoder()
        from iced_x86 import (
            InstructionInfoFactory,
            Mnemonic,
            OpAccess,
            OpKind,
            Register,
            RegisterExt,
        )

        self._info = InstructionInfoFactory()
        self._full: dict[int, tuple[int, int]] = {}
        """iced's number of a register to the processor's own, and its size in bytes."""
        first, last = Register.RAX, Register.R15
        for name in dir(Register):
            if name.isupper():
                value = getattr(Register, name)
                full = RegisterExt.full_register(value)
                if first <= full <= last:
                    self._full[value] = full - first, RegisterExt.size(value)
        self._rip = Register.RIP
        self._none = Register.NONE
        self._special = {Register.FS, Register.GS}
        self._kind = OpKind
        self._writes = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE,
                        OpAccess.READ_COND_WRITE}  # fmt: skip
        m = Mnemonic
        self._mov = {m.MOV, m.MOVZX, m.MOVSXD, m.MOVSX}
        self._lea, self._xor, self._sub, self._add, self._or = m.LEA, m.XOR, m.SUB, m.ADD, m.OR
        self._push, self._pop, self._leave, self._call = m.PUSH, m.POP, m.LEAVE, m.CALL
        self._and, self._sbb, self._syscall = m.AND, m.SBB, m.SYSCALL
        self._cmov = {getattr(m, name) for name in dir(m) if name.startswith("CMOV")}
        self._comparing = {m.CMP, m.TEST}
        self._silent = {m.CMP, m.TEST, m.NOP, m.ENDBR64, m.JMP}

    # Operands

    def address(self, one: Instruction, state: State) -> Atom | None:
        """Where a memory operand is, if it is in the stack, in the file, or in an argument."""
        if one.memory_index != self._none or one.segment_prefix in self._special:
            return None
        base, offset = one.memory_base, _signed(one.memory_displacement)
        if base == self._rip:
            return Global(one.memory_displacement)
        if base == self._none:
            return Global(offset) if offset >= 0 else None
        if base not in self._full:
            return None
        value = state.registers.get(self._full[base][0])
        if value is None or len(value) != 1:
            return None
        (atom,) = value
        if isinstance(atom, Stack):
            return Stack(atom.offset + offset)
        if isinstance(atom, int):
            return Global(atom + offset)
        if isinstance(atom, Arg | Global):
            return Field(atom, offset)
        return None

    def load(self, one: Instruction, state: State) -> Value:
        """What a memory operand can hold, of 4 or 8 bytes."""
        where = self.address(one, state)
        if isinstance(where, Stack):
            return state.slots.get(where.offset)
        if isinstance(where, Global | Field):
            return frozenset({where})
        return None

    def _read(self, one: Instruction, at: int, state: State) -> Value:
        kind = one.op_kind(at)
        if kind == self._kind.REGISTER:
            register = one.op_register(at)
            known = self._full.get(register)
            if known is None or known[1] < 4:
                return None
            return state.registers.get(known[0])
        if kind == self._kind.MEMORY:
            return self.load(one, state)
        try:
            return frozenset({one.immediate(at) & _M64})
        except ValueError:
            return None

    def _write(self, one: Instruction, state: State, value: Value) -> None:
        """Put a value where operand 0 says."""
        if one.op_kind(0) == self._kind.REGISTER:
            register = one.op_register(0)
            known = self._full.get(register)
            if known is None:
                return
            number, size = known
            if size < 4:
                value = None
            elif size == 4 and value is not None:
                value = frozenset(a & _M32 if isinstance(a, int) else a for a in value)
            if value is None:
                state.registers.pop(number, None)
            else:
                state.registers[number] = value
        else:
            self._store(one, state, value)

    def _store(self, one: Instruction, state: State, value: Value) -> None:
        where = self.address(one, state)
        if isinstance(where, Stack):
            size = self._size(one)
            end = where.offset + max(size, 1)
            for near in [at for at in state.slots if where.offset - 8 < at < end]:
                del state.slots[near]
            if value is not None and size in (4, 8):
                state.slots[where.offset] = value
        elif where is None:
            self._forget_reached(state)

    @staticmethod
    def _forget_reached(state: State) -> None:
        """What somebody could reach through an address of the stack that was handed out."""
        if state.escaped is not None:
            for offset in [at for at in state.slots if at + 8 > state.escaped]:
                del state.slots[offset]

    def _size(self, one: Instruction) -> int:
        from iced_x86 import MemorySizeExt

        return int(MemorySizeExt.size(one.memory_size))

    # Instructions

    def step(self, one: Instruction, state: State) -> None:
        """Apply one instruction to a state, in place."""
        mnemonic = one.mnemonic
        if mnemonic in self._silent or one.is_jcc_short_or_near:
            return
        if mnemonic in self._mov:
            size_ok = one.op_kind(1) != self._kind.MEMORY or self._size(one) >= 4
            self._write(one, state, self._read(one, 1, state) if size_ok else None)
        elif mnemonic == self._lea:
            self._write(one, state, self._lea_value(one, state))
        elif mnemonic in self._cmov:
            old, new = self._read(one, 0, state), self._read(one, 1, state)
            both = None if old is None or new is None else old | new
            self._write(one, state, both)
        elif mnemonic in (self._xor, self._sub) and self._is_same(one):
            self._write(one, state, frozenset({0}))
        elif mnemonic == self._sbb and self._is_same(one):
            self._write(one, state, frozenset({0, _M64}))
        elif mnemonic in (self._add, self._sub, self._and, self._or):
            self._arithmetic(one, state)
        elif mnemonic == self._push:
            # An operand that is addressed through RSP is read before RSP changes.
            value = self._read(one, 0, state)
            self._shift(state, -8)
            top = self._top(state)
            if top is not None:
                for near in range(top - 7, top + 8):
                    state.slots.pop(near, None)
                if value is not None:
                    state.slots[top] = value
        elif mnemonic == self._pop:
            top = self._top(state)
            value = None if top is None else state.slots.get(top)
            if one.op_kind(0) == self._kind.REGISTER:
                self._write(one, state, value)
            self._shift(state, 8)
        elif mnemonic == self._leave:
            frame = state.registers.get(RBP)
            state.registers.pop(RSP, None)
            state.registers.pop(RBP, None)
            if frame is not None:
                state.registers[RSP] = frame
                self._shift(state, 8)
        elif mnemonic == self._call:
            # Others may live on: GCC's -fipa-ra knows what a callee leaves alone.
            for register in (RAX, RDX):
                state.registers.pop(register, None)
            self._forget_reached(state)
        elif mnemonic == self._syscall:
            for register in (RAX, RCX, 11):
                state.registers.pop(register, None)
            self._forget_reached(state)
        else:
            self._anything(one, state)

    def _is_same(self, one: Instruction) -> bool:
        kind = self._kind.REGISTER
        return bool(
            one.op_kind(0) == kind == one.op_kind(1) and one.op_register(0) == one.op_register(1)
        )

    def _lea_value(self, one: Instruction, state: State) -> Value:
        where = self.address(one, state)
        if isinstance(where, Stack):
            if one.op_register(0) in self._full and self._full[one.op_register(0)][0] != RSP:
                known = where.offset if state.escaped is None else state.escaped
                state.escaped = min(where.offset, known)
            return frozenset({where})
        if isinstance(where, Global):
            return frozenset({where.vaddr})
        return None

    def _arithmetic(self, one: Instruction, state: State) -> None:
        old, by = self._read(one, 0, state), self._read(one, 1, state)
        mnemonic, result = one.mnemonic, None
        if by is not None and len(by) == 1 and old is not None:
            (amount,) = by
            if isinstance(amount, int):
                found = [self._compute(mnemonic, atom, amount) for atom in old]
                if all(atom is not None for atom in found):
                    result = frozenset(atom for atom in found if atom is not None)
        if mnemonic == self._or and by == frozenset({_M64}):
            result = by
        if mnemonic == self._and and by == frozenset({0}):
            result = by
        self._write(one, state, result)

    def _compute(self, mnemonic: int, atom: Atom, amount: int) -> Atom | None:
        if mnemonic == self._sub:
            mnemonic, amount = self._add, -_signed(amount)
        if mnemonic == self._add:
            if isinstance(atom, int):
                return (atom + amount) & _M64
            if isinstance(atom, Stack):
                return Stack(atom.offset + _signed(amount & _M64))
            return None
        if not isinstance(atom, int):
            return None
        return atom & amount if mnemonic == self._and else atom | amount

    @staticmethod
    def _top(state: State) -> int | None:
        value = state.registers.get(RSP)
        if value is None or len(value) != 1:
            return None
        (atom,) = value
        return atom.offset if isinstance(atom, Stack) else None

    def _shift(self, state: State, by: int) -> None:
        top = self._top(state)
        if top is None:
            state.registers.pop(RSP, None)
        else:
            state.registers[RSP] = frozenset({Stack(top + by)})

    def _anything(self, one: Instruction, state: State) -> None:
        """Forget all that an instruction writes, as iced's tables have it."""
        info = self._info.info(one)
        for used in info.used_registers():
            if used.access in self._writes and used.register in self._full:
                state.registers.pop(self._full[used.register][0], None)
        if any(used.access in self._writes for used in info.used_memory()):
            self._store(one, state, None)

    def stored(self, one: Instruction, state: State) -> Value:
        """What a `mov` stores to memory; the empty set for what only reads memory.

        None for anything else, and for `lea`, whose address goes elsewhere.
        """
        if one.mnemonic == self._lea:
            return None
        if one.mnemonic in self._mov and one.op_kind(0) == self._kind.MEMORY:
            return self._read(one, 1, state)
        written = any(u.access in self._writes for u in self._info.info(one).used_memory())
        return None if written else frozenset()

    def compares(self, one: Instruction) -> bool:
        """Whether an instruction sets flags and nothing else."""
        return one.mnemonic in self._comparing

    def writes_rax(self, one: Instruction) -> bool:
        """Whether an instruction can change RAX."""
        return any(
            used.access in self._writes and self._full.get(used.register, (-1,))[0] == RAX
            for used in self._info.info(one).used_registers()
        )


def _signed(value: int) -> int:
    value &= _M64
    return value - (1 << 64) if value >> 63 else value


@cache
def machine() -> Machine:
    """The one machine."""
    return Machine()
