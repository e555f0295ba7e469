"""``spidl seccomp``: why a program may make a system call, and what an update changes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from spidl.analyse import ALWAYS, ENTRY, Summary, explain
from spidl.analyse.names import name_of, number_of
from spidl.analyse.summary import Key
from spidl.cli.reading import request_of
from spidl.cli.tables import BOLD, paint, plain, table, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.elf import ElfFile
from spidl.link.link import Link
from spidl.modules.seccomp import DECISION, Decision, Seccomp
from spidl.modules.seccomp.combine import Member, Step, Unknown, symbol_of
from spidl.session import Request, configured, find_program, make_link

_MODULE = "seccomp"
_FEW = 6


def seccomp(options: argparse.Namespace) -> int:
    """Explain a decision or compare two: 1 for a call that is not allowed, and for a change."""
    return _diff(options) if options.action == "diff" else _explain(options)


def _decided(request: Request) -> tuple[Link, Decision]:
    """A link as far as the decision; what is unknown is listed, not refused."""
    if _MODULE not in (*configured(request).pipeline, *request.extra):
        request = Request(
            request.program, (*request.extra, _MODULE), config=request.config,
            settings=request.settings,
        )  # fmt: skip
    link = make_link(request)
    for module in link.modules:
        if isinstance(module, Seccomp):
            module.strict = False
            if module.unknown == "refuse":
                module.unknown = "deny"
            if module.open_ended == "refuse":
                module.open_ended = "exports"
    link.collect()
    link.load()
    link.relocate()
    return link, link.facts[DECISION]


# -- explain -------------------------------------------------------------------------------------


def _explain(options: argparse.Namespace) -> int:
    link, decision = _decided(request_of(options))
    if options.call is None:
        found = _whole(link, decision)
        if options.json:
            write_json(found)
        else:
            write(_whole_text(found))
        return 0
    number = number_of(options.call)
    if number is None and options.call.isdecimal():
        number = int(options.call)
    if number is None:
        raise LinkError(
            "cli/usage", f"there is no system call `{options.call}`", place=Place("command line"),
            help="give its name on x86-64, or its number",
        )  # fmt: skip
    told = _one(link, decision, number)
    if options.json:
        write_json(told)
    else:
        write(_one_text(told))
    return 0 if told["allowed"] else 1


def _whole(link: Link, decision: Decision) -> dict[str, Any]:
    members = decision.reach.members
    makers: dict[int, list[str]] = {}
    for at, member in enumerate(members):
        for number in decision.reach.calls(at):
            makers.setdefault(number, []).append(member.name)
    for path, other in decision.started.items():
        for number in other.allowed:
            makers.setdefault(number, []).append(path)
    return {
        "program": link.root.path,
        "objects": len(link.objects),
        "opened": [{"name": m.name, "path": m.path, "because": m.because}
                   for m in members[len(link.objects):]],
        "started": list(decision.started),
        "newest": decision.newest,
        "allowed": [
            {"call": name_of(n), "number": n, "made_by": makers.get(n, []),
             "because": decision.because.get(n)}
            for n in sorted(decision.allowed)
        ],
        "unknown": list(_told(decision, decision.unknown)),
        "open_ended": [
            told for other in (decision, *decision.started.values())
            for told in _told(other, other.open_ended)
        ],
    }  # fmt: skip


def _told(decision: Decision, found: Iterable[Unknown]) -> Iterator[dict[str, Any]]:
    for one in found:
        yield {"object": decision.reach.members[one.member].name, "reason": one.reason,
               "way": _way_json(decision, one.member, one.number)}  # fmt: skip


def _whole_text(found: dict[str, Any]) -> Iterator[str]:
    allowed, opened = found["allowed"], found["opened"]
    yield paint(plain(f"{found['program']} may make {len(allowed)} system calls"), BOLD)
    yield f"{found['objects']} objects linked, {len(opened)} more that it may open"
    for other in found["started"]:
        yield plain(f"and what {other} needs, which it may start")
    yield ""
    rows = []
    for one in allowed:
        made_by = one["made_by"]
        who = ", ".join(made_by[:_FEW]) + (f" and {len(made_by) - _FEW} more" if
                                           len(made_by) > _FEW else "")  # fmt: skip
        rows.append((one["call"], str(one["number"]), who or one["because"] or ""))
    yield from table(("call", "number", "made by"), rows, "number")
    for title, key in (
        ("calls whose number is not known", "unknown"),
        ("what is not known of the libraries that are opened", "open_ended"),
    ):
        if found[key]:
            yield ""
            yield paint(title, BOLD)
        for one in found[key]:
            yield plain(f"{one['object']}: {one['reason']}")
            yield from (f"  {plain(line)}" for line in _way_text(one["way"]))


def _one(link: Link, decision: Decision, number: int) -> dict[str, Any]:
    """Everything about one call."""
    reach = decision.reach
    ways = [
        {"object": reach.members[at].name, "way": _way_json(decision, at, class_, number)}
        for at, class_ in reach.callers(number)
    ]
    for path, other in decision.started.items():
        ways += [
            {"object": other.reach.members[at].name, "started": path,
             "way": _way_json(other, at, class_, number)}
            for at, class_ in other.reach.callers(number)
        ]  # fmt: skip
    return {
        "program": link.root.path,
        "call": name_of(number),
        "number": number,
        "allowed": number in decision.allowed,
        "because": decision.because.get(number),
        "ways": ways,
        "able": [] if ways else list(_able(reach.members, number)),
        "unknown": [reach.members[u.member].name for u in decision.unknown],
    }


def _able(members: list[Member], number: int) -> Iterator[dict[str, Any]]:
    """Objects whose exports could make a call, if anything reached called them."""
    for member in members:
        masks = member.summary.masks
        has = np.flatnonzero(masks.syscalls[:, number >> 3] >> (number & 7) & 1)
        able = set(has.tolist())
        names = sorted(name for (name, _), of in member.summary.exports.items() if of in able)
        if able:
            yield {"object": member.name, "exports": names}


def _one_text(told: dict[str, Any]) -> Iterator[str]:
    verdict = "is allowed" if told["allowed"] else "is not allowed"
    yield paint(plain(f"{told['call']} ({told['number']}) {verdict} to {told['program']}"), BOLD)
    if told["because"]:
        yield plain(told["because"])
    for one in told["ways"]:
        yield ""
        if "started" in one:
            yield plain(f"in {one['started']}, which it may start:")
        yield from map(plain, _way_text(one["way"]))
    if told["allowed"]:
        return
    for one in told["able"]:
        exports = one["exports"]
        more = f" and {len(exports) - _FEW} more" if len(exports) > _FEW else ""
        by = f" through {', '.join(exports[:_FEW])}{more}" if exports else ""
        yield plain(f"{one['object']} can make it{by}, which nothing reaches")
    for name in dict.fromkeys(told["unknown"]):
        yield plain(f"{name} has calls whose number is not known: this may be one")
    yield f'to allow it: [modules.seccomp] allow = ["{told["call"]}"]'


def _way_json(
    decision: Decision, member: int, number: int, call: int | None = None
) -> list[dict[str, Any]]:
    """A way as values; the last step goes on inside its file where ``call`` is given."""
    steps = decision.reach.way(member, number)
    members = decision.reach.members
    found: list[dict[str, Any]] = []
    for at, step in enumerate(steps):
        taker = members[step.member]
        goal: Key | int | None = call
        if at + 1 < len(steps):
            name, _, version = steps[at + 1].symbol.partition("@")
            goal = name, version or None
        inside = [] if goal is None else _inside(taker, step, goal, is_first=at == 0)
        found.append({"object": taker.name, "path": taker.path, "through": step.symbol,
                      "inside": inside})  # fmt: skip
    return found


def _inside(member: Member, step: Step, goal: Key | int, *, is_first: bool) -> list[str]:
    """The functions from where a file is entered to a call or an import, the first left out where
    it is the symbol that leads there."""
    goals: list[Key | int] = [goal]
    if isinstance(goal, int):
        goals += sorted({member.summary.imports[i]
                         for i, n in member.summary.classes[step.number].wrapper_calls
                         if n == goal})  # fmt: skip
    for start in _starts(member, step):
        for one in goals:
            functions = [found.name for found in explain(member.file, start, one)]
            if functions:
                return functions if is_first else functions[1:]
    return []


def _starts(member: Member, step: Step) -> list[Key | str]:
    """Where a class is entered: the export of the step's symbol, or what has this class."""
    summary = member.summary
    name, _, version = step.symbol.partition("@")
    found: list[Key | str] = [
        key for key, number in summary.exports.items()
        if number == step.number and key[0] == name and version in ("", key[1])
    ]  # fmt: skip
    if step.number == summary.entry:
        found.append(ENTRY)
    if step.number == summary.always:
        found.append(ALWAYS)
    if not found:
        found += [key for key, number in summary.exports.items() if number == step.number][:1]
    return found


