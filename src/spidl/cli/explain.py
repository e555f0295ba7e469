"""``spidl explain``: which module did what and why; who binds to whom; who wrote a word."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from spidl.cli.bindings import every_binding, symbol_json, symbol_text
from spidl.cli.reading import read_link
from spidl.cli.tables import BOLD, libraries, paint, plain, table, write, write_json
from spidl.cli.words import explain_at, letters
from spidl.diagnostics import LinkError, Place
from spidl.link.dso import Dso
from spidl.link.link import Link, PassRun
from spidl.link.phases import PHASES, START, Phase

_FEW = 3
"""So many objects are named; more are counted."""


def explain(options: argparse.Namespace) -> int:
    """Link without running anything, and tell about the whole, one symbol or one address.

    Raises `LinkError`, also ``explain/...`` for a symbol or an address that is not there.
    """
    if options.symbol is not None and options.at is not None:
        raise LinkError(
            "cli/usage", "SYMBOL and --at ask for different things", place=Place("command line"),
            help="ask one after the other",
        )  # fmt: skip
    link = read_link(options)
    if options.at is not None:
        found = explain_at(link, options.at)
        if options.json:
            write_json(found)
        else:
            write(_address_text(found))
    elif options.symbol is not None:
        if options.json:
            write_json(symbol_json(link, options.symbol))
        else:
            write(symbol_text(link, options.symbol))
    elif options.json:
        write_json(_whole_json(link))
    else:
        write(_whole_text(link))
    return 0


# -- the whole link ------------------------------------------------------------------------------


def _whole_json(link: Link) -> dict[str, object]:
    return {
        "program": link.root.path,
        "modules": [module.name for module in link.modules],
        "base": link.space.base,
        "objects": [_object_json(dso) for dso in link.objects],
        "passes": [
            {"phase": run.phase, "module": run.module, "object": run.dso, "pass": run.run,
             "main": run.strong, "ran": run.phase != START.name}
            for run in _passes(link)
        ],
        "taken_over": [
            {"phase": phase, "module": module, "object": dso, "pass": run, "by": by}
            for phase, module, dso, run, by in _taken_over(link)
        ],
        "answering": [
            {"what": what, "module": module, "object": dso} for what, module, dso in _roles(link)
        ],
        "mappings": [
            {"start": m.start, "end": m.end, "permission": letters(m.protection),
             "file": m.path, "file_offset": m.offset if m.path else None, "filled": m.filled,
             "phase": m.by.phase, "module": m.by.module, "object": m.by.dso}
            for m in link.space.mappings
        ],
        "protections": [
            {"start": p.start, "end": p.start + p.length, "permission": letters(p.protection),
             "phase": by.phase, "module": by.module, "object": by.dso}
            for p, by in link.space.protections
        ],
        "deferred": [
            {"reason": d.reason, "addresses": d.addresses.tolist(),
             "phase": d.by.phase, "module": d.by.module, "object": d.by.dso}
            for d in link.space.deferred
        ],
        "bindings": [asdict(binding) for binding in every_binding(link)],
        "inputs": sorted(link.inputs),
        "absent": sorted(link.absent),
    }  # fmt: skip


def _object_json(dso: Dso) -> dict[str, object]:
    members = dso.namespace.members
    return {
        "number": dso.number,
        "name": dso.name,
        "path": dso.path,
        "soname": dso.file.soname,
        "because": dso.because,
        "loader": None if dso.loader is None else dso.loader.path,
        "found": dso.found or None,
        "made_by": dso.made_by,
        "needs": [other.path for other in dso.dependencies],
        "namespace": dso.namespace.name,
        "scope": members.index(dso) + 1 if dso in members else None,
        "bias": dso.bias,
        "start": dso.start,
        "end": dso.end,
        "build_id": dso.file.build_id.hex() if dso.file.build_id else None,
        "tls": None if dso.tls is None or dso.file.tls is None
        else {"module": dso.tls.module, "offset": dso.tls.offset, "size": dso.file.tls.memsz},
    }  # fmt: skip


def _passes(link: Link) -> list[PassRun]:
    """The passes in the order of phases: those that ran, and start's, which wait for a target."""
    order = {phase.name: i for i, phase in enumerate(PHASES)}
    ran = sorted(link.history, key=lambda run: order[run.phase])
    return ran + [
        PassRun(START.name, registered.module, pipeline.dso.label, registered.name,
                registered.strong)
        for pipeline in link.pipelines
        for registered in pipeline.passes(START)
    ]  # fmt: skip


