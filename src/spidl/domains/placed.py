"""One object file in the process, from placed to running: the code behind domains.

Until `start` its text is mapped without PROT_EXEC, so a jump into it faults, and no address of it
is given to anybody but the slots of other placed objects.  Undefined symbols are bound one by one;
what the object's own relocations need of itself is written when it is placed.
"""

from __future__ import annotations

import atexit
import itertools
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.domains.gates import guard, new_gate
from spidl.domains.relocations import Relocations, read_relocations
from spidl.domains.symbols import Kind, Symbol
from spidl.domains.symbols import Slot as BoundSlot
from spidl.elf import DT, PF, SHN, STB, STT, STV, ElfFile, R
from spidl.elf.reader import Load
from spidl.link.actions import Protection
from spidl.link.dso import Dso, identity_of
from spidl.link.memory import Memory
from spidl.link.namespace import Namespace
from spidl.link.space import Protect, Provenance, page_down
from spidl.live import process, segments
from spidl.live.members import Member
from spidl.live.shell import open_shell
from spidl.live.tls import Slot, TlsState, tls_needs

_HOST = "libc.so.6"
"""What a shell says it needs: a domain's needs are nobody's business but resolve's."""
_serials = itertools.count(1)
_EXPORTED = (STV.DEFAULT, STV.PROTECTED)


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
        shell = open_shell(file, needed, needs)
        self.serial = next(_serials)
        self._closer = weakref.finalize(self, shell.close)
        self._closer.atexit = False
        identity = None if file.stat is None else identity_of(file.stat)
        dso = Dso(self.serial, name, file.name, file, Namespace(name), None, "domain", "", identity)
        shown = os.path.join(os.path.dirname(path), "./" * self.serial, os.path.basename(path))
        self._member = Member(dso, shell, shown, needed)
        self._member.parts = segments.mappings(dso, shell.bias, Provenance("load", "domain", name))
        segments.map_segments(dso, shell, self._member.parts)
        self.imports = found.imports(shell.bias)
        self._written: dict[int, int] = {}
        """What slots were last given, by address."""
        self.exports = {symbol.name: symbol for symbol in self._exports()}
        self._write_own(found)
        self._resolvers = found.resolvers
        self._member.show()

    def __repr__(self) -> str:
        return f"<Placed {self.name} {self.state}>"

    # -- what it has -----------------------------------------------------------------------------

    def _exports(self) -> Iterator[Symbol]:
        file, bias = self._file, self._member.bias
        kinds = {STT.FUNC: Kind.FUNCTION, STT.NOTYPE: Kind.FUNCTION, STT.OBJECT: Kind.DATA,
                 STT.COMMON: Kind.DATA, STT.GNU_IFUNC: Kind.INDIRECT}  # fmt: skip
        low, high = file.span
        text = [load for load in file.loads if load.flags & PF.X]
        versym = file.versym
        for index, row in enumerate(file.symbols.tolist()):
            _, info, other, section, value, size = row
            kind = kinds.get(info & 15)
            if section in (SHN.UNDEF, SHN.ABS) or kind is None or info >> 4 == STB.LOCAL:
                continue
            if other & 3 not in _EXPORTED or not low <= value < high:
                continue
            if versym is not None and int(versym[index]) & 0x8000:  # an old version
                continue
            if info & 15 == STT.NOTYPE and not _inside(text, value):
                kind = Kind.DATA
            yield Symbol(file.symbol_name(index), bias + value, kind, size, self)

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
                words |= {slot.address - self._member.bias: 0 for slot in imported.slots}
            words |= self._thread_words(found)
            memory.write_words(
                np.array(list(words), np.uint64) + bias,
                np.array([value % 2**64 for value in words.values()], np.uint64),
            )
        except LookupError as error:
            raise LinkError(
                "domain/relocation",
                f"{self.name}: a relocation at {int(error.args[0]):#x} lies in no writable segment",
                place=Place(self.path),
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
                slot = shell.slots[Slot(R.TLSDESC, offset % 2**63)]
                words[place] = process.read_word(slot)
                words[(place + 8) % 2**64] = process.read_word(slot + 8)
        return words

    # -- what it imports -------------------------------------------------------------------------

    @property
    def unresolved(self) -> list[str]:
        """Names of what must be bound before it may run."""
        return sorted(i.name for i in self.imports.values() if i.symbol is None and not i.optional)

    @property
    def sources(self) -> set[Placed]:
        """Whose symbols it is bound to."""
        bound = [i.symbol for i in self.imports.values() if i.symbol is not None]
        return {symbol.owner for symbol in bound if symbol.owner is not None} - {self}

    def bind(self, found: Mapping[str, Symbol]) -> None:
        """Give imports, by name, their symbols."""
        for name, symbol in found.items():
            wanted = self.imports[name]
            wanted.symbol = symbol
            wanted.held.add(symbol)
            if symbol.owner is not None:
                symbol.owner.users.add(self)
        self.refresh(found)

    def refresh(self, names: Iterable[str]) -> None:
        """Write the slots of imports that are bound: first for those that wait in a gate."""
        wanted = [self.imports[name] for name in names]
        words = []
        for imported in wanted:
            assert imported.symbol is not None, "the caller bound it"
            value = value_of(imported.symbol)
            if imported.gate is not None:
                imported.gate.open(value)
            words += [(slot, value + slot.addend) for slot in imported.slots]
        self._store(words)
        for imported in wanted:
            if imported.gate is not None:
                imported.gate.wake()

    def unbind(self, names: Iterable[str]) -> None:
        """Take imports their symbols; what happens to running code is in docs/domains.md."""
        left = self.sources
        words: list[tuple[BoundSlot, int]] = []
        for name in names:
            imported = self.imports[name]
            symbol, imported.symbol = imported.symbol, None
            assert symbol is not None, "the caller looked"
            if self.state == "placed":
                words += [(slot, 0) for slot in imported.slots]
                continue
            if symbol.kind is not Kind.DATA and imported.gate is None:
                imported.gate = new_gate()
            if imported.gate is not None:
                imported.gate.shut()
            for slot in imported.slots:
                waits = symbol.kind is not Kind.DATA and slot.addend == 0
                gate = imported.gate
                words.append((slot, gate.address if waits and gate else guard(symbol.size)))
        self._store(words)
        for owner in left - self.sources:
            owner.users.discard(self)

    def _store(self, words: list[tuple[BoundSlot, int]]) -> None:
        """Write slots; a word of the program's own that it has changed since stays as it is."""
        due = []
        for slot, value in words:
            last = self._written.get(slot.address, 0)
            if slot.constant or process.read_word(slot.address) == last:
                value %= 2**64
                self._written[slot.address] = value
                due.append((slot.address, value))
        self._member.write(due)

    # -- its life --------------------------------------------------------------------------------

    def enable(self) -> None:
        """Let the code run."""
        self.state = "starting"
        self._member.make_executable()

    def settle(self) -> None:
        """Ask IFUNC resolvers; everything they may call can run."""
        bias = self._member.bias
        for place, resolver in self._resolvers:
            process.write_word(place + bias, process.call_resolver(resolver + bias))
        late = [i.name for i in self.imports.values()
                if i.symbol is not None and i.symbol.kind is Kind.INDIRECT]  # fmt: skip
        self.refresh(late)

    def seal(self) -> None:
        """Make RELRO pages read-only (elf/dl-reloc.c, _dl_protect_relro)."""
        relro = self._file.relro
        if relro is None:
            return
        start = page_down(self._member.bias + relro[0])
        end = page_down(self._member.bias + relro[0] + relro[1])
        if end > start:
            self._member.protect(Protect(start, end - start, Protection.READ))

    def construct(self) -> None:
        """Run the startup code: DT_INIT, then DT_INIT_ARRAY."""
        _running.append(self)
        process.call_constructors(self._member.constructors())
        self.state = "running"

    def finish(self) -> None:
        """Run the destructors: DT_FINI_ARRAY backwards, then DT_FINI."""
        if self in _running:
            _running.remove(self)
            process.call_constructors(self._destructors())

    def _destructors(self) -> list[int]:
        file, bias = self._file, self._member.bias
        vaddr, size = file.tag(DT.FINI_ARRAY), file.tag(DT.FINI_ARRAYSZ)
        found = []
        if vaddr is not None and size and file.file_offset(vaddr, size):
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
        self._closer()


def _inside(loads: Iterable[Load], vaddr: int) -> bool:
    return any(load.vaddr <= vaddr < load.vaddr + load.memsz for load in loads)


def value_of(symbol: Symbol) -> int:
    """The run-time address a symbol stands for; 0 for an IFUNC whose owner does not run yet."""
    if symbol.kind is not Kind.INDIRECT:
        return symbol.address
    if symbol.owner is not None and symbol.owner.state == "placed":
        return 0
    return process.call_resolver(symbol.address)


_running: list[Placed] = []
"""Started objects in order.  They stay although nobody refers to them: code may run in them."""


def _finish_all() -> None:
    """Destructors run while Python, whose functions they may call, is still there."""
    for placed in reversed(_running.copy()):
        placed.finish()


atexit.register(_finish_all)
