"""One library in the process, from its shell to its destructors.

The steps, each with its own method, so that SPIN-like domains can stop between them:

*placed*       the shell is open and the segments lie over it: text is readable, not executable, and
               nothing is bound.  No address of it may be given to anybody yet.
*bound*        words are written (all at once by `spidl.live.commit`, or slot by slot with `write`).
*initialised*  text is executable, constructors have run, destructors are registered with glibc.
*closed*       our reference is given back; glibc runs destructors and unmaps when it was the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf import DF_1, DT
from spidl.link.actions import Protection
from spidl.link.dso import Dso
from spidl.link.space import Mapping, Protect
from spidl.link.symbols import Bindings
from spidl.live import process, segments
from spidl.live.shell import Shell


@dataclass(frozen=True, slots=True)
class Binding:
    """What one symbol reference is bound to.

    ``provider`` is the path of the object that defines it, None for an undefined weak symbol (then
    the address is 0) and where a module answered; ``module`` is that module.
    """

    name: str
    version: str | None
    provider: str | None
    address: int
    module: str | None = None


@dataclass(slots=True, eq=False)
class Member:
    """A library that this process has through a shell.

    ``dso`` is its object in the link that loaded it; ``shown`` the path that glibc and debuggers
    know it by, which leads to the file and that no other instance has.
    """

    dso: Dso
    shell: Shell
    shown: str
    needed: list[str]
    """What glibc calls the objects that it needs, one for each DT_NEEDED."""
    parts: tuple[Mapping, ...] = field(default=(), repr=False)
    state: str = "placed"
    relro: tuple[int, int] | None = None
    """Address and length of what is read-only once it is bound, in whole pages."""
    answers: list[tuple[Bindings, list[str]]] = field(default_factory=list, repr=False)
    """What its symbols are bound to, with the paths of the link's objects by number."""

    @property
    def name(self) -> str:
        return self.dso.name

    @property
    def path(self) -> str:
        return self.dso.path

    @property
    def bias(self) -> int:
        return self.shell.bias

    @property
    def start(self) -> int:
        """First address of its span."""
        return self.bias + self.dso.file.span[0]

    @property
    def end(self) -> int:
        """First address behind its span and the shell's tail."""
        return self.bias + self.shell.tail[0] + self.shell.tail[1]

    @property
    def bindings(self) -> list[Binding]:
        """Every symbol that its relocations name, in the order of its symbol table."""
        found: dict[int, Binding] = {}
        for answer, paths in self.answers:
            columns = zip(answer.requests.symbol.tolist(), answer.provider.tolist(),
                          answer.value.tolist(), answer.owner.tolist(), strict=True)  # fmt: skip
            for row, (symbol, provider, address, owner) in enumerate(columns):
                if symbol:
                    found[symbol] = Binding(
                        answer.requests.name(row),
                        answer.requests.version_name(row),
                        None if provider < 0 else paths[provider],
                        address,
                        None if owner < 0 else answer.modules[owner],
                    )
        return [found[symbol] for symbol in sorted(found)]

    def show(self) -> None:
        """Let the tools see the library where they saw its shell."""
        for address, value in segments.needed_words(self.dso, self.shell, self.needed):
            self.write([(address, value)])
        segments.show(self.dso, self.shell, self.shown)

    def write(self, words: Sequence[tuple[int, int]]) -> None:
        """Store (address, value) words, in RELRO too; each store is one aligned instruction.

        Threads that run the library meanwhile see the old or the new word.
        """
        inside = any(self.in_relro(address) for address, _ in words)
        if inside:
            self._relro(Protection.READ | Protection.WRITE)
        try:
            for address, value in words:
                process.write_word(address, value)
        finally:
            if inside:
                self._relro(Protection.READ)

    def in_relro(self, address: int) -> bool:
        """Whether a word is read-only now."""
        return self.relro is not None and self.relro[0] <= address < sum(self.relro)

    def _relro(self, protection: Protection) -> None:
        assert self.relro is not None, "the caller looked"
        process.protect(*self.relro, protection)

    def protect(self, protect: Protect) -> None:
        """Apply a final permission; pages that become read-only are remembered for `write`.

        Raises `LinkError` ``live/mapping`` for pages that are not the library's, or that would be
        writable and executable.
        """
        end = protect.start + protect.length
        both = Protection.WRITE | Protection.EXEC
        if not self.start <= protect.start < end <= self.end or protect.protection & both == both:
            raise LinkError(
                "live/mapping",
                f"a module gives {self.name} the permission {protect.protection!r} at "
                f"{protect.start:#x}-{end:#x}",
                place=Place(self.path),
                help="protect passes may change the pages of their object, never to W and X",
            )
        process.protect(protect.start, protect.length, protect.protection)
        if protect.protection == Protection.READ:
            self.relro = protect.start, protect.length

    def make_executable(self) -> None:
        """Let the code run."""
        segments.make_executable(self.parts)

    def register_exits(self) -> None:
        """Tell glibc the destructors: DT_FINI is called after DT_FINI_ARRAY, which goes backwards
        (elf/dl-fini.c), so one list does for both."""
        file = self.dso.file
        functions = [] if file.fini is None else [self.bias + file.fini]
        functions += self._functions(DT.FINI_ARRAY, DT.FINI_ARRAYSZ)
        at, size = self.shell.exits
        for number, function in enumerate(functions):
            process.write_word(at + 8 * number, function)
        process.write_word(size, 8 * len(functions))

    def constructors(self) -> list[int]:
        """DT_INIT and the entries of DT_INIT_ARRAY: run-time addresses in order."""
        file = self.dso.file
        first = [] if file.init is None else [self.bias + file.init]
        return first + self._functions(DT.INIT_ARRAY, DT.INIT_ARRAYSZ)

    def _functions(self, table: DT, size: DT) -> list[int]:
        """The functions in a table of the library, as they are in memory now."""
        vaddr, length = self.dso.file.tag(table), self.dso.file.tag(size)
        if vaddr is None or not length:
            return []
        words = process.memory(self.bias + vaddr, length & -8).view(np.uint64).tolist()
        return [word for word in words if word not in (0, 2**64 - 1)]

    def initialise(self) -> None:
        """Register the destructors and run the constructors; its text must be executable."""
        self.state = "initialised"
        self.register_exits()
        process.call_constructors(self.constructors())

    def close(self) -> None:
        """Give our reference back.

        A library that asks to stay (DF_1_NODELETE; OpenSSL does) stays once it is initialised, as
        with dlclose: its exit handlers are still to run.
        """
        if self.state == "initialised" and self.dso.file.flags_1 & DF_1.NODELETE:
            return
        if self.state != "closed":
            self.state = "closed"
            self.shell.close()

    @property
    def is_mapped(self) -> bool:
        """Whether glibc still has it, for others that need it or because it pinned itself."""
        return any(at.address == self.shell.handle for at in process.link_maps())