def _taken_over(link: Link) -> Iterator[tuple[str, str, str, str, str]]:
    """(phase, module, object, pass, the module that runs instead) of each lost main pass."""
    for pipeline in link.pipelines:
        for phase, lost in pipeline.overridden:
            found = next(one for one in PHASES if one.name == phase)
            passes = pipeline.passes(cast("Phase[Any]", found))
            now = next((registered.module for registered in passes if registered.strong), "nobody")
            yield phase, lost.module, pipeline.dso.label, lost.name, now


def _roles(link: Link) -> Iterator[tuple[str, str, str]]:
    """(what, module, object): who finds libraries for, exports for, and answers for an object."""
    for pipeline in link.pipelines:
        if pipeline.find is not None:
            yield "finder", pipeline.find[0], pipeline.dso.label
        if pipeline.exporter is not None:
            yield "exports", pipeline.exporter[0], pipeline.dso.label
        for module, _ in pipeline.resolvers:
            yield "resolver", module, pipeline.dso.label


def _whole_text(link: Link) -> list[str]:
    return [
        paint(f"{plain(link.root.path)}: {libraries(len(link.objects) - 1)}", BOLD),
        f"modules: {', '.join(module.name for module in link.modules)}",
        "",
        *_passes_text(link),
        "",
        *_objects_text(link),
        "",
        *_summary_text(link),
    ]


