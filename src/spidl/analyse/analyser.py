"""From a file to its summary."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from spidl.analyse.graph import Graph, build_graph, reach
from spidl.analyse.numbers import TAKES_NUMBER
from spidl.analyse.summary import NUMBERS, Classes, Key, Site, Summary, Told
from spidl.elf import PF, ElfFile


def analyse(file: ElfFile) -> Summary:
    """The system calls of a file, from the binary alone.

    Raises LinkError ``analyse/no-iced`` without the decoder, ``parse/...`` for a damaged file.
    """
    return summarise(build_graph(file))


def identity(file: ElfFile) -> str:
    """The build-id in hex; a hash of the whole file where it has none."""
    if file.build_id:
        return file.build_id.hex()
    return f"sha256:{hashlib.sha256(file.data.tobytes()).hexdigest()}"


class _Bits:
    """What a function does by itself, as bits of a number: system calls, imports, calls of
    wrappers, places where the number is not known."""

    def __init__(self, graph: Graph) -> None:
        layout, numbers = graph.layout, graph.numbers
        users, symbols = graph.imports
        keys = {int(symbol): layout.key(int(symbol)) for symbol in np.unique(symbols)}
        self.imports: tuple[Key, ...] = tuple(sorted(set(keys.values()), key=_order))
        index = {key: at for at, key in enumerate(self.imports)}
        self.own: dict[int, int] = defaultdict(int)
        for node, number in numbers.calls:
            self.own[node] |= 1 << number
        for node, symbol in zip(users.tolist(), symbols.tolist(), strict=True):
            self.own[node] |= 1 << (NUMBERS + index[keys[symbol]])
        self._calls_at = NUMBERS + -(-len(self.imports) // 8) * 8
        calls = {
            (node, index[keys[symbol]], number) for node, symbol, number in numbers.wrapper_calls
        }
        self._calls = sorted({(symbol, number) for _, symbol, number in calls})
        call_index = {call: at for at, call in enumerate(self._calls)}
        for node, symbol, number in calls:
            self.own[node] |= 1 << (self._calls_at + call_index[symbol, number])
        told = {(node if node >= 0 else graph.always, index[keys[symbol]], name)
                for node, symbol, name in numbers.told}  # fmt: skip
        names = sorted({(symbol, name) for _, symbol, name in told}, key=_by_name)
        self.told = tuple(Told(symbol, name) for symbol, name in names)
        self._told_at = self._calls_at + len(self._calls)
        told_index = {one: at for at, one in enumerate(names)}
        for node, symbol, name in told:
            self.own[node] |= 1 << (self._told_at + told_index[symbol, name])
        self.faults_at = self._told_at + len(self.told)
        for at, fault in enumerate(graph.faults):
            node = graph.always if fault.function < 0 else fault.function
            self.own[node] |= 1 << (self.faults_at + at)

    def classes(self, masks: Iterable[int], faults: int) -> tuple[Classes, list[tuple[int, ...]]]:
        """What masks say, and for each of so many faults the classes that reach it."""
        masks = list(masks)
        width = -(-(self.faults_at + faults) // 8)
        content = b"".join(mask.to_bytes(width, "little") for mask in masks)
        rows = np.frombuffer(content, dtype=np.uint8).reshape(len(masks), width)
        start = self._calls_at // 8
        rest = np.unpackbits(rows[:, start:], axis=1, bitorder="little")
        behind, between = self._told_at - self._calls_at, self.faults_at - self._calls_at
        which, call = np.nonzero(rest[:, :behind])
        told = np.column_stack(np.nonzero(rest[:, behind:between])).astype(np.uint32)
        calls = np.array(self._calls, dtype=np.uint32).reshape(-1, 2)[call]
        unknown = rest[:, between : between + faults]
        found = Classes(
            rows[:, : NUMBERS // 8].copy(),
            rows[:, NUMBERS // 8 : start].copy(),
            np.column_stack([which.astype(np.uint32), calls]),
            told,
            np.any(unknown, axis=1).astype(np.bool_).reshape(-1),
        )
        return found, [tuple(np.flatnonzero(column).tolist()) for column in unknown.T]


def _by_name(told: tuple[int, str | None]) -> tuple[int, bool, str]:
    symbol, name = told
    return symbol, name is None, name or ""


def _order(key: Key) -> tuple[str, str]:
    return key[0], key[1] or ""


def summarise(graph: Graph) -> Summary:
    """The summary of a file whose graph is known."""
    layout, file = graph.layout, graph.layout.file
    bits = _Bits(graph)
    exported = layout.exported
    nodes = graph.data_nodes(layout.symbol_values[exported])
    code = layout.export_in_text
    homes = graph.functions.home(layout.symbol_values[exported][code])
    # A symbol in the text that nothing can decode is data there.
    nodes[code] = np.where(homes >= 0, homes, graph.always)
    entry = graph.node_at(file.entry) if file.entry else None
    roots = set(nodes.tolist()) | {graph.always} | ({entry} if entry is not None else set())
    masks = reach(graph, bits.own, sorted(roots))
    extra = len(graph.faults)
    faults = list(graph.faults)
    numbering: dict[int, int] = {}
    exports: dict[Key, int] = {}
    addresses: dict[int, int] = {}
    wrappers: dict[Key, int] = {}
    open_sites: dict[int, int] = {}
    for symbol, node in zip(exported.tolist(), nodes.tolist(), strict=True):
        key, vaddr = layout.key(symbol), int(layout.symbol_values[symbol])
        mask = masks[node]
        argument = graph.numbers.wrappers.get(node)
        if argument is not None and vaddr == int(graph.functions.starts[node]):
            wrappers[key] = argument
            if TAKES_NUMBER.get(key[0]) != argument:
                # Who imports it does not look for its numbers.
                site = open_sites.setdefault(node, extra + len(open_sites))
                mask |= 1 << (bits.faults_at + site)
        which = numbering.setdefault(mask, len(numbering))
        # A PLT entry that stands for a function of another object has an address only.
        if layout.is_defined(symbol):
            exports[key] = which
        if node != graph.always or vaddr not in addresses:
            addresses[vaddr] = which
    always = numbering.setdefault(masks[graph.always], len(numbering))
    entry_class = None
    if entry is not None:
        entry_class = numbering.setdefault(masks[entry], len(numbering))
    sites = [(fault.vaddr, fault.function, fault.reason) for fault in faults]
    sites += [(int(graph.functions.starts[node]), node, "the number is an argument, and others "
               "can call it") for node in open_sites]  # fmt: skip
    names = function_names(graph)
    classes, reached = bits.classes(numbering, len(sites))
    return Summary(
        build_id=identity(file),
        soname=file.soname or "",
        needed=file.needed,
        imports=bits.imports,
        classes=classes,
        always=always,
        entry=entry_class,
        exports=exports,
        addresses=addresses,
        wrappers=wrappers,
        told=bits.told,
        unknown=tuple(
            Site(vaddr, _place(graph, names, node), reason, reached[at])
            for at, (vaddr, node, reason) in enumerate(sites)
        ),
        flags=_flags(graph),
    )  # fmt: skip


def function_names(graph: Graph) -> dict[int, str]:
    """Names of functions, as far as exported symbols tell them."""
    layout = graph.layout
    exported = layout.exported[layout.export_in_text]
    homes = graph.functions.home(layout.symbol_values[exported]).tolist()
    return {
        home: layout.file.symbol_name(symbol)
        for home, symbol in zip(homes, exported.tolist(), strict=True)
    }


def _place(graph: Graph, names: dict[int, str], node: int) -> str:
    if node < 0:
        return "data"
    return names.get(node) or f"{int(graph.functions.starts[node]):#x}"


def _flags(graph: Graph) -> frozenset[str]:
    functions, file = graph.functions, graph.layout.file
    writable = any(load.flags & PF.W and load.flags & PF.X for load in file.loads)
    said = {
        "int80": len(functions.interrupts) > 0,
        "no-frames": not functions.frames.found,
        "writable-code": writable,
    }
    return frozenset(name for name, holds in said.items() if holds)
