"""Which numbers reach each `syscall`, in its function or through the function's callers; and which
names reach dlopen and dlsym."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from spidl.analyse.code import BOUND, BRANCH, CALL, JUMP
from spidl.analyse.flow import Bodies, Body
from spidl.analyse.functions import Functions
from spidl.analyse.summary import NUMBERS, Key
from spidl.analyse.values import ARGUMENTS, RSP, Arg, Atom, Field, Global, Stack, State
from spidl.elf import ADDRESS_LIMIT, PF

TAKES_NUMBER: Final = {"syscall": 0}
"""Functions of libraries that make the system call that an argument names (syscall(2))."""
TAKES_NAME: Final = {
    **dict.fromkeys(("dlopen", "g_module_open", "g_module_open_full", "lt_dlopen",
                     "lt_dlopenadvise", "lt_dlopenext", "krb5int_open_plugin", "xmlModuleOpen",
                     "uv_dlopen", "PR_LoadLibrary", "SDL_LoadObject"), 0),
    **dict.fromkeys(("dlmopen", "sqlite3_load_extension", "apr_dso_load",
                     "dlopen_many_sym_or_warn_sentinel"), 1),
    **dict.fromkeys(("dlsym", "dlvsym", "g_module_symbol", "lt_dlsym", "krb5int_get_plugin_data",
                     "krb5int_get_plugin_func", "xmlModuleSymbol", "uv_dlsym", "PR_FindSymbol",
                     "PR_FindFunctionSymbol", "SDL_LoadFunction"), 1),
    "apr_dso_sym": 2,
}  # fmt: skip
"""Functions of libraries that open the library, or look up the symbol, that an argument names:
dlopen(3), dlsym(3), and those that pass a name on to them.  Of others that do, in a library that
exports them, the name counts as computed."""
_LONGEST: Final = 4096
"""Bytes of a name: PATH_MAX."""
_M32: Final = (1 << 32) - 1
_DIRECT: Final = (CALL, JUMP, BRANCH)


@dataclass(frozen=True, slots=True)
class Taker:
    """An imported function that is told a number, or a name."""

    symbol: int
    argument: int
    named: bool


Origin = Taker | None
"""Who is told; None for a `syscall` of this file."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A place whose number cannot be told; ``function`` is -1 for data."""

    function: int
    vaddr: int
    reason: str


@dataclass(slots=True)
class Numbers:
    """What was found out."""

    calls: set[tuple[int, int]] = field(default_factory=set)
    """(function, number)."""
    wrapper_calls: set[tuple[int, int, int]] = field(default_factory=set)
    """(function, symbol, number)."""
    told: set[tuple[int, int, str | None]] = field(default_factory=set)
    """(function, symbol of `TAKES_NAME`, name), None for a name that is computed; the function -1
    for data."""
    wrappers: dict[int, int] = field(default_factory=dict)
    """Function to argument, for those that others call from outside."""
    faults: set[Fault] = field(default_factory=set)


