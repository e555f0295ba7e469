"""Calls from Python into domains, and knowing when they are over.

Each call that is under way has a number.  When a domain loses a user, it remembers the last number
given out: code of it may still be running on behalf of calls up to that one.  When none of them is
under way any more, and none that was made to the domain itself, no thread that came from Python is
inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spidl.diagnostics import LinkError
from spidl.domains.interface import Interface
from spidl.domains.symbols import Symbol

if TYPE_CHECKING:
    from spidl.domains.placed import Placed

_numbers = itertools.count(1)
_under_way: dict[int, Placed | None] = {}
"""Whom each call was made to, by number."""


def last_number() -> int:
    """A number that every call under way has not exceeded."""
    return next(_numbers)


def is_quiescent(placed: Placed) -> bool:
    """Whether every call to it, and every other that may be inside, has returned."""
    under_way = _under_way.copy().items()
    return not any(to is placed or number <= placed.left for number, to in under_way)


class Client:
    """A domain's exports as an interface types them: functions are methods, variables cffi
    pointers.

    A call raises `LinkError` ``domain/not-running`` before the domain is initialised and while it
    is not fully resolved.
    """

    def __init__(self, interface: Interface, symbols: dict[str, Symbol]) -> None:
        for name, symbol in symbols.items():
            if interface.is_function(name):
                setattr(self, name, _function(interface, symbol))
            else:
                check_running(symbol)
                setattr(self, name, interface.at(name, symbol.address))

    def __repr__(self) -> str:
        return f"<Client of {', '.join(sorted(vars(self)))}>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the interface declares no `{name}`")


def _function(interface: Interface, symbol: Symbol) -> Callable[..., Any]:
    name = symbol.name
    made: list[Any] = []

    def call(*arguments: Any) -> Any:
        number = next(_numbers)
        _under_way[number] = symbol.owner  # before the look at its state: `close` does the reverse
        try:
            check_running(symbol)
            if not made:
                made.append(interface.at(name, value_of(symbol)))
            return made[0](*arguments)
        finally:
            del _under_way[number]

    call.__name__ = call.__qualname__ = name
    return call


def value_of(symbol: Symbol) -> int:
    """The run-time address that a symbol stands for."""
    from spidl.domains.placed import value_of

    return value_of(symbol)


def check_running(symbol: Symbol) -> None:
    """Raises `LinkError` ``domain/not-running``."""
    owner = symbol.owner
    if owner is None or (owner.state == "running" and not owner.unresolved):
        return
    missing = owner.unresolved
    why = "it is closed" if owner.state in ("closing", "closed") else "it was not initialised"
    if missing:
        why = f"it is not resolved: {', '.join(missing)}"
    raise LinkError(
        "domain/not-running",
        f"`{symbol.name}` of {owner.name} cannot be called: {why}",
        help="resolve it against what it imports, then initialize it",
    )
