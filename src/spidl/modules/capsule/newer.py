"""One libc for all: the program's, or a root's where a capsule needs a newer one.

Every glibc runs programs that were built with an older one.  So where a library of a capsule asks
for versions that the program's libc does not define, the capsule's serves the program too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from spidl.api import SHN, ElfFile, Link, LinkError, Need, Place
from spidl.modules.capsule.settings import SHARED, Capsule


class InRoot(Protocol):
    """Finds a library in a capsule's root."""

    def __call__(self, name: str, capsule: Capsule) -> Need: ...


@dataclass(frozen=True, slots=True)
class Demand:
    """A version of a shared library that a capsule's library asks for."""

    capsule: Capsule
    path: str
    file: ElfFile
    library: str
    version: str

    @property
    def symbol(self) -> str:
        """A symbol that it wants in this version."""
        symbols = self.file.symbols
        for row in range(len(symbols)):
            if symbols["st_shndx"][row] == SHN.UNDEF and (
                self.file.symbol_version(row) == self.version
            ):
                return self.file.symbol_name(row)
        return "no symbol"


def libc_from(capsules: Sequence[Capsule], in_root: InRoot, link: Link) -> Capsule | None:
    """The capsule whose root's libc is to serve everybody; None for the program's own.

    Raises `LinkError` ``capsule/libc`` where none serves all.
    """
    demands = [d for capsule in capsules for d in _demands(capsule, in_root, link)]

    def ours(name: str) -> Need:
        need = link.find(name, link.root, "shared with a capsule")
        assert isinstance(need, Need), "it is the program's own search"
        return need

    open_ones = list(_unmet(demands, ours, link))
    if not open_ones:
        return None
    for capsule in dict.fromkeys(demand.capsule for demand in open_ones):
        if not list(_unmet(demands, partial(in_root, capsule=capsule), link)):
            return capsule
    demand = open_ones[0]
    raise LinkError(
        "capsule/libc",
        f"`{demand.symbol}` of {demand.library} in version {demand.version} is wanted by "
        f"{demand.path}, and no libc has what the program and all capsules want",
        place=Place("spidl.toml", f"modules.capsule.capsules.{demand.capsule.name}"),
        notes=tuple(
            f"{d.path} wants {d.symbol}@{d.version} of {d.library}" for d in open_ones[1:5]
        ),
        help="take the capsules from one root, or from roots of older systems",
    )


def _demands(capsule: Capsule, in_root: InRoot, link: Link) -> Iterator[Demand]:
    """What the capsule's libraries, and all that they need privately, ask of shared ones."""
    todo, seen = deque(capsule.libraries), set(capsule.libraries)
    while todo:
        need = in_root(todo.popleft(), capsule)
        if need.path is None:
            continue  # collect says so
        file = link.files.open(need.path)
        for name in file.needed:
            if name not in seen and not capsule.shares(name):
                seen.add(name)
                todo.append(name)
        for wanted in file.verneeds:
            if wanted.file in SHARED:
                yield Demand(capsule, need.path, file, wanted.file, wanted.name)


def _unmet(demands: Sequence[Demand], find: Callable[[str], Need], link: Link) -> Iterator[Demand]:
    defined: dict[str, set[str]] = {}
    for demand in demands:
        if demand.library not in defined:
            need = find(demand.library)
            path = need.path or (known.path if (known := link.known(need.name)) else None)
            file = None if path is None else link.files.open(path)
            defined[demand.library] = set() if file is None else {v.name for v in file.verdefs}
        if demand.version not in defined[demand.library]:
            yield demand
