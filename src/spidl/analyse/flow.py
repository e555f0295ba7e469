"""Control flow inside a function, and the values before chosen instructions of it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import numpy as np

from spidl.analyse.code import BRANCH, CALL, JUMP, MEMORY, TABLE, WIDE, codes, decoder
from spidl.analyse.functions import Functions, text_at
from spidl.analyse.layout import Column
from spidl.analyse.values import RAX, State, Value, machine
from spidl.elf import ADDRESS_LIMIT

if TYPE_CHECKING:
    from iced_x86 import Instruction

_PARTS: Final = 12
"""Functions that are looked at as one: a hot part and its cold ones."""
_LABELS: Final = (TABLE, MEMORY, WIDE)
"""How a function refers to places in its own middle, to jump there."""
_DEEP: Final = 8
"""Tail calls that are followed to find out whether a function returns."""


@dataclass(frozen=True)
class Bodies:
    """The instructions of functions, and who leads where among them."""

    functions: Functions
    _decoded: dict[int, list[Instruction]] = field(default_factory=dict, repr=False)
    _returns: dict[int, bool] = field(default_factory=dict, repr=False)

    def instructions(self, function: int) -> list[Instruction]:
        """A function's instructions, ascending."""
        found = self._decoded.get(function)
        if found is None:
            found = self._decoded[function] = self._decode(function)
        return found

    def _decode(self, function: int) -> list[Instruction]:
        functions = self.functions
        start = int(functions.starts[function])
        text = text_at(functions.layout, start)
        if text is None:
            return []
        if function < functions.ranges:
            data = bytes(text.data[start - text.vaddr : functions.ends[function] - text.vaddr])
            return list(decoder()(64, data, ip=start))
        number = function - functions.ranges
        found = []
        for vaddr in functions.gaps.instructions[number]:
            data = bytes(text.data[vaddr - text.vaddr : vaddr - text.vaddr + 15])
            found.append(decoder()(64, data, ip=vaddr).decode())
        return found

    @cached_property
    def entered(self) -> frozenset[int]:
        """Addresses in the code that are known outside, or that unwinding leads to."""
        layout = self.functions.layout
        known = [layout.slots.targets, layout.roots, layout.symbol_values[layout.exported],
                 self.functions.frames.lands[1]]  # fmt: skip
        return frozenset(np.concatenate(known).tolist()) | {layout.file.entry}

    @cached_property
    def pointed(self) -> frozenset[int]:
        """Addresses that data points to."""
        return frozenset(self.functions.layout.pointers.targets.tolist())

    def range_of(self, function: int) -> tuple[int, int]:
        functions = self.functions
        if function < functions.ranges:
            return int(functions.starts[function]), int(functions.ends[function])
        instructions = self.instructions(function)
        last = instructions[-1]
        return instructions[0].ip, last.ip + last.len

    def loaded_before(self, function: int, vaddr: int) -> int | None:
        """The number that RAX surely has before an instruction: a load, and no way in behind it."""
        functions, table = self.functions, codes()
        if functions.strange[function]:
            return None
        instructions = self.instructions(function)
        index = bisect_left(instructions, vaddr, key=attrgetter("ip"))
        while index > 0:
            following, one = instructions[index], instructions[index - 1]
            if table.ends[one.code] or table.calls[one.code] or one.next_ip != following.ip:
                return None
            if one.code == table.load_eax and one.op0_register == table.eax:
                first, last = one.ip + 1, vaddr + 1
                ways = self.led[np.searchsorted(self.led, first) : np.searchsorted(self.led, last)]
                if len(ways) or functions.rows_to(first, last).size:
                    return None
                return int(one.immediate32)
            if machine().writes_rax(one):
                return None
            index -= 1
        return None

    @cached_property
    def led(self) -> Column:
        """Addresses that others, unwinding or data lead to, ascending."""
        layout = self.functions.layout
        starts = self.functions.starts[self.functions.falls[1]]
        entered = [vaddr for vaddr in self.entered if 0 <= vaddr < ADDRESS_LIMIT]
        known = [np.array(entered, dtype=np.int64), layout.pointers.targets, starts]
        return np.unique(np.concatenate(known)).astype(np.int64)

    def returns(self, function: int, above: tuple[int, ...] = ()) -> bool:
        """Whether a call of a function may come back: not where nothing in it can return."""
        known = self._returns.get(function)
        if known is not None or function < 0 or function in above or len(above) > _DEEP:
            return known is not False
        functions, table = self.functions, codes()
        instructions = self.instructions(function)
        ends = [one for one in instructions if table.ends[one.code]]
        found = (
            bool(functions.strange[function])
            or not instructions
            or any(table.kinds[one.code] < 0 and one.code not in table.traps for one in ends)
        )
        first, _ = functions.falls
        found = found or bool((first == function).any())
        if not found:
            near = [one.near_branch_target for one in instructions
                    if table.kinds[one.code] in (JUMP, BRANCH)]  # fmt: skip
            others = {functions.home_of(vaddr) for vaddr in near} - {function}
            found = any(self.returns(other, (*above, function)) for other in sorted(others))
        if not above:
            self._returns[function] = found
        return found

    def parts(self, function: int) -> tuple[int, ...]:
        """The function and those that are parts of it: they jump into its middle, or nothing but
        its jumps leads to them (GCC's .cold)."""
        functions, refs = self.functions, self.functions.refs
        found, todo = [function], [function]
        while todo and len(found) < _PARTS:
            one = todo.pop()
            start, end = self.range_of(one)
            rows = self.functions.rows_to(start + 1, end)
            jumps = rows[(refs.kinds[rows] == JUMP) | (refs.kinds[rows] == BRANCH)]
            near = set(functions.homes[jumps].tolist())
            mine = functions.rows_of(one)
            leaving = mine[(refs.kinds[mine] == JUMP) | (refs.kinds[mine] == BRANCH)]
            for target in np.unique(refs.targets[leaving]).tolist():
                other = functions.home_of(target)
                if other < 0 or other == one:
                    continue
                if target != functions.starts[other] or self._is_only_jumped(other, found):
                    near.add(other)
            first, second = functions.falls
            near |= set(first[second == one].tolist()) | set(second[first == one].tolist())
            near.discard(-1)
            new = sorted(near - set(found))
            found += new
            todo += new
        return tuple(found)

    def _is_only_jumped(self, function: int, by: list[int]) -> bool:
        refs, homes = self.functions.refs, self.functions.homes
        start = int(self.functions.starts[function])
        rows = self.functions.rows_to(start, start + 1)
        fine = (refs.kinds[rows] == JUMP) | (refs.kinds[rows] == BRANCH)
        return start not in self.entered | self.pointed and bool(
            (fine & np.isin(homes[rows], by)).all()
        )


