"""One object file in the process, from placed to running: the code behind domains.

Until `enable` its text is mapped without PROT_EXEC, so a jump into it faults, and no address of it
is given to anybody but the slots of other placed objects.  Undefined symbols are bound one by one;
what the object's own relocations need of itself is written when it is placed.
"""

from __future__ import annotations

import atexit
import itertools
import os
import weakref
from collections.abc import Iterable, Sequence

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.domains.exports import read_exports
from spidl.domains.gates import new_gate
from spidl.domains.relocations import Relocations, read_relocations
from spidl.domains.slots import Words, bound, cleared, unbound, value_of
from spidl.domains.symbols import Import, Kind, Slot, Symbol
from spidl.elf import DT, ElfFile, R
from spidl.link.actions import Protection
from spidl.link.dso import Dso, identity_of
from spidl.link.memory import Memory
from spidl.link.namespace import Namespace
from spidl.link.space import Protect, Provenance, page_down
from spidl.live import process, segments
from spidl.live.members import Member
from spidl.live.outline import outline_of
from spidl.live.shell import Shell, open_shell
from spidl.live.tls import Slot as TlsSlot
from spidl.live.tls import TlsState, tls_needs

_HOST = "libc.so.6"
"""What a shell says it needs: a domain's needs are nobody's business but resolve's."""
_serials = itertools.count(1)
_Values = list[tuple[Import, int, list[tuple[Slot, Words]]]]
"""For each import what its symbol stands for, and the words of its slots."""
_LATE = (Kind.INDIRECT, Kind.THREAD)
"""What has a value only when the code that has it can run."""


