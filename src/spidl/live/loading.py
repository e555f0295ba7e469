"""One load into the running process: a link that is committed here instead of into an image.

The steps are methods, in this order: `prepare` (which objects), `lay` (shells and segments),
`bind` (words), `initialise` (code may run).  At any time before the last, `undo` leaves the process
as it was.  `spidl.live.load` takes them all; a domain stops between them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import cache, cached_property, lru_cache

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf import STB
from spidl.elf.build import build_dso
from spidl.link.dso import Dso, MemoryObject, TlsBlock
from spidl.link.environment import Environment
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.order import dependency_order
from spidl.link.space import Placement
from spidl.link.symbols import U64, Bindings
from spidl.live import process, segments
from spidl.live.commit import Commit, Indirect, ShownPaths, own_names, own_words, owner
from spidl.live.exports import asked_for, once, only_once
from spidl.live.members import Answers, Member, breadth_first
from spidl.live.module import Live, aside
from spidl.live.namespace import Namespace
from spidl.live.outline import outline_of
from spidl.live.residents import Residents
from spidl.live.shell import open_shell, tell_debugger
from spidl.live.store import open_files
from spidl.live.tls import TlsState, tls_needs
from spidl.modules.gnu.hwcaps import supported_levels
from spidl.modules.gnu.ldcache import parse_cache
from spidl.modules.gnu.search import CACHE, CACHE_PATH
from spidl.registry import Configuration, load_modules

_ROOT = "(this process)"
ORIGIN = re.compile(r"\$(?:ORIGIN\b|\{ORIGIN\})")
"""The folder of the object that has it in a library path (ld.so(8))."""


def make_modules(extra: Sequence[str | Module]) -> list[Module]:
    """sysv and gnu, then ``extra``: names, FILE.py[:CLASS], or instances."""
    wrong = [item for item in extra if not isinstance(item, str | Module)]
    if wrong:
        raise TypeError(f"a module is a name or an instance, not {wrong[0]!r}")
    names = [item for item in extra if isinstance(item, str)]
    named = iter(load_modules(Configuration(()), names))
    return [*_format(), *(item if isinstance(item, Module) else next(named) for item in extra)]


@cache
def _format() -> tuple[Module, ...]:
    """The modules that know the format; they keep nothing from one link to the next."""
    return tuple(load_modules(Configuration(("sysv", "gnu"))))


class Loading(Commit):
    """A library, and what it needs that is not there yet, on the way into the process.

    ``wanted`` is a soname or a path.  ``asker`` is the library that opens it, if Python does not;
    with ``deep`` it is bound to its own needs first (RTLD_DEEPBIND).
    """

    def __init__(
        self,
        wanted: str,
        namespace: Namespace,
        modules: Sequence[str | Module] = (),
        *,
        asker: Member | None = None,
        deep: bool = False,
    ) -> None:
        super().__init__(namespace)
        self.asker = asker
        self._deep = deep
        self._modules = tuple(modules)
        self.residents = Residents(namespace)
        self.tls_states: dict[int, TlsState] = {}
        self._placed: dict[int, Member] = {}
        """By number in the link."""
        self._wanted = wanted
        self.cuts = not modules
        """Whether symbol tables may be cut down: other modules may want any symbol."""
        self._asked: dict[str, U64] = {}
        own = make_modules(modules)
        first, second, *others = [aside(module, self.residents) for module in own]
        self.link = Link(
            _root(wanted, self.residents.linker),
            [first, second, Live(self), *others],
            Environment(_variables(), working_folder()),
            store=open_files(),
        )

    def wanted(self) -> Member:
        """The library that was asked for, which an earlier load may have brought.

        Raises `LinkError` ``live/host-library`` for one that is the process's own.
        """
        dso = self.link.known(self._wanted)
        assert dso is not None, "it was collected"
        present = self.residents.of(dso)
        if present is None:
            return self.placed(dso)
        if present.member is None:
            raise _shared(dso)
        return present.member

    def placed(self, dso: Dso) -> Member:
        """The library that this load brings for an object of the link."""
        return self._placed[dso.number]

    # -- the steps -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find and open every object.  Raises `LinkError` of the collect phase, and ``live/...``
        for objects that must not be loaded."""
        self._tell_cache()
        self.link.collect()
        known = self.link.known(self._wanted)
        if known is not None and self.residents.of(known) is not None:
            self.wanted()
        for dso in self.new:
            segments.check_loadable(dso.file)
            if dso.file.soname in self.namespace.process.names:
                raise _shared(dso)

    def _tell_cache(self) -> None:
        """What ld.so.cache says, read once for all loads until the file changes."""
        try:
            status = os.stat(CACHE_PATH)
        except OSError:
            return
        self.link.watch(CACHE_PATH)
        self.link.facts[CACHE] = _library_cache(status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def new(self) -> list[Dso]:
        """The objects that are to be loaded, in load order."""
        return [dso for dso in self.link.objects[1:] if self.residents.of(dso) is None]

    def asked(self, dso: Dso) -> U64:
        """Name hashes, ascending, of what the new objects may want of an object.

        The process's own stand last in scope, so nobody finds there what it has itself, but for
        what there is only `once`.
        """
        present = self.residents.of(dso)
        what = "undefined" if present is not None and present.member is None else "used"
        if what not in self._asked:
            self._asked[what] = asked_for([dso.file for dso in self.new], what)
            if what == "undefined":
                self._asked[what] = np.union1d(self._asked[what], once())
        return self._asked[what]

    @cached_property
    def only_once(self) -> U64:
        """Hashes of names that private libraries take from the process."""
        there = [(dso, self.residents.of(dso)) for dso in self.link.objects[1:]]
        return only_once(dso for dso, of in there if of is not None and of.member is None)

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
                member.answers.append(
                    Answers(bindings.requests.symbol, bindings.provider, bindings.value,
                            bindings.owner, paths, bindings.modules)
                )  # fmt: skip
                self._note_uses(member, bindings)
                self._note_own(member, bindings)
        for member in self.members:
            member.show()
        self.hold()
        tell_debugger()
        self._finish()

    def _member_of(self, number: int) -> Member | None:
        """The private library that an object of the link is."""
        if number == 0:
            return None
        present = self.residents.of(self.link.objects[number])
        return self._placed.get(number) if present is None else present.member

    def _note_uses(self, member: Member, bindings: Bindings) -> None:
        """Whom a member is bound to, and who is pinned by that."""
        for number in set(bindings.provider.tolist()) - {-1}:
            provider = self._member_of(number)
            if provider is None:
                continue
            if provider is not member and provider not in member.uses:
                member.uses.append(provider)
            symbols = bindings.symbol[bindings.provider == number]
            kinds = self.link.objects[number].file.symbols["st_info"][symbols] >> 4
            provider.pinned |= bool((kinds == STB.GNU_UNIQUE).any())

    def _note_own(self, member: Member, bindings: Bindings) -> None:
        """Words that would lead to libc's dlopen or its kin."""
        asked = np.flatnonzero(np.isin(bindings.requests.hash, own_names()))
        theirs = [
            row
            for row in asked.tolist()
            if bindings.provider[row] >= 0 and self._member_of(int(bindings.provider[row])) is None
        ]
        if theirs:
            self.own += own_words(member, bindings.requests.symbol[theirs])

    def _finish(self) -> None:
        """What is left to be done once the code may run.

        Raises `LinkError` ``relocate/outside``, ``live/mapping`` for what a module has asked for.
        """
        private = [*self.namespace.members, *self.members]
        for deferred in self.link.space.deferred:
            for address, function in zip(
                deferred.addresses.tolist(), deferred.functions.tolist(), strict=True
            ):
                if not any(member.may_write(address) for member in self.members):
                    raise LinkError(
                        "relocate/outside",
                        f"{deferred.by} leaves a word at {address:#x}, which is no writable place "
                        "of what is loaded",
                        place=Place(deferred.by.dso),
                        help="this is a fault of the module, or the file is damaged",
                    )
                lasting = owner(private, function) is None
                self.indirect.append(Indirect(address, function, lasting))
        for protect, _ in self.link.space.protections:
            of = owner(self.members, protect.start)
            if of is not None:
                self.permissions.append((of, protect))
            elif not self.link.root.start <= protect.start < self.link.root.end:
                raise LinkError(
                    "live/mapping",
                    f"a module gives a permission to {protect.start:#x}, which is not loaded here",
                    help="protect passes may change the pages of their object",
                )

    # -- what the module `live` does in the link ---------------------------------------------------

    def order_scope(self, link: Link) -> None:
        """What the namespace sees, new libraries, what only they see of earlier ones
        (RTLD_LOCAL), then the process in its own order."""
        new = [dso for dso in link.objects[1:] if self.residents.of(dso) is None]
        present = [self.residents.of(need) for dso in new for need in dso.dependencies]
        theirs = [one.member for one in present if one is not None and one.member is not None]
        seen = {member for first in theirs for member in breadth_first(first)}

        def rank(dso: Dso) -> tuple[int, int]:
            present = self.residents.of(dso)
            if present is None:
                return 1, dso.number
            if present.member is None:
                return 4, present.order
            if present.member.global_at is None:
                return 2 if present.member in seen else 5, present.order
            return 3 if self._deep else 0, present.member.global_at

        visible = [dso for dso in link.objects[1:] if rank(dso)[0] < 5]
        link.main.members[:] = [link.root, *sorted(visible, key=rank)]

    def stay(self, dso: Dso, link: Link) -> Placement:
        """Load, for a resident: it is where it is."""
        present = self.residents.of(dso)
        assert present is not None, "registered for residents only"
        return Placement(present.bias, ())

    def place(self, dso: Dso, link: Link) -> Placement:
        """Load, for a private object: where glibc put its shell."""
        if not self._placed:
            self._open_shells()
        member = self.placed(dso)
        member.parts = segments.mappings(dso, member.bias, link.by)
        segments.map_segments(member.outline, member.bias, member.parts)
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
        shown = ShownPaths()
        unknown: dict[Member, list[str]] = {}
        needs = tls_needs([dso.file for dso in new])
        by_number = {dso.number: need for dso, need in zip(new, needs, strict=True)}
        for dso in dependency_order(self.link.objects):
            if dso.number in by_number:
                names = [self._name_of(need) for need in dso.file.needed]
                shell = open_shell(dso.file, names, by_number[dso.number])
                late = [need for need, name in zip(dso.file.needed, names, strict=True) if not name]
                member = Member(outline_of(dso), shell, shown.new(dso.path), file=dso.file)
                member.modules = self._modules
                self._placed[dso.number] = member
                self.order.append(member)
                unknown[member] = late
        for dso in new:
            member = self.placed(dso)
            member.needs = self._needed(dso.file.needed)
            member.late = self._needed(unknown[member])
            member.uses += member.needs
            member.loader = None if dso.loader is None else self._member_of(dso.loader.number)
        self.members = [self.placed(dso) for dso in new]

    def _needed(self, names: Iterable[str]) -> list[Member]:
        """The private libraries among what is needed by these names."""
        objects = [self.link.known(name) for name in names]
        members = [None if other is None else self._member_of(other.number) for other in objects]
        return [member for member in members if member is not None]

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


def _shared(dso: Dso) -> LinkError:
    return LinkError(
        "live/host-library",
        f"{dso.name} is shared with the process and is not loaded privately",
        place=Place(dso.path),
        help="ctypes.CDLL opens the process's own",
    )


def _root(wanted: str, linker: str) -> MemoryObject:
    """The object that stands for the process: it needs what is to be loaded."""
    content = build_dso(None, {}, needed=[wanted], interp=linker)
    return MemoryObject(_ROOT, content, "the load")


@lru_cache(maxsize=1)
def _library_cache(*identity: int) -> dict[str, str]:
    """The content of ld.so.cache, by the identity of its file."""
    with open(CACHE_PATH, "rb") as file:
        return parse_cache(file.read(), supported_levels())


def _variables() -> dict[str, str]:
    """What steers the search for libraries."""
    path = os.environ.get("LD_LIBRARY_PATH")
    if path is None:
        return {}
    # The object that stands for the process in a link has no folder.
    origin = os.path.dirname(os.path.realpath("/proc/self/exe"))
    return {"LD_LIBRARY_PATH": ORIGIN.sub(lambda _: origin, path)}


def working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # somebody removed it, or it cannot be reached any more
        return "/"
