"""Which system calls a program may make: its link, what it opens, what it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from spidl.api import (
    ElfFile,
    Link,
    LinkError,
    Module,
    Place,
    Summary,
    number_of,
)
from spidl.modules.seccomp import golang
from spidl.modules.seccomp.bind import members_of
from spidl.modules.seccomp.combine import Member, Reach, Root, Unknown
from spidl.modules.seccomp.opened import Opened
from spidl.modules.seccomp.plugins import (
    ASSUMED,
    CAPSULES,
    GCONV,
    IMAGES,
    LOOKERS,
    NSS,
    OPENERS,
    OWN,
)

ALWAYS = {
    15: "a signal handler ends with it",
    60: "a thread ends with it",
    219: "the kernel itself goes on with it behind a stopped call",
    228: "the vDSO falls back to it",
    231: "a process ends with it",
}
"""rt_sigreturn, exit, restart_syscall, clock_gettime, exit_group: allowed in every program."""
VDSO = dict.fromkeys((96, 229), "the vDSO falls back to it")
"""gettimeofday and clock_getres: allowed where others than glibc may find the vDSO, whose own
functions have the same calls beside it.  The vDSO's time and getcpu make no calls."""
_FINDS_VDSO = "getauxval"
EXECVE, EXECVEAT = 59, 322
_LIBC = "libc.so.6"

