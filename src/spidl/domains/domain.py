"""Domains: the operations of SPIN's linker (Sirer et al., Safe Dynamic Linking in an Extensible
Operating System, 1995, figure 1)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spidl.diagnostics import LinkError, Place
from spidl.domains import host
from spidl.domains.calls import Client, is_quiescent, last_number
from spidl.domains.capability import Capability, Table
from spidl.domains.interface import Interface
from spidl.domains.objects import shared_object
from spidl.domains.placed import Placed
from spidl.domains.symbols import Export, Import, Kind, Symbol, export_of
from spidl.elf import ElfFile
from spidl.live.namespace import lock

_starting = threading.RLock()
"""Held while startup code and destructors run, `lock` is not: they may call back into the linker.
A fork waits for it: in the new process nobody would let it go."""
os.register_at_fork(
    before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release
)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """``code`` is what operations may change: empty for what is only a source of symbols."""

    name: str
    exports: dict[str, Export]
    code: tuple[Placed, ...] = ()


class Domain(Capability):
    """A reference to code, data and exported symbols.  Whoever has it may link against it.

    It is made by `create`, `from_interface`, `from_process` and `combine` only.  A domain from
    `create` or `combine` can also be linked, initialised and closed; one from an interface can do
    nothing but be linked against and called.
    """

    __slots__ = ()

    @staticmethod
    def create(path: str | os.PathLike[str], name: str | None = None) -> Domain:
        """A domain of an object file or a shared library.

        It is placed in the process but cannot run: its text is not executable until `initialize`.
        Nothing is there for it implicitly: what the library says it needs (DT_NEEDED) is not
        loaded, and its undefined symbols wait for `resolve`.

        Raises `LinkError`: of parsing; ``live/...`` for what must not be loaded; ``domain/...``
        ``no-compiler``, ``compile``, ``relocation``, ``tls``.
        """
        where = os.path.abspath(path)
        called = name or os.path.splitext(os.path.basename(where))[0]
        with shared_object(where) as file, lock:
            placed = Placed(ElfFile.open(file), called, where)
        return _domains.give(_State(called, placed.exports, (placed,)))

    @staticmethod
    def from_interface(
        interface: Interface, implementation: Domain | Mapping[str, Callable[..., Any]]
    ) -> Domain:
        """A domain that exports exactly what an interface declares.

        The implementation is a domain that the caller holds, or Python functions by name.  Raises
        `LinkError` ``domain/not-exported``, ``domain/not-implemented``, ``domain/wrong-type``,
        ``domain/forged``.
        """
        if isinstance(implementation, Mapping):
            made = interface.implement(implementation)
            shown = {name: export_of(symbol) for name, symbol in made.items()}
            return _domains.give(_State(interface.name, shown))
        state = _domains.of(implementation)
        chosen = interface.choose(state.exports, state.name)
        shown = {name: state.exports[name] for name in chosen}
        return _domains.give(_State(interface.name, shown))

    @staticmethod
    def from_process(names: Iterable[str], name: str = "process") -> Domain:
        """A domain of functions and variables that the process has, of the C library for instance.

        A name is given away in all its versions.  Whoever may call this may give away anything.
        Raises `LinkError` ``domain/no-symbol``; ``domain/tls`` for thread-local variables.
        """
        return _domains.give(_State(name, host.exports(names)))

    @property
    def name(self) -> str:
        """What messages call it."""
        return _domains.of(self).name

    @property
    def exports(self) -> frozenset[str]:
        """The names of its symbols; without those of which there are old versions only."""
        exports = _domains.of(self).exports.items()
        return frozenset(name for name, export in exports if export.default is not None)

    @property
    def unresolved(self) -> tuple[str, ...]:
        """The names that it needs before it may run; weak symbols are not among them."""
        return _unresolved(_domains.of(self).code)

    @property
    def is_running(self) -> bool:
        """Whether it was initialised; what has no code of its own always is."""
        return all(placed.state == "running" for placed in _domains.of(self).code)

    def __repr__(self) -> str:
        return f"<Domain {self.name}>"


_domains: Table[Domain, _State] = Table(Domain)


def check(domain: Domain) -> None:
    """Raises `LinkError` ``domain/forged`` for what is no reference that was given out."""
    _domains.of(domain)


def resolve(source: Domain, target: Domain) -> tuple[str, ...]:
    """Bind the target's undefined symbols to the source's exports; gives the names it bound.

    A symbol with a version gets this version, or a definition that has none.  The target's exports
    stay what they are.  To one that runs, only sources that run can be given.

    Raises `LinkError` ``domain/forged``, ``domain/closed``, ``domain/not-running``,
    ``domain/wrong-type``, after which nothing is bound; ``domain/tls``.
    """
    given, taking = _domains.of(source), _domains.of(target)
    bound: dict[str, None] = {}
    with lock:
        plan = [(placed, _found(given, placed)) for placed in _open_code(taking)]
        for placed, found in plan:
            for wanted, symbol in found:
                _check_source(wanted, symbol, placed)
        for placed, found in plan:
            placed.bind(found)
            bound |= dict.fromkeys(wanted.name for wanted, _ in found)
    return tuple(bound)


def _found(given: _State, placed: Placed) -> list[tuple[Import, Symbol]]:
    """What a source has of what an object still needs."""
    found = []
    for wanted in placed.imports.values():
        if wanted.symbol is None and (symbol := _find(given, wanted)) is not None:
            found.append((wanted, symbol))
    return found


def _find(given: _State, wanted: Import) -> Symbol | None:
    export = given.exports.get(wanted.name)
    return None if export is None else export.find(wanted.version)


def unresolve(source: Domain, target: Domain) -> tuple[str, ...]:
    """Take the target all symbols that it was bound to in the source; gives their names.

    In a target that runs, calls through these symbols wait until they are resolved again, and
    data is out of reach (SIGSEGV).  Code of the source that runs goes on.  Raises `LinkError`
    ``domain/forged``, ``domain/closed``.
    """
    given, taking = _domains.of(source), _domains.of(target)
    lost: dict[str, None] = {}
    with lock:
        for placed in _open_code(taking):
            taken = [
                wanted
                for wanted in placed.imports.values()
                if wanted.symbol is not None and _find(given, wanted) is wanted.symbol
            ]
            owners = {wanted.symbol.owner for wanted in taken if wanted.symbol is not None}
            try:
                placed.unbind(taken)
            finally:
                for owner in owners:
                    if owner is not None:
                        owner.left = last_number()
            lost |= dict.fromkeys(wanted.name for wanted in taken)
    return tuple(lost)


def combine(first: Domain, second: Domain) -> Domain:
    """A domain that exports what both export, and that stands for the code of both.

    Raises `LinkError` ``domain/conflict``, ``domain/forged``.
    """
    one, other = _domains.of(first), _domains.of(second)
    twice = sorted(
        name for name in one.exports.keys() & other.exports.keys()
        if one.exports[name] is not other.exports[name]
    )  # fmt: skip
    if twice:
        raise LinkError(
            "domain/conflict",
            f"{one.name} and {other.name} both export {', '.join(twice)}",
            help="make a domain of one of them with an interface that leaves these out",
        )
    code = dict.fromkeys([*one.code, *other.code])
    return _domains.give(
        _State(f"{one.name}+{other.name}", one.exports | other.exports, tuple(code))
    )


def nameable(domain: Domain) -> Domain:
    """Everything that the code of a domain can name: its exports, and what it is linked to.

    An interface is made of this in the name of the code (INTERFACE_UNIT of the paper): that it is
    linked to something shows that somebody let it.  Raises `LinkError` ``domain/forged``.
    """
    state = _domains.of(domain)
    found = dict(state.exports)
    for placed in state.code:
        for wanted in placed.imports.values():
            if wanted.symbol is not None:
                found.setdefault(wanted.name, export_of(wanted.symbol))
    return _domains.give(_State(state.name, found))


def initialize(domain: Domain) -> None:
    """Let a fully resolved domain run: its text becomes executable, its startup code is called.

    What it is bound to is initialised before it, and must be fully resolved as well.  A second
    time does nothing.  Raises `LinkError` ``domain/unresolved``, ``domain/closed``,
    ``domain/forged``; ``domain/tls`` and ``live/...``, after which it is as before.
    """
    state = _domains.of(domain)
    with _starting:
        with lock:
            group = _group(_open_code(state))
            missing = [p for p in group if not p.is_resolved]
            if missing:
                raise LinkError(
                    "domain/unresolved",
                    f"{state.name} cannot run: not everything is resolved",
                    place=Place(missing[0].path),
                    notes=tuple(
                        f"{p.name} needs {', '.join(map(str, p.unresolved))}" for p in missing
                    ),
                    help="resolve it against domains that export these",
                )
            new = [placed for placed in group if placed.state == "placed"]
            try:
                for step in (Placed.enable, Placed.settle, Placed.seal):
                    for placed in new:
                        step(placed)
            except BaseException:
                for placed in new:
                    placed.disable()
                raise
        for placed in group:
            placed.construct()


def close(domain: Domain, *, sure: bool = False) -> None:
    """Give a domain's memory back; its destructors run first.

    It is refused while another domain is bound to it, and until every call from Python that may
    be inside has returned.  Threads that domains have made themselves are the caller's to know;
    ``sure`` says that none is inside, whatever is known here.  Raises `LinkError`
    ``domain/in-use``, ``domain/forged``.
    """
    state = _domains.of(domain)
    with _starting:
        with lock:
            code = [placed for placed in state.code if placed.state != "closed"]
            _retire(state.name, code, sure)
        for placed in reversed(code):
            placed.finish()
        with lock:
            for placed in code:
                placed.close()


def _retire(name: str, code: list[Placed], sure: bool) -> None:
    """Let no call from Python in any more, unless there is a reason against closing."""
    users = {user for placed in code for user in placed.users}.difference(code)
    if users:
        raise _in_use(name, f"{', '.join(sorted(user.name for user in users))} is bound to it")
    if any(placed.state == "starting" for placed in code):
        raise _in_use(name, "its startup code is not through")
    if any(placed.is_busy for placed in code):
        raise _in_use(name, "its destructors run")
    before = [placed.state for placed in code]
    for placed in code:
        placed.state = "closing"
    if not sure and not all(is_quiescent(placed) for placed in code):
        for placed, was in zip(code, before, strict=True):
            placed.state = was
        raise _in_use(name, "a call that came from Python may be inside")


def client(domain: Domain, interface: Interface) -> Client:
    """A domain's functions for Python.

    Raises `LinkError` ``domain/not-exported``, ``domain/forged``; ``domain/not-running`` for
    variables of a domain that was not initialised.
    """
    state = _domains.of(domain)
    return Client(interface, interface.choose(state.exports, state.name))


def _unresolved(code: Iterable[Placed]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(wanted.name for placed in code for wanted in placed.unresolved))


def _group(code: Iterable[Placed]) -> list[Placed]:
    """Everything that some code is bound to, directly or not, sources first."""
    order: list[Placed] = []
    seen: set[Placed] = set()
    stack = [(placed, False) for placed in reversed(list(code))]
    while stack:
        placed, done = stack.pop()
        if done:
            order.append(placed)
        elif placed not in seen:
            seen.add(placed)
            stack.append((placed, True))
            later = sorted(placed.sources - seen, key=lambda p: p.serial, reverse=True)
            stack += [(source, False) for source in later]
    return order


def _open_code(state: _State) -> tuple[Placed, ...]:
    if any(placed.state in ("closing", "closed") for placed in state.code):
        raise _closed(state.name)
    return state.code


def _check_source(wanted: Import, symbol: Symbol, target: Placed) -> None:
    """Whether a symbol can be given: what is closed has none, what does not run has none for what
    runs, and a variable is thread-local for both or for neither."""
    owner = symbol.owner
    if wanted.is_thread != (symbol.kind is Kind.THREAD):
        raise LinkError(
            "domain/wrong-type",
            f"`{wanted}` is a thread-local variable in only one of {target.name} and its source",
            place=Place(target.path),
            help="declare it in one header, with or without _Thread_local",
        )
    if owner is None:
        return
    if owner.state in ("closing", "closed"):
        raise _closed(owner.name)
    if target.state not in ("starting", "running"):
        return
    # Binding to an indirect function runs code of its owner, while `lock` is held.
    if owner.state == "placed" or (symbol.kind is Kind.INDIRECT and not owner.is_resolved):
        raise LinkError(
            "domain/not-running",
            f"{target.name} runs and cannot be bound to {owner.name}, which does not",
            help="resolve the source and initialize it first",
        )


def _closed(name: str) -> LinkError:
    return LinkError("domain/closed", f"{name} was closed", help="create it again")


def _in_use(name: str, why: str) -> LinkError:
    return LinkError(
        "domain/in-use", f"{name} cannot be closed: {why}",
        help="unresolve it from those that use it, and wait until calls have returned",
    )  # fmt: skip