class _Search:
    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.refs, self.homes = functions.refs, functions.homes
        self.layout = functions.layout
        self.bodies = Bodies(functions)
        self.found = Numbers()
        self._made: dict[int, Body] = {}
        self._seen: set[tuple[object, ...]] = set()

    def body(self, function: int) -> Body:
        made = self._made.get(function)
        if made is None:
            made = self._made[function] = Body(self.bodies, function)
        return made

    def run(self, takers: list[Taker]) -> Numbers:
        for vaddr, function in self._sites():
            number = self.bodies.loaded_before(function, vaddr)
            if number is not None:
                self._atom(function, vaddr, number, None)
                continue
            body = self.body(function)
            value = body.number(vaddr)
            if value is None:
                reason = "the code cannot be read" if body.strange else "the number is computed"
                self._fault(function, vaddr, reason, None)
            else:
                for atom in value:
                    self._atom(function, vaddr, atom, None)
        for taker in takers:
            self._taker(taker)
        return self.found

    def _sites(self) -> Iterator[tuple[int, int]]:
        vaddrs = self.functions.syscalls
        homes = self.functions.home(vaddrs)
        return zip(vaddrs.tolist(), homes.tolist(), strict=True)

    def _fault(self, function: int, vaddr: int, reason: str, origin: Origin) -> None:
        if origin is not None and origin.named:
            self.found.told.add((function, origin.symbol, None))
        else:
            self.found.faults.add(Fault(function, vaddr, reason))

    def _atom(self, function: int, vaddr: int, atom: Atom, origin: Origin) -> None:
        """One of the things that a number, or a name, can be at a place in a function."""
        key = (function, vaddr, atom, origin)
        if key in self._seen:
            return
        self._seen.add(key)
        if origin is not None and origin.named and isinstance(atom, int | Global):
            self.found.told.add((function, origin.symbol, self._name_at(atom)))
        elif isinstance(atom, int):
            number = atom & _M32
            if number >= NUMBERS:
                self._fault(function, vaddr, f"the number {number} is no system call's", origin)
            elif origin is None:
                self.found.calls.add((function, number))
            else:
                self.found.wrapper_calls.add((function, origin.symbol, number))
        elif isinstance(atom, Arg):
            self._callers(atom.function, atom, origin)
        elif isinstance(atom, Field) and isinstance(atom.pointer, Arg):
            self._callers(atom.pointer.function, atom, origin)
        elif isinstance(atom, Field) and isinstance(atom.pointer, Global):
            self._through_global(function, vaddr, atom, origin)
        else:
            self._fault(function, vaddr, "the number is read from memory", origin)

    def _name_at(self, atom: int | Global) -> str | None:
        """The constant string at an address, or where a constant word points; None for none.

        NULL is the program itself, as the empty string is (dlopen(3)).
        """
        if isinstance(atom, Global):
            target = self.layout.constant_pointers.get(atom.vaddr)
            return None if target is None else self._name_at(target)
        if atom == 0:
            return ""
        for load in self.layout.file.loads:
            if not load.flags & PF.W and load.vaddr <= atom < load.vaddr + load.filesz:
                first = load.offset + atom - load.vaddr
                size = min(load.filesz - (atom - load.vaddr), _LONGEST)
                text, nul, _ = bytes(self.layout.file.data[first : first + size]).partition(b"\0")
                return os.fsdecode(text) if nul else None
        return None

    # Through callers

    def _callers(self, function: int, atom: Arg | Field, origin: Origin) -> None:
        """Every place that leads to a function whose argument is, or points to, a number."""
        key = ("callers", function, atom, origin)
        if key in self._seen:
            return
        self._seen.add(key)
        start = int(self.functions.starts[function])
        start_, end = self.bodies.range_of(function)
        parts = set(self.body(function).parts)
        reason = f"{self._name(function)} takes the number as an argument"
        for row in self.functions.rows_to(start_, end).tolist():
            caller, source = int(self.homes[row]), int(self.refs.sources[row])
            if caller in parts and int(self.refs.targets[row]) != start:
                continue
            if caller == function and int(self.refs.kinds[row]) != CALL:
                continue
            if int(self.refs.targets[row]) == start and self.refs.kinds[row] in _DIRECT:
                self._argument(caller, source, atom, origin)
            else:
                self._fault(caller, source, f"{reason}, and its address is taken", origin)
        first, second = self.functions.falls
        for faller in first[second == function].tolist():
            self._fault(faller, start, f"{reason}, and code runs into it", origin)
        for slot in self._slots_to(start):
            self._through_slot(slot, atom, origin, reason)
        self._from_outside(function, start, end, atom, origin, reason)

    def _from_outside(
        self, function: int, start: int, end: int, atom: Arg | Field, origin: Origin, reason: str
    ) -> None:
        pointers = self.layout.pointers.targets
        if ((pointers >= start) & (pointers < end)).any():
            self._fault(-1, start, f"{reason}, and data points to it", origin)
        exported = self.layout.symbol_values[self.layout.exported]
        inside = (exported >= start) & (exported < end)
        if not inside.any():
            return
        if origin is None and isinstance(atom, Arg) and atom.index < len(ARGUMENTS):
            known = self.found.wrappers.setdefault(function, atom.index)
            if known == atom.index and (exported[inside] == start).all():
                return
        if origin is not None and origin.named and isinstance(atom, Arg):
            # Those who import one of these say themselves what they tell it.
            keys = [self._names.get(vaddr) for vaddr in exported[inside].tolist()]
            if all(key is not None and TAKES_NAME.get(key[0]) == atom.index for key in keys):
                return
        self._fault(function, start, f"{reason}, and others can call it", origin)

    def _slots_to(self, start: int) -> list[int]:
        slots = self.layout.slots
        found: list[int] = slots.vaddrs[slots.targets == start].tolist()
        return found

    def _through_slot(self, slot: int, atom: Arg | Field, origin: Origin, reason: str) -> None:
        for row in self.functions.rows_to(slot, slot + 8).tolist():
            caller, source = int(self.homes[row]), int(self.refs.sources[row])
            if int(self.refs.kinds[row]) == BOUND:
                self._argument(caller, source, atom, origin)
            elif not self.body(caller).compares(source):
                self._fault(caller, source, f"{reason}, and its address is taken", origin)

    def _argument(self, caller: int, vaddr: int, atom: Arg | Field, origin: Origin) -> None:
        """What a caller gives."""
        state = self.body(caller).state(vaddr)
        value = None if state is None else self._given(caller, vaddr, state, atom)
        if value is None:
            reason = "the number that is passed on is computed"
            self._fault(caller, vaddr, reason, origin)
            return
        for one in value:
            self._atom(caller, vaddr, one, origin)

    def _given(
        self, caller: int, vaddr: int, state: State, atom: Arg | Field
    ) -> frozenset[Atom] | None:
        if isinstance(atom, Field):
            pointer = atom.pointer
            assert isinstance(pointer, Arg)
            where = self._given(caller, vaddr, state, pointer)
            if where is None or len(where) != 1:
                return None
            (base,) = where
            if isinstance(base, Stack):
                return state.slots.get(base.offset + atom.offset)
            return frozenset({Field(base, atom.offset)}) if isinstance(base, Arg) else None
        if atom.index < len(ARGUMENTS):
            return state.registers.get(ARGUMENTS[atom.index])
        top = state.registers.get(RSP)
        one = self.body(caller).instruction(vaddr)
        if top is None or len(top) != 1 or one is None:
            return None
        (base,) = top
        # Behind a jump the callee finds our return address, behind a call its own.
        below = 8 if one.is_jmp_short_or_near or one.is_jmp_near_indirect else 0
        if not isinstance(base, Stack):
            return None
        return state.slots.get(base.offset + 8 * (atom.index - len(ARGUMENTS)) + below)

    # Through a global pointer

    def _through_global(self, function: int, vaddr: int, atom: Field, origin: Origin) -> None:
        """The number is behind a pointer in the file's data: who puts pointers there?

        glibc hands a request to all threads so (nptl_setxid.c).
        """
        pointer = atom.pointer
        assert isinstance(pointer, Global)
        word = pointer.vaddr
        reason = "the number is read through a pointer in the data"
        targets, exported = self.layout.pointers.targets, self.layout.exported
        if not 0 <= word < ADDRESS_LIMIT:
            self._fault(function, vaddr, reason, origin)
            return
        known = np.isin(word, targets) or np.isin(word, self.layout.symbol_values[exported])
        if known or self.layout.is_text(word):
            self._fault(function, vaddr, reason, origin)
            return
        for row in self.functions.rows_to(word, word + 8).tolist():
            writer, source = int(self.homes[row]), int(self.refs.sources[row])
            body = self.body(writer)
            one, state = body.instruction(source), body.state(source)
            what = None if one is None or state is None else body.stored(one, state)
            if what is None:
                self._fault(function, vaddr, reason, origin)
                continue
            for value in what:
                if isinstance(value, Arg):
                    self._callers(value.function, Field(value, atom.offset), origin)
                elif value != 0:
                    self._fault(function, vaddr, reason, origin)

    # Through an imported function

    def _taker(self, taker: Taker) -> None:
        """Calls of a function of another object that takes the number, or the name."""
        slots, atom, symbol = self.layout.slots, Arg(taker.argument, -1), taker.symbol
        what = "name" if taker.named else "number"
        reason = f"{self.layout.key(symbol)[0]}() takes the {what} as an argument"
        for slot in slots.vaddrs[slots.imports == symbol].tolist():
            self._through_slot(slot, atom, taker, reason)
        if np.isin(symbol, self.layout.pointers.symbols):
            self._fault(-1, 0, f"{reason}, and data points to it", taker)

    @cached_property
    def _names(self) -> dict[int, Key]:
        layout = self.layout
        return {int(layout.symbol_values[at]): layout.key(int(at)) for at in layout.exported}

    def _name(self, function: int) -> str:
        vaddr = int(self.functions.starts[function])
        known = self._names.get(vaddr)
        return f"the function at {vaddr:#x}" if known is None else known[0]


def find_numbers(functions: Functions) -> Numbers:
    """The numbers of every `syscall` and of calls of functions in `TAKES_NUMBER`, and the names in
    calls of those in `TAKES_NAME`."""
    layout = functions.layout
    slots, pointers = layout.slots, layout.pointers
    asked = np.unique(np.concatenate([slots.imports[slots.imports >= 0], pointers.symbols]))
    takers = []
    for symbol in asked.tolist():
        name = layout.file.symbol_name(symbol)
        for table in (TAKES_NUMBER, TAKES_NAME):
            if name in table:
                takers.append(Taker(symbol, table[name], table is TAKES_NAME))
    if not takers and not len(functions.syscalls):
        return Numbers()
    return _Search(functions).run(takers)
