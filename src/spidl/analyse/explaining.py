"""Why a function can make a system call: the way through one file, function by function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spidl.analyse.analyser import function_names
from spidl.analyse.code import BOUND, CALL
from spidl.analyse.graph import Graph, build_graph, path
from spidl.analyse.note import sections
from spidl.analyse.summary import Key
from spidl.diagnostics import LinkError, Place
from spidl.elf import SYM, ElfFile

ALWAYS, ENTRY = "always", "entry"
_SHT_SYMTAB = 2
_STT_FUNC = 2


@dataclass(frozen=True, slots=True)
class Step:
    """A function on the way, or an object of the data that points to one; ``vaddr`` is its start,
    None for what is always reached."""

    name: str
    vaddr: int | None


def explain(file: ElfFile, start: Key | str | int, goal: Key | int) -> tuple[Step, ...]:
    """The shortest way from a function to one that makes a call itself, both included.

    ``start`` is an export, a virtual address, or `ALWAYS` or `ENTRY`; ``goal`` the number of a
    system call, or an import.  Empty where there is no way.  The graph is made anew for it.

    Raises LinkError ``analyse/no-function`` where there is no such start, others as `analyse`.
    """
    graph = build_graph(file)
    goals = _goals(graph, goal)
    names = _names(graph)
    return tuple(_step(graph, names, node) for node in path(graph, _start(graph, start), goals))


def _step(graph: Graph, names: dict[int, str], node: int) -> Step:
    if node == graph.always:
        return Step("always", None)
    if node > graph.always:
        vaddr = int(graph.objects.starts[node - graph.always - 1])
        return Step(f"data at {vaddr:#x}", vaddr)
    vaddr = int(graph.functions.starts[node])
    return Step(names.get(node) or f"{vaddr:#x}", vaddr)


def _start(graph: Graph, start: Key | str | int) -> int:
    layout, found = graph.layout, None
    if start == ALWAYS:
        return graph.always
    if isinstance(start, int):
        found = graph.node_at(start)
    elif start == ENTRY:
        found = graph.node_at(layout.file.entry)
    else:
        wanted = (start, None) if isinstance(start, str) else start
        for symbol in layout.exported.tolist():
            name, version = layout.key(symbol)
            if name == wanted[0] and wanted[1] in (None, version):
                found = graph.node_at(int(layout.symbol_values[symbol]))
                break
    if found is None:
        text = start if isinstance(start, str) else start[0] if isinstance(start, tuple) else None
        raise LinkError(
            "analyse/no-function",
            f"there is no function `{text or hex(int(str(start)))}`",
            place=Place(layout.file.name),
            help="spidl analyse --functions lists the exported ones",
        )
    return found


def _goals(graph: Graph, goal: Key | int) -> set[int]:
    """The functions that do it themselves."""
    numbers = graph.numbers
    if isinstance(goal, int):
        found = {node for node, number in numbers.calls if number == goal}
        return found | {node for node, _, number in numbers.wrapper_calls if number == goal}
    users, symbols = graph.imports
    fitting = [at for at in np.unique(symbols).tolist() if graph.layout.key(at) == goal]
    return set(users[np.isin(symbols, fitting)].tolist())


def _names(graph: Graph) -> dict[int, str]:
    """Names of functions: the exported ones, and those of a symbol table that was not stripped.

    For people only: no result depends on the section headers.
    """
    file, names = graph.layout.file, {}
    table, _ = sections(file)
    for kind, link, at, size in table[["sh_type", "sh_link", "sh_offset", "sh_size"]].tolist():
        if kind != _SHT_SYMTAB or link >= len(table) or at + size > len(file.data):
            continue
        symbols = np.frombuffer(file.data[at : at + size // 24 * 24].tobytes(), SYM)
        first, length = int(table["sh_offset"][link]), int(table["sh_size"][link])
        strings = file.data[first : first + length].tobytes()
        functions = symbols[(symbols["st_info"] & 0xF == _STT_FUNC) & (symbols["st_value"] != 0)]
        homes = graph.functions.home(functions["st_value"].astype(np.int64))
        for home, name in zip(homes.tolist(), functions["st_name"].tolist(), strict=True):
            if home >= 0 and name < len(strings):
                end = strings.find(b"\0", name)
                names[home] = strings[name:end].decode(errors="surrogateescape")
    return _entries(graph) | names | function_names(graph)


def _is_entry(graph: Graph, node: int) -> bool:
    """Whether a function jumps through a slot and does nothing else."""
    refs = graph.functions.refs
    kinds = set(refs.kinds[graph.functions.rows_of(node)].tolist())
    return BOUND in kinds and CALL not in kinds and len(graph.edges(node)) <= 1


def _entries(graph: Graph) -> dict[int, str]:
    """Names of PLT entries: what refers to one import and goes nowhere else but to the PLT."""
    users, symbols = graph.imports
    nodes, rows, counts = np.unique(users, return_index=True, return_counts=True)
    return {
        node: f"{graph.layout.file.symbol_name(symbol)}@plt"
        for node, symbol in zip(
            nodes[counts == 1].tolist(), symbols[rows[counts == 1]].tolist(), strict=True
        )
        if node != graph.always and _is_entry(graph, node)
    }
