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
from spidl.domains.symbols import Symbol
from spidl.elf import ElfFile
from spidl.live.namespace import lock

_starting = threading.RLock()
"""Held while startup code runs, `lock` is not: it may call back into the linker."""


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """``code`` is what operations may change: empty for what is only a source of symbols."""

    name: str
    exports: dict[str, Symbol]
    code: tuple[Placed, ...] = ()


class Domain(Capability, kind=True):
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
        loaded, and its undefined symbols wait for `resolve`.  Symbol versions do not count.

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
            return _domains.give(_State(interface.name, interface.implement(implementation)))
        state = _domains.of(implementation)
        return _domains.give(_State(interface.name, interface.choose(state.exports, state.name)))

    @staticmethod
    def from_process(names: Iterable[str], name: str = "process") -> Domain:
        """A domain of functions and variables that the process has, of the C library for instance.

        Whoever may call this may give away anything.  Raises `LinkError` ``domain/no-symbol``.
        """
        return _domains.give(_State(name, host.symbols(names)))

    @property
    def name(self) -> str:
        """What messages call it."""
        return _domains.of(self).name

    @property
    def exports(self) -> frozenset[str]:
        """The names of its symbols."""
        return frozenset(_domains.of(self).exports)

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

    The target's exports stay what they are.  To one that runs, only sources that run can be given.
    Raises `LinkError` ``domain/forged``, ``domain/closed``, ``domain/not-running``.
    """
    given, taking = _domains.of(source), _domains.of(target)
    bound: dict[str, None] = {}
    with lock:
        for placed in _open_code(taking):
            found = {
                wanted.name: given.exports[wanted.name]
                for wanted in placed.imports.values()
                if wanted.symbol is None and wanted.name in given.exports
            }
            _check_source(found.values(), placed)
            placed.bind(found)
            bound |= dict.fromkeys(found)
    return tuple(bound)


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
            names = [
                wanted.name
                for wanted in placed.imports.values()
                if wanted.symbol is not None and given.exports.get(wanted.name) is wanted.symbol
            ]
            owners = {given.exports[name].owner for name in names}
            placed.unbind(names)
            lost |= dict.fromkeys(names)
            for owner in owners:
                if owner is not None:
                    owner.left = last_number()
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
                found.setdefault(wanted.name, wanted.symbol)
    return _domains.give(_State(state.name, found))


def initialize(domain: Domain) -> None:
    """Let a fully resolved domain run: its text becomes executable, its startup code is called.

    What it is bound to is initialised before it, and must be fully resolved as well.  A second
    time does nothing.  Raises `LinkError` ``domain/unresolved``, ``domain/closed``,
    ``domain/forged``.
    """
    state = _domains.of(domain)
    with _starting:
        with lock:
            group = _group(_open_code(state))
            missing = [p for p in group if p.unresolved]
            if missing:
                raise LinkError(
                    "domain/unresolved",
                    f"{state.name} cannot run: not everything is resolved",
                    place=Place(missing[0].path),
                    notes=tuple(f"{p.name} needs {', '.join(p.unresolved)}" for p in missing),
                    help="resolve it against domains that export these",
                )
            new = [placed for placed in group if placed.state == "placed"]
            for placed in new:
                placed.enable()
            for placed in new:
                placed.settle()
            for placed in new:
                placed.seal()
        for placed in new:
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
        raise _in_use(name, "its startup code runs")
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
    return tuple(dict.fromkeys(name for placed in code for name in placed.unresolved))


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


def _check_source(symbols: Iterable[Symbol], target: Placed) -> None:
    """What is closed can give nothing; what does not run, nothing to what runs."""
    for owner in {symbol.owner for symbol in symbols if symbol.owner is not None}:
        if owner.state in ("closing", "closed"):
            raise _closed(owner.name)
        if target.state in ("starting", "running") and owner.state == "placed":
            raise LinkError(
                "domain/not-running",
                f"{target.name} runs and cannot be bound to {owner.name}, which does not",
                help="initialize the source first",
            )


def _closed(name: str) -> LinkError:
    return LinkError("domain/closed", f"{name} was closed", help="create it again")


def _in_use(name: str, why: str) -> LinkError:
    return LinkError(
        "domain/in-use", f"{name} cannot be closed: {why}",
        help="unresolve it from those that use it, and wait until calls have returned",
    )  # fmt: skip
