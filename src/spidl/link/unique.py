"""STB_GNU_UNIQUE: one definition of a name in the whole process.

Look-ups through one scope agree anyway, unless they ask for different versions or their object has
DT_SYMBOLIC and looks into itself first.  glibc (do_lookup_unique, elf/dl-lookup.c) then gives
everybody the definition that was met first while relocating, which happens dependencies first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spidl.elf.constants import STB
from spidl.link.order import dependency_order

if TYPE_CHECKING:
    from spidl.link.dso import Dso
    from spidl.link.symbols import Exports

Winner = tuple[int, int]
"""(number of the object, index of its symbol)."""


def contested(
    members: Sequence[Dso],
    table: Callable[[Dso], Exports | None],
    look_up: Callable[[Dso, int], Winner | None],
) -> dict[int, Winner]:
    """By name hash: the definition that wins, for unique names on which objects could differ.

    ``look_up`` binds one symbol of an object by the rules of its scope.
    """
    definers: dict[int, set[int]] = {}
    """Name hash to the version hashes under which it is defined."""
    twice: set[int] = set()
    disputed: set[int] = set()
    for dso in members:
        exports = table(dso)
        if exports is None:
            continue
        unique = dso.file.symbols["st_info"][exports.symbol] >> 4 == STB.GNU_UNIQUE
        for row in np.flatnonzero(unique).tolist():
            name = int(exports.hash[row])
            if name in definers:
                twice.add(name)
            definers.setdefault(name, set()).add(int(exports.version[row]))
            if dso.file.symbolic:
                disputed.add(name)
    names = {name for name in twice if name in disputed or len(definers[name]) > 1}
    winners: dict[int, Winner] = {}
    for dso in dependency_order(members) if names else ():
        for name, symbol in _asked(dso, names - winners.keys()):
            found = look_up(dso, symbol)
            if found is not None:
                winners.setdefault(name, found)
    return winners


def _asked(dso: Dso, names: set[int]) -> list[tuple[int, int]]:
    """(name hash, symbol) of those of ``names`` that an object's relocations look up."""
    hashes = dso.file.name_hashes
    symbols = np.flatnonzero(np.isin(hashes, np.array(sorted(names), np.uint64)))
    if not len(symbols):
        return []
    used = np.concatenate([dso.file.rela["r_sym"], dso.file.jmprel["r_sym"]])
    return [(int(hashes[s]), int(s)) for s in symbols[np.isin(symbols, used)]]
