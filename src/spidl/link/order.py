"""The orders in which objects are loaded, and relocated and initialised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spidl.link.dso import Dso


def loading_order(objects: Sequence[Dso]) -> list[Dso]:
    """Objects as the system's linker loads them: breadth first (glibc's _dl_map_object_deps).

    What modules add it is shown as preloads, behind the program; those of other namespaces without
    their needs.
    """
    main = objects[0].namespace
    order = [objects[0], *(dso for dso in objects if dso.is_added)]
    seen = {dso.number for dso in order}
    for dso in order:
        for needed in dso.dependencies if dso.namespace is main else ():
            if needed.number not in seen:
                seen.add(needed.number)
                order.append(needed)
    return order + [dso for dso in objects if dso.number not in seen]


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