def _way_text(way: list[dict[str, Any]]) -> Iterator[str]:
    for at, step in enumerate(way):
        if at == 0:
            yield step["through"]
        else:
            yield f"  calls {step['through']} of {step['object']}"
        if step["inside"]:
            yield f"    {' > '.join(step['inside'])}"


# -- diff ----------------------------------------------------------------------------------------


def _diff(options: argparse.Namespace) -> int:
    old, new = (os.path.abspath(path) if os.path.exists(path) else find_program(path)
                for path in (options.old, options.new))  # fmt: skip
    programs = [ElfFile.open(path).interp is not None for path in (old, new)]
    if programs[0] != programs[1]:
        raise LinkError(
            "cli/usage", "one of them is a program, the other a library",
            place=Place("command line"), help="compare two programs, or two libraries",
        )  # fmt: skip
    compare = _diff_programs if programs[0] else _diff_libraries
    found = compare(options, old, new)
    if options.json:
        write_json(found)
    else:
        write(_diff_text(found))
    return 1 if found["changes"] else 0


def _diff_programs(options: argparse.Namespace, old: str, new: str) -> dict[str, Any]:
    def request(path: str) -> Request:
        return Request(path, tuple(options.extra), config=options.config,
                       settings=tuple(options.settings))  # fmt: skip

    before, after = _decided(request(old))[1], _decided(request(new))[1]
    changes = []
    for number in sorted(before.allowed ^ after.allowed):
        is_new = number in after.allowed
        decision = after if is_new else before
        callers = decision.reach.callers(number)
        changes.append({
            "name": name_of(number), "added": [name_of(number)] if is_new else [],
            "removed": [] if is_new else [name_of(number)],
            "way": _way_json(decision, *callers[0], number) if callers else [],
        })  # fmt: skip
    return {"old": old, "new": new, "what": "program", "changes": changes}


