"""One load into the running process: a link that is committed here instead of into an image.

The steps are methods, in this order: `prepare` (which objects), `lay` (shells and segments),
`bind` (words), `initialise` (code may run).  At any time before the last, `undo` leaves the process
as it was.  `spidl.live.load` takes them all; a domain stops between them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, lru_cache

from spidl.diagnostics import LinkError, Place
from spidl.elf.build import build_dso
from spidl.link.dso import Dso, MemoryObject, TlsBlock
from spidl.link.environment import Environment
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.order import dependency_order
from spidl.link.space import Placement
from spidl.link.symbols import U64
from spidl.live import process, segments
from spidl.live.exports import asked_for
from spidl.live.members import Member
from spidl.live.module import Live, aside
from spidl.live.namespace import Namespace
from spidl.live.residents import Residents
from spidl.live.shell import open_shell, tell_debugger
from spidl.live.store import open_files
from spidl.live.tls import TlsNeeds, TlsState, tls_needs
from spidl.modules.gnu.hwcaps import supported_levels
from spidl.modules.gnu.ldcache import parse_cache
from spidl.modules.gnu.search import CACHE, CACHE_PATH
from spidl.registry import Configuration, load_modules

_ROOT = "(this process)"
_results: dict[int, int] = {}
"""What IFUNC resolvers of the process's own libraries returned, by their address."""


def make_modules(extra: Sequence[str | Module]) -> list[Module]:
    """sysv and gnu, then ``extra``: names, FILE.py[:CLASS], or instances."""
    names = [item for item in extra if isinstance(item, str)]
    named = iter(load_modules(Configuration(()), names))
    return [*_format(), *(item if isinstance(item, Module) else next(named) for item in extra)]


@cache
def _format() -> tuple[Module, ...]:
    """The modules that know the format; they keep nothing from one link to the next."""
    return tuple(load_modules(Configuration(("sysv", "gnu"))))


