"""The reference graph of a file, and what each function reaches in it.

Every reference is an edge, as for a linker's --gc-sections: who can call a function through a
pointer must have got the pointer from a reference.  What data points to hangs on one more node,
*always*, since anybody may read data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spidl.analyse.after import only_after
from spidl.analyse.functions import Functions, find_functions
from spidl.analyse.layout import Column, Layout
from spidl.analyse.numbers import Fault, Numbers, find_numbers
from spidl.analyse.objects import Objects, known_objects, object_refs
from spidl.analyse.tables import spread
from spidl.elf import STT, ElfFile


@dataclass(frozen=True, eq=False)
class Graph:
    """Functions, edges, and what each does by itself."""

    functions: Functions
    numbers: Numbers
    first: list[int]
    """Where each node's edges begin in ``second``; one more at the end."""
    second: list[int]
    imports: tuple[Column, Column]
    """Pairs: node, symbol it refers to."""
    objects: Objects

    @property
    def layout(self) -> Layout:
        return self.functions.layout

    @property
    def always(self) -> int:
        """The node of all that runs or is pointed to; its number is behind the functions', and
        the objects' are behind it."""
        return len(self.functions)

    def data_nodes(self, vaddrs: Column) -> Column:
        """The node of each address in data: an object's, `always` where none is known."""
        return self.always + 1 + self.objects.home(vaddrs)

    def node_at(self, vaddr: int) -> int | None:
        """The function at an address, None for none."""
        found = int(self.functions.home(np.array([vaddr], dtype=np.int64))[0])
        return None if found < 0 else found

    @cached_property
    def faults(self) -> list[Fault]:
        return sorted(self.numbers.faults, key=lambda fault: (fault.vaddr, fault.reason))

    def edges(self, node: int) -> list[int]:
        return self.second[self.first[node] : self.first[node + 1]]


def build_graph(file: ElfFile) -> Graph:
    """The graph of a file.  Raises LinkError ``analyse/no-iced``."""
    functions = find_functions(Layout(file))
    numbers = find_numbers(functions)
    return _connect(functions, numbers)


def _connect(functions: Functions, numbers: Numbers) -> Graph:
    layout, refs, homes = functions.layout, functions.refs, functions.homes
    always, slots = len(functions), layout.slots
    pointed = np.concatenate(
        [layout.pointers.targets, layout.roots, functions.frames.personalities]
    )
    objects = known_objects(layout)
    pointers = layout.pointers
    holders = np.full(len(pointed), always)
    holders[: len(pointers.words)] += 1 + objects.home(pointers.words)
    row, held = objects.named(pointed, np.zeros(len(pointed), dtype=np.bool_))
    held_by = holders[row]
    holders = holders[layout.in_text(pointed)]
    pointed = functions.home(pointed[layout.in_text(pointed)])
    row, used = object_refs(layout, objects, refs)
    # What is no code for sure may refer to anything.
    strange = np.flatnonzero(functions.strange)
    in_text = np.flatnonzero(layout.in_text(refs.targets))
    by_slot = np.flatnonzero(np.isin(refs.targets, slots.vaddrs))
    # A slot has two relocations at most in damaged files; all of them count.
    left = np.searchsorted(slots.vaddrs, refs.targets[by_slot], "left")
    right = np.searchsorted(slots.vaddrs, refs.targets[by_slot], "right")
    counts = right - left
    slot = spread(left, counts)
    user = np.repeat(homes[by_slot], counts)
    local = slots.targets[slot] >= 0
    got = slots.targets[slot[local]]
    taker, taken = objects.named(got, np.zeros(len(got), dtype=np.bool_))
    unwound, pads = functions.frames.lands
    sources = [
        homes[in_text], user[local], functions.falls[0], functions.home(unwound), holders,
        held_by, homes[row], user[local][taker], np.repeat(strange, len(objects)),
    ]  # fmt: skip
    targets = [
        functions.home(refs.targets[in_text]), functions.home(got), functions.falls[1],
        functions.home(pads), pointed,
        *(always + 1 + found for found in (held, used, taken)),
        np.tile(always + 1 + np.arange(len(objects)), len(strange)),
    ]  # fmt: skip
    nodes = always + 1 + len(objects)
    edges = only_after(functions, np.concatenate(sources), np.concatenate(targets))
    first, second = _rows(*edges, nodes)
    named = slots.imports[slot] >= 0
    users = np.concatenate([user[named], np.full(len(layout.pointers.symbols), always)])
    symbols = np.concatenate([slots.imports[slot[named]], layout.pointers.symbols])
    code = layout.symbol_types[symbols] != STT.TLS if len(symbols) else np.zeros(0, np.bool_)
    return Graph(functions, numbers, first, second, (users[code], symbols[code]), objects)


def _rows(sources: Column, targets: Column, nodes: int) -> tuple[list[int], list[int]]:
    """Edges by source, each once, none from a node to itself."""
    real = (sources >= 0) & (targets >= 0) & (sources != targets)
    edges = np.unique(sources[real] * nodes + targets[real])
    first = np.searchsorted(edges, np.arange(nodes + 1, dtype=np.int64) * nodes)
    return first.tolist(), (edges % nodes).tolist()


def reach(graph: Graph, own: dict[int, int], roots: Iterable[int]) -> dict[int, int]:
    """For each root, the union of ``own`` (bit masks) over all nodes it leads to.

    Tarjan's strongly connected components, without recursion; a component is finished when all
    that it leads to is.
    """
    first, second = graph.first, graph.second
    nodes = len(first) - 1
    number = [0] * nodes
    low = [0] * nodes
    mask = [0] * nodes
    for node, bits in own.items():
        mask[node] = bits
    done = bytearray(nodes)
    at = list(first)
    stack: list[int] = []
    known: dict[int, int] = {}
    count = 0
    roots = list(roots)
    for root in roots:
        if number[root]:
            continue
        path = [root]
        while path:
            node = path[-1]
            if not number[node]:
                count += 1
                number[node] = low[node] = count
                stack.append(node)
            place, end = at[node], first[node + 1]
            deeper = False
            while place < end:
                other = second[place]
                if not number[other]:
                    # Comes back to this edge when the other is finished.
                    path.append(other)
                    deeper = True
                    break
                if done[other]:
                    mask[node] |= mask[other]
                elif low[other] < low[node]:
                    low[node] = low[other]
                place += 1
            at[node] = place
            if deeper:
                continue
            path.pop()
            if low[node] == number[node]:
                _finish(node, stack, mask, done, known)
    return {root: mask[root] for root in roots}


def _finish(
    node: int, stack: list[int], mask: list[int], done: bytearray, known: dict[int, int]
) -> None:
    """Take a component off the stack; all its nodes share one mask."""
    start = len(stack) - 1
    while stack[start] != node:
        start -= 1
    members = stack[start:]
    del stack[start:]
    bits = 0
    for member in members:
        bits |= mask[member]
    bits = known.setdefault(bits, bits)
    for member in members:
        mask[member] = bits
        done[member] = 1


def path(graph: Graph, start: int, goals: set[int]) -> Iterator[int]:
    """The nodes of a shortest way from one node to one of ``goals``, both ends included."""
    before = {start: start}
    ring = [start]
    while ring and not goals & set(ring):
        following: list[int] = []
        for node in ring:
            for other in graph.edges(node):
                if other not in before:
                    before[other] = node
                    following.append(other)
        ring = following
    ends = sorted(goals & set(ring))
    if not ends:
        return
    way = [ends[0]]
    while way[-1] != start:
        way.append(before[way[-1]])
    yield from reversed(way)