class Placed:
    """A shared object that is in the process.

    ``state`` is ``placed``, ``starting`` (its text is executable, its startup code is not through),
    ``running``, ``closing`` or ``closed``.  ``left`` is the number of the last call
    from Python that may still be inside although somebody was unresolved from it
    (`spidl.domains.calls`).
    """

    def __init__(self, file: ElfFile, name: str, path: str) -> None:
        """``path`` is what people call the file.

        Raises `LinkError`: of parsing, ``live/...`` for what must not be loaded, and
        ``domain/relocation``, ``domain/tls``.
        """
        self.name = name
        self.path = path
        self.state = "placed"
        self.left = 0
        self.users: weakref.WeakSet[Placed] = weakref.WeakSet()
        """Who is bound to it now."""
        segments.check_loadable(file)
        self._file = file
        found = read_relocations(file)
        needs = tls_needs([file])[0]
        needed = [_HOST] * len(file.needed)
        _unmap_forgotten()
        shell = open_shell(file, needed, needs)
        self.serial = next(_serials)
        self._closer = weakref.finalize(self, _forgotten.append, shell)
        self._closer.atexit = False
        identity = None if file.stat is None else identity_of(file.stat)
        dso = Dso(self.serial, name, file.name, file, Namespace(name), None, "domain", "", identity)
        shown = os.path.join(os.path.dirname(path), "./" * self.serial, os.path.basename(path))
        self._member = Member(outline_of(dso), shell, shown, file=file)
        self._member.parts = segments.mappings(dso, shell.bias, Provenance("load", "domain", name))
        segments.map_segments(self._member.outline, shell.bias, self._member.parts)
        self.imports = found.imports(shell.bias)
        self._written: dict[int, int] = {}
        """What slots were last given, by address."""
        self.exports = read_exports(file, shell.bias, self)
        self._write_own(found)
        self._resolvers = found.resolvers
        self.is_busy = False
        """Whether its startup code or a destructor of it runs now."""
        self._startup: list[int] | None = None
        """What is still to run, once all is bound; likewise below."""
        self._ending: list[int] | None = None
        self.is_resolved = not self.unresolved
        self._member.show()

    def __repr__(self) -> str:
        return f"<Placed {self.name} {self.state}>"

    # -- what it has -----------------------------------------------------------------------------

    @property
    def handle(self) -> int:
        """dlopen's handle of its shell."""
        return self._member.shell.handle

    @property
    def soname(self) -> str:
        """The name by which objects that glibc opens can need it."""
        return self._member.shell.soname

    def _write_own(self, found: Relocations) -> None:
        """Every word that depends on the object alone."""
        bias = np.uint64(self._member.bias)
        memory = self._memory()
        try:
            places = found.relr + bias
            memory.write_words(places, memory.read_words(places) + bias)
            memory.write_words(found.relative[0] + bias, found.relative[1] + bias)
            words = {place: value + self._member.bias * moves for place, value, moves in found.own}
            # What is written later is written once now: this is where places are looked at.
            words |= dict.fromkeys((place for place, _ in found.resolvers), 0)
            for imported in self.imports.values():
                for slot in imported.slots:
                    words |= {at - self._member.bias: value for at, value in cleared(slot)}
            words |= self._thread_words(found)
            memory.write_words(
                np.array(list(words), np.uint64) + bias,
                np.array([value % 2**64 for value in words.values()], np.uint64),
            )
        except LookupError as error:
            raise LinkError(
                "domain/relocation",
                f"{self.name}: a relocation lies in no writable segment",
                place=Place(self.path, vaddr=(int(error.args[0]) - self._member.bias) % 2**64),
                help="the file is damaged, or was linked without -fPIC",
            ) from None

    def _memory(self) -> Memory:
        """Its writable bytes, for as long as it is not closed."""
        return Memory(
            [
                (part.start, process.memory(part.start, part.length))
                for part in self._member.parts
                if part.protection & Protection.WRITE
            ]
        )

    def _thread_words(self, found: Relocations) -> dict[int, int]:
        """Words for thread-local variables by virtual address, as glibc gave them to the shell."""
        shell = self._member.shell
        state = TlsState(shell.handle, shell.slots)
        words = {}
        for place, kind, offset in found.thread:
            if kind == R.DTPMOD64:
                words[place] = process.tls_module(shell.handle)
            elif kind == R.DTPOFF64:
                words[place] = offset
            elif kind == R.TPOFF64:
                base = state.offset()
                assert base is not None, "the shell has a slot for it"
                words[place] = base + offset
            else:
                slot = shell.slots[TlsSlot(R.TLSDESC, offset % 2**63)]
                words[place] = process.read_word(slot)
                words[(place + 8) % 2**64] = process.read_word(slot + 8)
        return words

    # -- what it imports -------------------------------------------------------------------------

    @property
    def unresolved(self) -> list[Import]:
        """What must be bound before it may run, by name."""
        missing = [i for i in self.imports.values() if i.symbol is None and not i.optional]
        return sorted(missing, key=str)

    @property
    def sources(self) -> set[Placed]:
        """Whose symbols it is bound to."""
        bound = [i.symbol for i in self.imports.values() if i.symbol is not None]
        return {symbol.owner for symbol in bound if symbol.owner is not None} - {self}

    def bind(self, found: Sequence[tuple[Import, Symbol]]) -> None:
        """Give imports their symbols.

        Raises `LinkError` ``domain/tls``; nothing is bound then.
        """
        values = self._values(found)
        for wanted, symbol in found:
            wanted.hold(symbol)
            if symbol.owner is not None:
                symbol.owner.users.add(self)
        self._fill(values)
        self.is_resolved = not self.unresolved

    def _values(self, found: Iterable[tuple[Import, Symbol]]) -> _Values:
        """What imports are to be given; what is late waits for `settle`."""
        values = []
        for wanted, symbol in found:
            if self.state == "placed" and symbol.kind in _LATE:
                continue
            value = value_of(symbol)
            slots = [(slot, bound(slot, symbol, value)) for slot in wanted.slots]
            values.append((wanted, value, slots))
        return values

    def _fill(self, values: _Values) -> None:
        """Write slots: first for those that wait in a gate."""
        for wanted, value, _ in values:
            if wanted.gate is not None:
                wanted.gate.open(value)
        self._store([each for _, _, slots in values for each in slots])
        for wanted, _, _ in values:
            if wanted.gate is not None:
                wanted.gate.wake()

    def unbind(self, imports: Sequence[Import]) -> None:
        """Take imports their symbols; what happens to running code is in docs/domains.md.

        Raises `LinkError` ``domain/no-memory``; nothing is taken then.
        """
        left = self.sources
        due: list[tuple[Slot, Words]] = []
        for imported in imports:
            symbol = imported.symbol
            assert symbol is not None, "the caller looked"
            if self.state == "placed":
                due += [(slot, cleared(slot)) for slot in imported.slots]
                continue
            waits = symbol.kind in (Kind.FUNCTION, Kind.INDIRECT)
            if waits and imported.gate is None:
                imported.gate = new_gate()
            gate = imported.gate if waits else None
            due += [(slot, unbound(slot, symbol, gate)) for slot in imported.slots]
        self.is_resolved = False
        for imported in imports:
            if imported.gate is not None:
                imported.gate.shut()
        self._store(due)
        for imported in imports:
            imported.symbol = None
        self.is_resolved = not self.unresolved
        for owner in left - self.sources:
            owner.users.discard(self)

    def _store(self, slots: Iterable[tuple[Slot, Words]]) -> None:
        """Write slots; a word of the program's own that it has changed since stays as it is."""
        due = []
        for slot, words in slots:
            last = self._written.get(slot.address, 0)
            if slot.constant or process.read_word(slot.address) == last:
                due += [(address, value % 2**64) for address, value in words]
        self._written |= due
        self._member.write(due)

    # -- its life --------------------------------------------------------------------------------

    def enable(self) -> None:
        """Let the code run."""
        self.state = "starting"
        self._member.make_executable()

    def disable(self) -> None:
        """Take `enable` back; nothing has run but IFUNC resolvers."""
        for part in self._member.parts:
            if part.protection & Protection.EXEC:
                process.protect(part.start, part.length, Protection.READ)
        self.state, self._startup = "placed", None

    def settle(self) -> None:
        """Ask IFUNC resolvers, whatever they may call can run, and for thread-local variables."""
        bias = self._member.bias
        for place, resolver in self._resolvers:
            self._member.write([(place + bias, process.call_resolver(resolver + bias))])
        bound = [(i, i.symbol) for i in self.imports.values() if i.symbol is not None]
        self._fill(self._values((i, symbol) for i, symbol in bound if symbol.kind in _LATE))

    def seal(self) -> None:
        """Make RELRO pages read-only (elf/dl-reloc.c, _dl_protect_relro): it may be started."""
        self._startup = self._member.constructors()
        relro = self._file.relro
        if relro is None:
            return
        start = page_down(self._member.bias + relro[0])
        end = page_down(self._member.bias + relro[0] + relro[1])
        if end > start:
            self._member.protect(Protect(start, end - start, Protection.READ))

    def construct(self) -> None:
        """Run the startup code: DT_INIT, then DT_INIT_ARRAY.

        What an interrupt (Ctrl-C) has left of it is run by the next call.
        """
        if self.state != "starting" or self.is_busy or self._startup is None:
            return
        if self not in _running:
            _running.append(self)
        self._call(self._startup)
        self.state = "running"

    def finish(self) -> None:
        """Run the destructors: DT_FINI_ARRAY backwards, then DT_FINI; interrupts as `construct`."""
        if self not in _running or self.is_busy:
            return
        if self._ending is None:
            self._ending = self._destructors()
        self._call(self._ending)
        _running.remove(self)

    def _call(self, functions: list[int]) -> None:
        """Call functions that are due, and strike each out."""
        self.is_busy = True
        try:
            while functions:
                process.call_constructors([functions.pop(0)])
        finally:
            self.is_busy = False

    def _destructors(self) -> list[int]:
        file, bias = self._file, self._member.bias
        vaddr, size = file.tag(DT.FINI_ARRAY), file.tag(DT.FINI_ARRAYSZ)
        found = []
        if vaddr is not None and size:
            found = process.memory(bias + vaddr, size & -8).view(np.uint64).tolist()[::-1]
        found = [word for word in found if word not in (0, 2**64 - 1)]
        return found if file.fini is None else [*found, bias + file.fini]

    def close(self) -> None:
        """Give the memory back."""
        self.state = "closed"
        for owner in self.sources:
            owner.users.discard(self)
            owner.left = max(owner.left, self.left)
        self.imports.clear()
        self._closer.detach()
        self._member.shell.close()


_forgotten: list[Shell] = []
"""Shells of objects that nobody refers to any more."""


def _unmap_forgotten() -> None:
    """Give their memory back: not when the garbage collector finds them, since it may do so while
    ld.so's list of objects is read."""
    while _forgotten:
        _forgotten.pop().close()


_running: list[Placed] = []
"""Started objects in order.  They stay although nobody refers to them: code may run in them."""


def _finish_all() -> None:
    """Destructors run while Python, whose functions they may call, is still there."""
    for placed in reversed(_running.copy()):
        placed.finish()


atexit.register(_finish_all)