class Loading:
    """A library, and what it needs that is not there yet, on the way into the process.

    ``wanted`` are sonames or paths; the first is the library, the others come along.
    """

    def __init__(
        self, wanted: Sequence[str], namespace: Namespace, modules: Sequence[str | Module] = ()
    ) -> None:
        self.namespace = namespace
        self.residents = Residents(namespace)
        self.members: list[Member] = []
        """What this load brings, in load order."""
        self.tls_states: dict[int, TlsState] = {}
        self.references: list[int] = []
        """dlopen handles of earlier members that this load's are bound to."""
        self._placed: dict[int, Member] = {}
        """By number in the link."""
        self._wanted = tuple(wanted)
        self.cuts = not modules
        """Whether symbol tables may be cut down: other modules may want any symbol."""
        self._asked: dict[str, U64] = {}
        self._names: set[str] = set()
        """Paths by which glibc knows objects."""
        own = make_modules(modules)
        first, second, *others = [aside(module, self.residents) for module in own]
        self.link = Link(
            _root(wanted, self.residents.linker),
            [first, second, Live(self), *others],
            Environment(_variables(), _folder()),
            store=open_files(),
        )

    def member(self, number: int = 0) -> Member:
        """The library that was asked for, which an earlier load may have brought.

        Raises `LinkError` ``live/host-library`` for one that is the process's own.
        """
        dso = self.link.known(self._wanted[number])
        assert dso is not None, "it was collected"
        present = self.residents.of(dso)
        if present is None:
            return self._placed[dso.number]
        if present.member is None:
            raise LinkError(
                "live/host-library",
                f"{dso.name} is shared with the process and is not loaded privately",
                place=Place(dso.path),
                help="ctypes.CDLL opens the process's own",
            )
        return present.member

    # -- the steps -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find and open every object.  Raises `LinkError` of the collect phase, and ``live/...``
        for objects that must not be loaded."""
        self._tell_cache()
        self.link.collect()
        for number, name in enumerate(self._wanted):
            known = self.link.known(name)
            if known is not None and self.residents.of(known) is not None:
                self.member(number)
        for dso in self.new:
            segments.check_loadable(dso.file)

    def _tell_cache(self) -> None:
        """What ld.so.cache says, read once for all loads until the file changes."""
        try:
            status = os.stat(CACHE_PATH)
        except OSError:
            return
        self.link.facts[CACHE] = _library_cache(status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def new(self) -> list[Dso]:
        """The objects that are to be loaded, in load order."""
        return [dso for dso in self.link.objects[1:] if self.residents.of(dso) is None]

    def asked(self, dso: Dso) -> U64:
        """Name hashes, ascending, of what the new objects may want of an object.

        The process's own stand last in scope, so nobody finds there what it has itself.
        """
        present = self.residents.of(dso)
        what = "undefined" if present is not None and present.member is None else "used"
        if what not in self._asked:
            self._asked[what] = asked_for([dso.file for dso in self.new], what)
        return self._asked[what]

    def lay(self) -> None:
        """Open the shells and map the segments; nothing can run yet."""
        self.link.load()

    def bind(self) -> None:
        """Bind every symbol and write every word but those of IFUNCs."""
        self.link.relocate()
        self.link.protect()
        parts = [part for member in self.members for part in member.parts]
        segments.write_all(self.link.space, parts)
        paths = [dso.path for dso in self.link.objects]
        for bindings in self.link.bindings:
            member = self._placed.get(bindings.requests.dso.number)
            if member is not None:
                member.answers.append((bindings, paths))
        for member in self.members:
            member.show()
        self._refer()
        tell_debugger()

    def initialise(self) -> None:
        """Let the code run: IFUNCs first, then RELRO, then constructors, dependencies first."""
        for member in self.members:
            member.make_executable()
        for deferred in self.link.space.deferred:
            for address, function in zip(
                deferred.addresses.tolist(), deferred.functions.tolist(), strict=True
            ):
                process.write_word(address, self._result(function))
        for protect, _ in self.link.space.protections:
            owner = self._owner(protect.start)
            if owner is not None:
                owner.protect(protect)
        for dso in dependency_order(self.link.objects):
            if dso.number in self._placed:
                self._placed[dso.number].initialise()

    def undo(self) -> None:
        """Take everything back, dependents first."""
        for dso in reversed(dependency_order(self.link.objects)):
            if dso.number in self._placed:
                self._placed[dso.number].close()
        for handle in self.references:
            process.close_object(handle)
        self.references.clear()

    # -- what the module `live` does in the link ---------------------------------------------------

    def order_scope(self, link: Link) -> None:
        """Earlier libraries of the namespace, new ones, then the process in its own order."""

        def rank(dso: Dso) -> tuple[int, int]:
            present = self.residents.of(dso)
            if present is None:
                return 1, dso.number
            return (2 if present.member is None else 0), present.order

        link.main.members[:] = [link.root, *sorted(link.objects[1:], key=rank)]

    def stay(self, dso: Dso, link: Link) -> Placement:
        """Load, for a resident: it is where it is."""
        present = self.residents.of(dso)
        assert present is not None, "registered for residents only"
        return Placement(present.bias, ())

    def place(self, dso: Dso, link: Link) -> Placement:
        """Load, for a private object: where glibc put its shell."""
        if not self._placed:
            self._open_shells()
        member = self._placed[dso.number]
        member.parts = segments.mappings(dso, member.bias, link.by)
        segments.map_segments(dso, member.shell, member.parts)
        return Placement(member.bias, member.parts)

    def place_tls(self, link: Link) -> None:
        """Post-load: module ids as glibc gave them; offsets are looked at where they are needed."""
        for dso in link.objects[1:]:
            if dso.file.tls is None:
                continue
            present, member = self.residents.of(dso), self._placed.get(dso.number)
            shell = None if member is None else member.shell
            if shell is None and present is not None and present.member is not None:
                shell = present.member.shell
            handle = shell.handle if shell is not None else present.handle if present else 0
            dso.tls = TlsBlock(process.tls_module(handle), 0)
            self.tls_states[dso.number] = TlsState(handle, {} if shell is None else shell.slots)

    # -- inside ----------------------------------------------------------------------------------

    def _open_shells(self) -> None:
        """In dependency order: glibc must have what a shell names as needed."""
        new = self.new
        self._names = {at.name for at in process.link_maps()}
        needs = tls_needs([dso.file for dso in new])
        by_number = {dso.number: need for dso, need in zip(new, needs, strict=True)}
        for dso in dependency_order(self.link.objects):
            if dso.number in by_number:
                self._placed[dso.number] = self._open_shell(dso, by_number[dso.number])
        self.members = [self._placed[dso.number] for dso in new]

    def _open_shell(self, dso: Dso, tls: TlsNeeds) -> Member:
        names = [self._name_of(need) for need in dso.file.needed]
        shell = open_shell(dso.file, [name for name in names if name is not None], tls)
        needed = [shell.soname if name is None else name for name in names]
        return Member(dso, shell, self._unique_path(dso.path), needed)

    def _unique_path(self, path: str) -> str:
        """A path to the same file by which glibc has no object: names are how it knows them."""
        folder, name = os.path.split(path)
        steps = "./"
        while (shown := os.path.join(folder, steps + name)) in self._names:
            steps += "./"
        self._names.add(shown)
        return shown

    def _name_of(self, need: str) -> str | None:
        """What glibc calls a needed object; None where it has it not yet (a cycle)."""
        dso = self.link.known(need)
        if dso is None:
            return None
        if dso.number in self._placed:
            return self._placed[dso.number].shell.soname
        present = self.residents.of(dso)
        if present is None:
            return None
        return need if present.member is None else present.member.shell.soname

    def _owner(self, address: int) -> Member | None:
        return next((m for m in self.members if m.start <= address < m.end), None)

    def _result(self, function: int) -> int:
        """What an IFUNC resolver gives; the process's own are asked once."""
        known = _results.get(function)
        if known is None:
            known = process.call_resolver(function)
            if self._owner(function) is None and not any(
                m.start <= function < m.end for m in self.namespace.members
            ):
                _results[function] = known
        return known

    def _refer(self) -> None:
        """Hold the earlier libraries that ours are bound to: no DT_NEEDED says so."""
        used = {int(n) for b in self.link.bindings for n in set(b.provider.tolist()) if n >= 0}
        wanted = [dso for name in self._wanted if (dso := self.link.known(name)) is not None]
        used |= {dso.number for dso in wanted}
        for number in sorted(used):
            present = self.residents.of(self.link.objects[number])
            if present is not None and present.member is not None:
                self.references.append(process.open_object(os.fsencode(present.member.shown)))


def _root(wanted: Sequence[str], linker: str) -> MemoryObject:
    """The object that stands for the process: it needs what is to be loaded."""
    content = build_dso(None, {}, needed=wanted, interp=linker)
    return MemoryObject(_ROOT, content, "the load")


@lru_cache(maxsize=1)
def _library_cache(*identity: int) -> dict[str, str]:
    """The content of ld.so.cache, by the identity of its file."""
    with open(CACHE_PATH, "rb") as file:
        return parse_cache(file.read(), supported_levels())


def _variables() -> dict[str, str]:
    """What steers the search for libraries."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return {} if path is None else {"LD_LIBRARY_PATH": path}


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it
        return "/"