def _diff_libraries(options: argparse.Namespace, old: str, new: str) -> dict[str, Any]:
    from spidl.analyse import summary_of

    files = make_link(Request(new, config=options.config)).files
    opened = [files.open(path) for path in (old, new)]
    before, after = (_by_export(summary_of(file)) for file in opened)
    files.keep(opened)
    changes = []
    for name in sorted({*before, *after}):
        had, has = before.get(name), after.get(name)
        if had != has:
            changes.append({
                "name": name, "way": [],
                "added": sorted((has or frozenset()) - (had or frozenset())),
                "removed": sorted((had or frozenset()) - (has or frozenset())),
                "is": "new" if had is None else "gone" if has is None else "changed",
            })  # fmt: skip
    return {"old": old, "new": new, "what": "library", "changes": changes}


def _by_export(summary: Summary) -> dict[str, frozenset[str]]:
    """What each export does, system calls and `import SYMBOL`; ``(always)`` for what runs in any
    case."""

    def told(number: int) -> frozenset[str]:
        reached = summary.classes[number]
        calls = {*reached.syscalls, *(call for _, call in reached.wrapper_calls)}
        imports = {f"import {symbol_of(summary, i)}" for i in reached.imports}
        return frozenset({*map(name_of, calls), *imports})

    found = {"(always)": told(summary.always)}
    for (name, version), number in summary.exports.items():
        found[name if version is None else f"{name}@{version}"] = told(number)
    return found


def _diff_text(found: dict[str, Any]) -> Iterator[str]:
    yield paint(plain(f"{found['old']} -> {found['new']}"), BOLD)
    if not found["changes"]:
        yield "the same system calls"
    for change in found["changes"]:
        words = [f"+{name}" for name in change["added"]] + [f"-{n}" for n in change["removed"]]
        if found["what"] == "program":
            yield plain(words[0])
            yield from (f"  {plain(line)}" for line in _way_text(change["way"]))
        else:
            state = "" if change["is"] == "changed" else f" ({change['is']})"
            yield plain(f"{change['name']}{state}: {' '.join(words) or 'no system calls'}")
