"""One object's pipeline: which passes of which modules it goes through.

Passes of a phase run in the order of the module list.  A *weak* pass complements; the *strong*
pass is the main one, at most one a phase and object: a later strong claim takes the place of an
earlier one and may call it (the paper, section 3.1: do not handle, handle weak, handle strong).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from spidl.link.phases import Phase, PostPhase

if TYPE_CHECKING:
    from spidl.link.dso import Dso, MemoryObject, Need
    from spidl.link.link import Link
    from spidl.link.phases import LinkPass, ObjectPass
    from spidl.link.symbols import Exports, Resolver

    Finder = Callable[[str, Dso, Link], Need | MemoryObject]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Registered(Generic[T_co]):
    """A pass, who brought it, and whether it is the main one."""

    run: Callable[..., T_co]
    module: str
    strong: bool

    @property
    def name(self) -> str:
        return getattr(self.run, "__qualname__", repr(self.run))


class Pipeline:
    """What modules registered for one object."""

    def __init__(self, dso: Dso) -> None:
        self.dso = dso
        self.module = ""
        """The module that registers at the moment."""
        self._passes: dict[str, list[Registered[Any]]] = {}
        self.overridden: list[tuple[str, Registered[Any]]] = []
        """(phase name, pass) of main passes that a later module took over."""
        self.resolvers: list[tuple[str, Resolver]] = []
        self.find: tuple[str, Finder] | None = None
        self.exporter: tuple[str, Callable[[Dso, Link], Exports]] | None = None

    @overload
    def weak(self, phase: Phase[T], pass_: ObjectPass[T]) -> None: ...
    @overload
    def weak(self, phase: PostPhase, pass_: LinkPass) -> None: ...
    def weak(self, phase: Phase[Any] | PostPhase, pass_: Callable[..., Any]) -> None:
        """Add a complementary pass."""
        self._passes.setdefault(phase.name, []).append(Registered(pass_, self.module, False))

    @overload
    def strong(self, phase: Phase[T], pass_: ObjectPass[T]) -> None: ...
    @overload
    def strong(self, phase: PostPhase, pass_: LinkPass) -> None: ...
    def strong(self, phase: Phase[Any] | PostPhase, pass_: Callable[..., Any]) -> None:
        """Become the main pass; whoever was it before is seen through `main` until then."""
        passes = self._passes.setdefault(phase.name, [])
        for earlier in [p for p in passes if p.strong]:
            passes.remove(earlier)
            self.overridden.append((phase.name, earlier))
        passes.append(Registered(pass_, self.module, True))

    @overload
    def main(self, phase: Phase[T]) -> ObjectPass[T] | None: ...
    @overload
    def main(self, phase: PostPhase) -> LinkPass | None: ...
    def main(self, phase: Phase[Any] | PostPhase) -> Callable[..., Any] | None:
        """The main pass as registered so far, to call it from the pass that takes over."""
        for registered in self._passes.get(phase.name, ()):
            if registered.strong:
                return registered.run
        return None

    def resolver(self, resolve: Resolver) -> None:
        """Answer symbol requests that reach this object, one at a time.

        Later resolvers are asked before earlier ones, and all before the object's own table.
        """
        self.resolvers.insert(0, (self.module, resolve))

    def finder(self, find: Finder) -> None:
        """Find the objects that this one names; a later module's finder takes over."""
        self.find = (self.module, find)

    def exports(self, table: Callable[[Dso, Link], Exports]) -> None:
        """Give this object's symbol table, whole; a later module's table takes over."""
        self.exporter = (self.module, table)

    def passes(self, phase: Phase[T]) -> list[Registered[T]]:
        """The passes of a phase, in the order they run."""
        return list(self._passes.get(phase.name, ()))

    def link_passes(self, phase: PostPhase) -> list[Registered[None]]:
        """The passes of a post-phase, in the order they run."""
        return list(self._passes.get(phase.name, ()))