Summarise = Callable[[ElfFile], Summary]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings say, checked (see `Seccomp`)."""

    exec: str | tuple[str, ...] = "allow"
    unknown: str = "deny"
    open_ended: str = "exports"
    strict: bool = False
    plugins: Mapping[str, Sequence[str]] = field(default_factory=dict)
    assume: Mapping[str, frozenset[int]] = field(default_factory=dict)
    allow: frozenset[int] = frozenset()
    forbid: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Decision:
    """What was decided, and why."""

    reach: Reach
    allowed: frozenset[int]
    because: dict[int, str]
    """Why a number is allowed that nothing in the link reaches."""
    newest: int
    """The highest number that the libc knows."""
    unknown: tuple[Unknown, ...]
    """What may make any call and is not answered for by `assume`."""
    started: dict[str, Decision]
    """Programs that it may start and that join in, by path."""
    open_ended: tuple[Unknown, ...] = ()
    """Who may open what cannot be known."""


def decide(link: Link, wishes: Wishes, modules: Sequence[Module], summarise: Summarise) -> Decision:
    """The decision for a link whose symbols are bound.

    ``modules`` make the links of programs that it starts.

    Raises `LinkError` ``seccomp/unknown``, ``seccomp/open-ended``, ``seccomp/no-program``.
    """
    decision = _one(link, wishes, summarise, is_started=False)
    reached = decision.allowed
    if not reached & {EXECVE, EXECVEAT}:
        return _final(decision, wishes)
    if wishes.exec == "deny":
        return _final(replace_allowed(decision, reached - {EXECVE, EXECVEAT}), wishes)
    if wishes.exec == "allow":
        if wishes.strict:
            raise _open_ended(link, f"{link.root.name} may start any program",
                              'exec = "deny", or the programs: exec = ["/bin/sh"]')  # fmt: skip
        return _final(_with_images(decision), wishes)
    todo = list(wishes.exec)
    because = dict(decision.because)
    while todo:
        path = _program(todo.pop(0))
        if path in decision.started:
            continue
        inner = Link(path, modules, link.environment, store=link.files)
        inner.collect()
        inner.load()
        inner.relocate()
        link.inputs.update(inner.inputs)
        other = decision.started[path] = _one(inner, wishes, summarise, is_started=True)
        for number in sorted(other.allowed - reached):
            because.setdefault(number, f"{path}, which it may start")
        todo += _interpreters(path)
    whole = reached.union(*(other.allowed for other in decision.started.values()))
    decision.because.update(because)
    return _final(_with_images(replace_allowed(decision, whole)), wishes)


def replace_allowed(decision: Decision, allowed: frozenset[int]) -> Decision:
    """The same with other numbers."""
    return replace(decision, allowed=allowed)


def _with_images(decision: Decision) -> Decision:
    """The same with what a program needs to start images."""
    numbers = {number for call in IMAGES if (number := number_of(call)) is not None}
    for number in numbers - decision.allowed:
        decision.because[number] = "an image that it may start begins with it"
    return replace_allowed(decision, decision.allowed | numbers)


def _program(path: str) -> str:
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise LinkError(
            "seccomp/no-program", f"`{path}` is not the absolute path of a program",
            place=Place("modules.seccomp.exec"), help="name files that are there",
        )  # fmt: skip
    return _interpreters(path)[0] if _interpreters(path) else path


def _interpreters(path: str) -> list[str]:
    """What a script names in its first line (execve(2))."""
    with open(path, "rb") as file:
        line = file.readline(256)
    words = line[2:].split() if line.startswith(b"#!") else []
    return [os.fsdecode(words[0])] if words else []


def _final(decision: Decision, wishes: Wishes) -> Decision:
    always = ALWAYS | (VDSO if _may_find_vdso(decision.reach) else {})
    because = {**decision.because, **always}
    allowed = decision.allowed | always.keys()
    for number in wishes.allow - allowed:
        because[number] = "the settings allow it"
    return replace(decision, allowed=(allowed | wishes.allow) - wishes.forbid, because=because)


def _may_find_vdso(reach: Reach) -> bool:
    """Whether there is no glibc, or something asks where the vDSO is."""
    return bool(reach.asking_for([_FINDS_VDSO])) or all(m.name != _LIBC for m in reach.members)


def _one(link: Link, wishes: Wishes, summarise: Summarise, *, is_started: bool) -> Decision:
    """What the objects of one link reach, with what they open."""
    reach = Reach(frozenset({*OPENERS, *LOOKERS, *NSS, *GCONV, _FINDS_VDSO}))
    members = members_of(link, [summarise(dso.file) for dso in link.objects])
    reach.add(members)
    linker = link.known(link.root.file.interp or "")
    for dso, member in zip(link.objects, members, strict=True):
        summary = member.summary
        reach.enter(Root(dso.number, summary.always, f"{dso.name}: constructors and data"))
        if (dso.is_root or (dso is linker and is_started)) and summary.entry is not None:
            reach.enter(Root(dso.number, summary.entry, f"{dso.name}: its entry"))
    exports = wishes.open_ended == "exports"
    opened = Opened(link, reach, wishes.plugins, summarise, may_call_exports=exports)
    opened.settle()
    # Only who is started anew begins in ld.so: an image does not.
    starts = reach.allowed().union(wishes.allow, *wishes.assume.values()) & {EXECVE, EXECVEAT}
    if linker is not None and starts and wishes.exec == "allow":
        entry = members[linker.number].summary.entry
        if entry is not None and reach.enter(Root(linker.number, entry, "what it may start")):
            opened.settle()
    if opened.open_ended and (wishes.strict or wishes.open_ended == "refuse"):
        first = opened.open_ended[0]
        raise _open_ended(
            link, f"{reach.members[first.member].name} {first.reason}",
            'declare its plug-ins: plugins = {"NAME" = ["/folder"]}',
        )  # fmt: skip
    because: dict[int, str] = {}
    if opened.open_ended and exports:
        told = f"what {reach.members[opened.open_ended[0].member].name} may open can make it"
        because |= {number: told for call in OWN if (number := number_of(call)) is not None}
    if any(namespace.opens for namespace in link.namespaces):
        told = "what finds libraries inside of a capsule's root makes it"
        because |= {number: told for call in CAPSULES if (number := number_of(call)) is not None}
    unknown = []
    # Who looks such a function up by name is stopped when it calls it for anything else.
    for found in (*reach.unknown(), *(opened.told if wishes.strict else ())):
        member = reach.members[found.member]
        if member.name in wishes.assume:
            told = f"the settings assume it of {member.name}"
            because |= dict.fromkeys(wishes.assume[member.name], told)
        elif member.name in ASSUMED:
            for export, calls in _assumed(reach, found.member).items():
                because |= dict.fromkeys(calls, f"{export} of {member.name} makes it")
        elif len(calls := member.file.derived(golang.numbers)["number"]):
            told = f"{member.name} hands its number to a function of Go's"
            because |= dict.fromkeys(calls.tolist(), told)
        else:
            unknown.append(found)
    link.files.keep(member.file for member in reach.members)
    if unknown and (wishes.strict or wishes.unknown == "refuse"):
        raise _unknown(reach, unknown, link)
    newest = _newest(reach.members)
    if unknown and wishes.unknown == "allow-all":
        name = reach.members[unknown[0].member].name
        because |= dict.fromkeys(range(newest + 1), f"{name} has a call of unknown number")
    return Decision(reach, reach.allowed() | because.keys(), because, newest, tuple(unknown), {},
                    tuple(opened.open_ended))  # fmt: skip


def _assumed(reach: Reach, member: int) -> dict[str, list[int]]:
    """The exports of a member that are reached, and make calls that are known otherwise."""
    stamps, summary = reach.stamps(member), reach.members[member].summary
    table = ASSUMED[reach.members[member].name]
    return {
        name: [number for call in table[name] if (number := number_of(call)) is not None]
        for (name, _), class_ in summary.exports.items()
        if name in table and stamps[class_]
    }


def _newest(members: Iterable[Member]) -> int:
    """The highest number in any object's code, reached or not; at least rseq's, which is 334."""
    highest = 334
    for member in members:
        rows = member.summary.masks.syscalls
        used = np.unpackbits(np.bitwise_or.reduce(rows, axis=0), bitorder="little")
        highest = max(highest, int(np.flatnonzero(used)[-1]) if used.any() else 0)
    return highest


def _open_ended(link: Link, what: str, help_: str) -> LinkError:
    return LinkError(
        "seccomp/open-ended",
        f"{what}, so what it asks of the kernel cannot be known",
        place=Place(link.root.path),
        help=f'in [modules.seccomp] {help_}; or neither strict nor open_ended = "refuse"',
    )


def _unknown(reach: Reach, unknown: Sequence[Unknown], link: Link) -> LinkError:
    notes = []
    for found in unknown[:5]:
        member = reach.members[found.member]
        sites = [s for s in member.summary.unknown if found.number in s.classes]
        if sites:
            notes += [f"{member.name}: {s.function or 'a function'} at {s.vaddr:#x}: {s.reason}"
                      for s in sites[:2]]  # fmt: skip
        else:
            notes.append(f"{member.name}: {found.reason}")
    name = reach.members[unknown[0].member].name
    return LinkError(
        "seccomp/unknown",
        f"{link.root.name} can reach a system call whose number is not known",
        place=Place(reach.members[unknown[0].member].path),
        notes=tuple(dict.fromkeys(notes)),
        help=f'say which: [modules.seccomp] assume = {{"{name}" = ["getpid"]}}, or go on without '
        'strict and with unknown = "deny": it may make none beyond the others',
    )