def _grouped(rows: Iterator[tuple[tuple[str, ...], str]]) -> list[tuple[tuple[str, ...], str]]:
    """Rows that differ in the object only, as one row with the objects named or counted."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for key, name in rows:
        groups.setdefault(key, []).append(name)
    return [
        (key, ", ".join(names) if len(names) <= _FEW else f"{len(names)} objects")
        for key, names in groups.items()
    ]


def _passes_text(link: Link) -> list[str]:
    def kind(run: PassRun) -> str:
        return ("main" if run.strong else "weak") + (", not run" if run.phase == START.name else "")

    rows = _grouped(
        ((run.phase, run.module, run.run, kind(run)),
         "the whole link" if run.phase.startswith("post-") else run.dso)
        for run in _passes(link)
    )  # fmt: skip
    lines = table(("PHASE", "MODULE", "PASS", "KIND", "ON"), ((*k, on) for k, on in rows))
    lost = _grouped(((p, m, r, by), dso) for p, m, dso, r, by in _taken_over(link))
    if lost:
        lines += ["", paint("main passes that a later module took over", BOLD)]
        lines += table(("PHASE", "MODULE", "PASS", "NOW", "ON"), ((*k, on) for k, on in lost))
    roles = _grouped(((what, module), dso) for what, module, dso in _roles(link))
    lines += ["", paint("who answers for objects", BOLD)]
    lines += table(("WHAT", "MODULE", "OBJECT"), ((*k, on) for k, on in roles))
    return lines


def _objects_text(link: Link) -> list[str]:
    def why(dso: Dso) -> str:
        loader = "" if dso.loader is None else f" of {dso.loader.label}"
        return dso.because + loader + (f", by {dso.made_by}" if dso.made_by else "")

    def tls(dso: Dso) -> str:
        return "-" if dso.tls is None else f"{dso.tls.module} at -{dso.tls.offset:#x}"

    return table(
        ("SCOPE", "OBJECT", "ADDRESS", "TLS", "WHY", "FOUND", "PATH"),
        (
            (str(link.main.members.index(dso) + 1) if dso in link.main.members else "-",
             dso.label, f"{dso.start:#x}", tls(dso), why(dso), dso.found or "-", dso.path)
            for dso in link.objects
        ),
        numbers="SCOPE",
    )  # fmt: skip


def _summary_text(link: Link) -> list[str]:
    asked = sum(len(b) for b in link.bindings)
    unbound = sum(int(np.count_nonzero((b.provider < 0) & (b.owner < 0))) for b in link.bindings)
    words = sum(len(w.addresses) for w in link.space.writes if hasattr(w, "addresses"))
    late: dict[str, int] = {}
    for deferred in link.space.deferred:
        late[deferred.reason] = late.get(deferred.reason, 0) + len(deferred.addresses)
    left = ", ".join(f"{count} {reason}" for reason, count in late.items())
    return [
        f"{asked} symbol requests, {unbound} of them bound to nothing (weak, or lazy)",
        f"{words} words written; left to the running process: {left or 'none'}",
        f"{len(link.inputs)} files read, {len(link.absent)} paths looked for in vain",
    ]


# -- one address ---------------------------------------------------------------------------------


def _address_text(found: dict[str, Any]) -> list[str]:
    mapping, value = found["mapping"], found["value"]
    symbol = f" {found['symbol']}" if found["symbol"] else ""
    lines = [paint(plain(f"{found['address']:#x} = {found['spot']}{symbol}"), BOLD)]

    def add(label: str, text: str) -> None:
        lines.append(f"{label:<12}{plain(text)}".rstrip())

    add("mapped", f"{mapping['start']:#x}-{mapping['end']:#x} {mapping['permission']} "
                  f"by {_by(mapping)}")  # fmt: skip
    if mapping["file_offset"] is not None:
        part = f"{mapping['file_start']:#x}-{mapping['file_end']:#x}"
        add("from", f"{mapping['file']} at offset {mapping['file_offset']:#x} of {part}")
    else:
        add("from", "zeros" if mapping["file"] is None else f"zeros behind {mapping['file']}")
    for final in mapping["protected"]:
        add("protected", f"{final['permission']} by {_by(final)}")
    for number, one in enumerate(found["writes"], 1):
        add(f"write {number}", f"{_what(one)} by {_by(one)}")
        _relocation_text(one, add)
    if found["deferred"] is not None:
        late = found["deferred"]
        add("deferred", f"{late['reason']}, by {_by(late)}: the value is made at start")
        if late["resolver"]:
            add("", f"by calling {late['resolver']}")
        else:
            add("", "by the run-time linker")
        _relocation_text(late, add)
    elif not found["writes"]:
        add("written", "by nobody: the content is the file's" if mapping["file_offset"] is not None
            else "by nobody")  # fmt: skip
    if value is not None:
        points = f" = {value['points_to']}" if value["points_to"] else ""
        add("value", f"{value['word']:#x}{points}")
    return lines


def _by(done: dict[str, Any]) -> str:
    return f"{done['module']} in {done['phase']} of {done['object']}"


def _what(done: dict[str, Any]) -> str:
    if "value" in done:
        points = f" = {done['points_to']}" if done["points_to"] else ""
        owner = f", wanted by {done['owner']}" if done["owner"] else ""
        return f"{done['bytes']} bytes at {done['address']:#x}: {done['value']:#x}{points}{owner}"
    origin = f" copied from {done['copied_from']}" if done["copied_from"] else ""
    return f"{done['bytes']} bytes at {done['address']:#x}{origin}"


def _relocation_text(done: dict[str, Any], add: Callable[[str, str], None]) -> None:
    """The relocation behind a write: table, type, addend; symbol and who answers for it."""
    if "index" in done:
        addend = f", addend {done['addend']:#x}" if done["addend"] else ""
        add("", f"for {done['table']}[{done['index']}], {done['type']}{addend}")
    elif "table" in done:
        add("", f"for {done['table']}")
    if "symbol" in done:
        version = f"@{done['version']}" if done["version"] else ""
        answer = done.get("provider") or "nobody"
        if done.get("resolved_by"):
            answer = f"module {done['resolved_by']}, in {answer}"
        own = f"@{done['provider_version']}" if done.get("provider_version") else ""
        add("", f"symbol {done['symbol']}{version}, answered by {answer}"
                + (f", version {own}" if own not in ("", version) else ""))  # fmt: skip
