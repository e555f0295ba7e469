"""What modules tell each other: typed keys on the link, never strings or globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from spidl.diagnostics import LinkError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Fact(Generic[T]):
    """A key.  Two facts are the same only if they are the same object."""

    name: str


class Facts:
    """The facts of one link."""

    def __init__(self) -> None:
        self._values: dict[Fact[Any], Any] = {}

    def __setitem__(self, key: Fact[T], value: T) -> None:
        self._values[key] = value

    def __getitem__(self, key: Fact[T]) -> T:
        """Raises `LinkError` ``link/no-fact`` when no module has told it yet."""
        try:
            value: T = self._values[key]
        except KeyError:
            raise LinkError(
                "link/no-fact",
                f"no module has told the fact `{key.name}` yet",
                help="list the module that tells it earlier, or read the fact in a later phase",
            ) from None
        return value

    def __contains__(self, key: Fact[Any]) -> bool:
        return key in self._values

    @overload
    def get(self, key: Fact[T], default: T) -> T: ...
    @overload
    def get(self, key: Fact[T], default: None) -> T | None: ...
    def get(self, key: Fact[T], default: T | None) -> T | None:
        value: T | None = self._values.get(key, default)
        return value

    def setdefault(self, key: Fact[T], default: T) -> T:
        value: T = self._values.setdefault(key, default)
        return value
