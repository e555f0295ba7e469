"""A scope of symbol look-up, and the names under which its objects are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spidl.link.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Callable

    from spidl.link.dso import Dso, Need
    from spidl.link.link import Link


@dataclass(slots=True, eq=False)
class Namespace:
    """Objects in the order in which symbols are looked for.

    A member that belongs to another namespace is a *guest*: what it defines is seen here as far as
    ``seen`` allows, and what it asks for is looked up where it belongs.
    """

    name: str
    root: str = ""
    """The folder that its absolute paths are meant inside of; "" for the system's own."""
    opens: bool = False
    """Whether its objects may open libraries, which then belong here."""
    lent: dict[str, str] = field(default_factory=dict)
    """By name, the paths of libraries that it opens from the program's side and not its root's."""
    members: list[Dso] = field(default_factory=list)
    names: dict[str, Dso] = field(default_factory=dict)
    """Objects by soname, requested name and path."""
    seen: dict[int, Sequence[str]] = field(default_factory=dict)
    """By number of a guest: patterns (`fnmatch`) of the names that are seen; all, without."""
    inodes: dict[tuple[int, int], Dso] = field(default_factory=dict)
    """Objects of its own by (device, inode)."""

    def __str__(self) -> str:
        return self.name

    def welcome(self, dso: Dso) -> None:
        """Make ``dso`` a member, behind the others."""
        if dso not in self.members:
            self.members.append(dso)

    def learn(self, name: str, dso: Dso) -> None:
        """Know ``dso`` by one more name."""
        dso.names.add(name)
        self.names[name] = dso


TREES: Fact[Callable[[str, str, Dso | None, Link], Need]] = Fact("trees")
"""How a library is found in another file tree: by its name, the tree's root, and who asks."""
