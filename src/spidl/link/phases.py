"""The ten phases of a link, with the names of the paper's table 1.

The five main phases and ``start`` work object by object; their pass is called with an object and
the link and gives a result whose type is part of the phase.  The post-phases work on the whole
link.  ``register`` is the tenth: it is `Module.register` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from spidl.link.actions import Action
    from spidl.link.dso import Dso, MemoryObject, Need
    from spidl.link.link import Link
    from spidl.link.space import Placement, Protect

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Phase(Generic[T]):
    """A phase that works object by object and gives a ``T`` for each pass."""

    name: str
    summary: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class PostPhase:
    """A phase that works on the whole link, once every object is through the one before."""

    name: str
    summary: str

    def __str__(self) -> str:
        return self.name


COLLECT: Phase[Iterable[Need | MemoryObject]] = Phase(
    "collect", "what an object needs; beyond post-collect there are no new objects"
)
POST_COLLECT = PostPhase("post-collect", "look at the closed set of objects")
LOAD: Phase[Placement] = Phase("load", "an object gets its address and its mappings")
POST_LOAD = PostPhase("post-load", "beyond this point there are no new mappings")
RELOCATE: Phase[None] = Phase("relocate", "bind symbols, write words")
POST_RELOCATE = PostPhase("post-relocate", "beyond this point nothing is written")
PROTECT: Phase[Sequence[Protect]] = Phase("protect", "final permissions")
POST_PROTECT = PostPhase("post-protect", "beyond this point no permission changes")
START: Phase[Sequence[Action]] = Phase("start", "what only the started process can do")

REGISTER = PostPhase("register", "every module says which passes it brings to an object")

PHASES: tuple[Phase[Iterable[Need | MemoryObject]] | Phase[Placement] | Phase[None]
              | Phase[Sequence[Protect]] | Phase[Sequence[Action]] | PostPhase, ...] = (
    REGISTER, COLLECT, POST_COLLECT, LOAD, POST_LOAD,
    RELOCATE, POST_RELOCATE, PROTECT, POST_PROTECT, START,
)  # fmt: skip

if TYPE_CHECKING:
    ObjectPass = Callable[[Dso, Link], T]
    LinkPass = Callable[[Link], None]
