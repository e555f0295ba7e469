"""Calls from Python into domains, and knowing when they are over.

Each call that is under way has a number.  When a domain loses a user, it remembers the last number
given out: code of it may still be running on behalf of calls up to that one.  When none of them is
under way any more, and none that was made to the domain itself, no thread that came from Python is
inside.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spidl.diagnostics import LinkError
from spidl.domains.interface import Interface
from spidl.domains.slots import value_of
from spidl.domains.symbols import Kind, Symbol

if TYPE_CHECKING:
    from spidl.domains.placed import Placed

_numbers = itertools.count(1)
_under_way: dict[int, tuple[Placed | None, int]] = {}
"""Whom each call was made to, and by which thread, by number."""


def _forget_other_threads() -> None:
    """In a process that was forked, only the thread that forked goes on."""
    own = threading.get_ident()
    for number, (_, thread) in _under_way.copy().items():
        if thread != own:
            del _under_way[number]


os.register_at_fork(after_in_child=_forget_other_threads)


def last_number() -> int:
    """A number that every call under way has not exceeded."""
    return next(_numbers)


def is_quiescent(placed: Placed) -> bool:
    """Whether every call to it, and every other that may be inside, has returned."""
    under_way = _under_way.copy().items()
    return not any(to is placed or number <= placed.left for number, (to, _) in under_way)


class Client:
    """A domain's exports as an interface types them: functions are methods, variables cffi
    pointers.

    A call raises `LinkError` ``domain/not-running`` before the domain is initialised and while it
    is not fully resolved.
    """

    def __init__(self, interface: Interface, symbols: dict[str, Symbol]) -> None:
        for name, symbol in symbols.items():
            make = _function if interface.is_function(name) else _variable
            vars(self)[name] = make(interface, symbol)

    def __repr__(self) -> str:
        return f"<Client of {', '.join(sorted(vars(self)))}>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the interface declares no `{name}`")


def _function(interface: Interface, symbol: Symbol) -> Callable[..., Any]:
    name = symbol.name
    made: list[Any] = []

    def call(*arguments: Any) -> Any:
        number = next(_numbers)
        try:
            # Before the look at its state: `close` does the reverse.
            _under_way[number] = symbol.owner, threading.get_ident()
            check_running(symbol)
            if not made:
                made.append(interface.at(name, value_of(symbol)))
            return made[0](*arguments)
        finally:
            _under_way.pop(number, None)

    call.__name__ = call.__qualname__ = name
    return call


def _variable(interface: Interface, symbol: Symbol) -> Any:
    check_running(symbol)
    if symbol.kind is Kind.THREAD:
        raise LinkError(
            "domain/tls", f"`{symbol.name}` is thread-local: there is not one of it, but many",
            help="call a function of the domain that returns its address",
        )  # fmt: skip
    return interface.at(symbol.name, symbol.address)


def check_running(symbol: Symbol) -> None:
    """Raises `LinkError` ``domain/not-running``."""
    owner = symbol.owner
    if owner is None or (owner.state == "running" and owner.is_resolved):
        return
    why = "it is closed" if owner.state in ("closing", "closed") else "it was not initialised"
    if not owner.is_resolved:
        why = f"it is not resolved: {', '.join(map(str, owner.unresolved))}"
    raise LinkError(
        "domain/not-running",
        f"`{symbol.name}` of {owner.name} cannot be called: {why}",
        help="resolve it against what it imports, then initialize it",
    )
