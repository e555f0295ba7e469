"""A scope of symbol look-up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spidl.link.dso import Dso


@dataclass(slots=True, eq=False)
class Namespace:
    """Objects in the order in which symbols are looked for; the program is one namespace."""

    name: str
    members: list[Dso] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name
