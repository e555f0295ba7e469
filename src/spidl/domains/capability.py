"""Unforgeable references: objects that say nothing and that only we can look behind.

What a reference stands for lies in a table here, under the identity of the one object that was
given out.  An object that somebody made otherwise, by copying, unpickling, subclassing or
`object.__new__`, is not in the table.  Python has no walls: code that imports this module's private
names can read the table, just as it could use ctypes (docs/domains.md, Limits).
"""

from __future__ import annotations

import weakref
from typing import Any, Generic, NoReturn, Self, TypeVar

from spidl.diagnostics import LinkError

S = TypeVar("S")


class Capability:
    """A reference that cannot be made, copied or written down; it is equal to itself only."""

    __slots__ = ("__weakref__",)

    def __new__(cls, *arguments: object, **named: object) -> Self:
        raise _forged(f"{cls.__name__} cannot be constructed")

    def __init_subclass__(cls) -> None:
        if cls.__bases__ != (Capability,):
            raise _forged(f"{cls.__name__} cannot be derived from a capability")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise _forged(f"{type(self).__name__} cannot be copied or pickled")

    def __copy__(self) -> NoReturn:
        raise _forged(f"{type(self).__name__} cannot be copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise _forged(f"{type(self).__name__} cannot be copied")


C = TypeVar("C", bound=Capability)


class Table(Generic[C, S]):
    """What references of one kind stand for."""

    def __init__(self, kind: type[C]) -> None:
        self._kind = kind
        self._rows: dict[int, tuple[weakref.ref[C], S]] = {}

    def give(self, state: S) -> C:
        """A new reference to ``state``."""
        made = object.__new__(self._kind)
        key = id(made)
        rows = self._rows

        def gone(_: Any) -> None:
            del rows[key]

        rows[key] = weakref.ref(made, gone), state
        return made

    def of(self, reference: C) -> S:
        """What a reference stands for.  Raises `LinkError` ``domain/forged``."""
        row = self._rows.get(id(reference))
        if row is None or row[0]() is not reference:
            raise _forged(f"this is no {self._kind.__name__} that was given out: {type(reference)}")
        return row[1]


def _forged(message: str) -> LinkError:
    return LinkError(
        "domain/forged", message,
        help="ask whoever has the reference to pass it to you, or ask the name server",
    )  # fmt: skip