@dataclass(frozen=True, slots=True)
class _Leaders:
    """Indexes of instructions that something leads to other than the instruction before."""

    inside: set[int]
    """Jumps of the function, and what falls into it."""
    started: set[int]
    """Calls: the start of a function."""
    pointed: set[int]
    """Labels in the data: the function's own jumps through registers and memory lead there."""
    lost: set[int]
    """Something that is not understood: any value can be anywhere."""

    @property
    def all(self) -> set[int]:
        return self.inside | self.started | self.pointed | self.lost


class Body:
    """One function with its parts, ready to be asked for values."""

    def __init__(self, bodies: Bodies, function: int) -> None:
        self.bodies = bodies
        self.functions = bodies.functions
        self.function = function
        self.parts = bodies.parts(function)
        self._instructions: list[Instruction] = []
        for part in self.parts:
            self._instructions += bodies.instructions(part)
        self._at = {one.ip: index for index, one in enumerate(self._instructions)}
        self.strange = any(bool(self.functions.strange[part]) for part in self.parts)

    @cached_property
    def _leaders(self) -> _Leaders:
        found = _Leaders(set(), set(), set(), set())
        functions, refs = self.functions, self.functions.refs
        parts, at = set(self.parts), self._at
        for part in self.parts:
            start, end = self.bodies.range_of(part)
            for row in functions.rows_to(start, end).tolist():
                target, kind = int(refs.targets[row]), int(refs.kinds[row])
                index, own = at.get(target), int(functions.homes[row]) in parts
                if index is None:
                    continue
                if own and kind in (JUMP, BRANCH):
                    found.inside.add(index)
                elif target == start:
                    found.started.add(index)
                else:
                    (found.pointed if own and kind in _LABELS else found.lost).add(index)
            for one in self.bodies.instructions(part):
                if one.ip in self.bodies.entered:
                    (found.started if one.ip == start else found.lost).add(at[one.ip])
                elif one.ip in self.bodies.pointed:
                    (found.started if one.ip == start else found.pointed).add(at[one.ip])
            falls_in = bool((functions.falls[1] == part).any())
            if part == self.function and not falls_in and at[start] not in found.inside:
                found.started.add(at[start])
        # What falls in from another function.
        first, second = functions.falls
        for part in self.parts:
            for faller in first[second == part].tolist():
                index = at[int(functions.starts[part])]
                (found.inside if faller in parts else found.lost).add(index)
        if not any(codes().jumps[one.code] for one in self._instructions):
            found.lost.update(found.pointed)
            found.pointed.clear()
        return found

    @cached_property
    def _states(self) -> dict[int, State]:
        """The state at the head of each block, by index of the instruction."""
        table, ours = codes(), machine()
        led, leaders = self._leaders, self._leaders.all
        states: dict[int, State] = {}
        reached, waiting = (bytearray(len(self._instructions)) for _ in range(2))
        todo: list[int] = []  # lowest first: mostly, what leads to a block is done before it

        def enter(index: int, state: State) -> None:
            known = states.get(index)
            if known is None:
                states[index] = state.copy()
            elif not known.join(state):
                return
            if not waiting[index]:
                waiting[index] = 1
                heappush(todo, index)

        parts = {int(self.functions.starts[part]): part for part in self.parts}
        for index in sorted(led.started):
            enter(index, State.entry(parts[self._instructions[index].ip]))
        for index in sorted(led.lost):
            enter(index, State())
        rest = iter(range(len(self._instructions)))
        while True:
            while todo:
                head = heappop(todo)
                waiting[head] = 0
                state = states[head].copy()
                place: int | None = head
                while place is not None:
                    reached[place] = 1
                    one = self._instructions[place]
                    if table.kinds[one.code] in (JUMP, BRANCH):
                        target = self._at.get(one.near_branch_target)
                        if target is not None:
                            enter(target, state)
                    elif table.jumps[one.code]:
                        for target in led.pointed:
                            enter(target, state)
                    ours.step(one, state)
                    place = self._after(one)
                    if place is not None and (place in leaders or place in states):
                        enter(place, state)
                        break
            # What nothing is known to lead to may still be led to, if it is no padding.
            for lonely in rest:
                if not reached[lonely] and not table.padding[self._instructions[lonely].code]:
                    enter(lonely, State())
                    break
            else:
                return states

    def _after(self, one: Instruction) -> int | None:
        """The index of what may be executed behind an instruction, unless it jumps."""
        if codes().ends[one.code] or self._is_last(one):
            return None
        return self._at.get(one.ip + one.len)

    def _is_last(self, one: Instruction) -> bool:
        """Whether an instruction is a call that does not come back."""
        table = codes()
        if table.kinds[one.code] != CALL:
            return False
        callee = self.functions.home_of(one.near_branch_target)
        at_start = callee >= 0 and self.functions.starts[callee] == one.near_branch_target
        return bool(at_start) and not self.bodies.returns(callee)

    def register(self, vaddr: int, register: int) -> Value:
        """What a register can hold before the instruction at an address."""
        state = self.state(vaddr)
        return None if state is None else state.registers.get(register)

    def state(self, vaddr: int) -> State | None:
        """All that is known before the instruction at an address; None for nothing."""
        goal = self._at.get(vaddr)
        if goal is None or self.strange:
            return None
        states, head = self._states, goal
        while head not in states:
            head -= 1
            if head < 0:
                return None
        state = states[head].copy()
        for one in self._instructions[head:goal]:
            machine().step(one, state)
        return state

    def number(self, vaddr: int) -> Value:
        """What RAX can hold before the `syscall` at an address."""
        return self.register(vaddr, RAX)

    def instruction(self, vaddr: int) -> Instruction | None:
        """The instruction at an address."""
        index = self._at.get(vaddr)
        return None if index is None else self._instructions[index]

    def stored(self, one: Instruction, state: State) -> Value:
        """What an instruction stores to memory; the empty set where it only reads.

        None where that is not known, and where it hands out the address.
        """
        return machine().stored(one, state)

    def compares(self, vaddr: int) -> bool:
        """Whether the instruction at an address only compares, and keeps nothing."""
        one = self.instruction(vaddr)
        return one is not None and not self.strange and machine().compares(one)
