"""The order in which objects are relocated and initialised: dependencies first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spidl.link.dso import Dso


def dependency_order(objects: Sequence[Dso]) -> list[Dso]:
    """Objects in depth-first postorder, cycles cut where they close; the program comes last.

    glibc's _dl_sort_maps_dfs (elf/dl-sort-maps.c) starts at the object that was loaded last.
    """
    order: list[Dso] = []
    seen: set[int] = set()
    for dso in reversed(objects):
        if dso.number in seen:
            continue
        seen.add(dso.number)
        stack = [(dso, iter(dso.dependencies))]
        while stack:
            current, rest = stack[-1]
            following = next((d for d in rest if d.number not in seen), None)
            if following is None:
                stack.pop()
                order.append(current)
            else:
                seen.add(following.number)
                stack.append((following, iter(following.dependencies)))
    return order
