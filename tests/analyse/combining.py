"""A plain combiner of summaries, and what programs really ask the kernel: the two to compare."""

from __future__ import annotations

import os
import re
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

from spidl.analyse import Summary, analyse
from spidl.analyse.names import number_of
from spidl.diagnostics import LinkError
from spidl.elf import ElfFile
from spidl.session import Request, make_link

STARTING = frozenset({"execve", "rt_sigreturn", "restart_syscall"})
"""What the kernel does for the program rather than the program's code."""


@cache
def summary(path: str) -> Summary:
    return analyse(ElfFile.open(path))


@cache
def closure(program: str) -> tuple[str, ...]:
    """The files of a program's link, in the order of the search for symbols; ld.so among them."""
    link = make_link(Request(program))
    link.collect()
    found = [os.path.realpath(dso.path) for dso in link.objects]
    interpreter = ElfFile.open(program).interp
    if interpreter is not None and os.path.realpath(interpreter) not in found:
        found.append(os.path.realpath(interpreter))
    return tuple(found)


def allowed(program: str, opened: frozenset[str] = frozenset()) -> tuple[set[int], bool]:
    """The system calls that a program may make, and whether it may make any.

    What it opens while it runs counts with all its exports: who calls dlsym may ask for each.
    """
    paths = list(dict.fromkeys([*closure(program), *sorted(opened)]))
    members = [summary(path) for path in paths]
    defined: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
    for at, member in enumerate(members):
        for name, version in member.exports:
            defined[name].append((at, version))
    todo = [(at, member.always) for at, member in enumerate(members)]
    todo += [(at, member.entry) for at, member in enumerate(members) if member.entry is not None]
    for at, path in enumerate(paths):
        if path in opened:
            todo += [(at, which) for which in set(members[at].exports.values())]
    calls: set[int] = set()
    seen = set(todo)
    unknown = False
    while todo:
        at, which = todo.pop()
        member = members[at]
        found = member.classes[which]
        calls |= found.syscalls
        unknown |= found.unknown
        told = defaultdict(set)
        for index, number in found.wrapper_calls:
            told[index].add(number)
        for index in found.imports:
            name, version = member.imports[index]
            provider = _provider(defined[name], version)
            if provider is None:
                continue
            key = name, provider[1]
            target = members[provider[0]]
            if key in target.wrappers:
                calls |= told[index]
                unknown |= not told[index]
            state = provider[0], target.exports[key]
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return calls, unknown


def _provider(
    found: list[tuple[int, str | None]], version: str | None
) -> tuple[int, str | None] | None:
    """The first definition with the version, as ld.so searches; any if none fits."""
    fitting = [item for item in found if version is None or item[1] in (version, None)]
    return (fitting or found or [None])[0]


class Trace:
    """What each program of a run asked the kernel, and which libraries it opened."""

    def __init__(self) -> None:
        self.calls: dict[str, set[str]] = defaultdict(set)
        self.opened: dict[str, set[str]] = defaultdict(set)


def traced(command: list[str], folder: Path, **options: object) -> Trace:
    """Run a command under strace and sort its calls by the program that made them."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "trace"
    subprocess.run(
        ["strace", "-ff", "-qq", "-e", "signal=none", "-s", "4096", "-o", str(prefix), *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        check=False, timeout=120, **options,
    )  # fmt: skip
    lines = {
        int(path.suffix[1:]): path.read_text(errors="replace").splitlines()
        for path in folder.glob("trace.*")
    }
    children = {
        int(match[1])
        for text in lines.values()
        for line in text
        if (match := re.match(r"(?:clone3?|v?fork)\(.*= (\d+)$", line))
    }
    trace = Trace()
    todo = [(pid, "") for pid in lines if pid not in children]
    while todo:
        pid, program = todo.pop()
        for line in lines.get(pid, []):
            match = re.match(r"(\w+)\((.*)", line)
            if match is None:
                continue
            if program:
                trace.calls[program].add(match[1])
            succeeded = re.search(r"= (\d+)$", line)
            if match[1] == "execve" and succeeded:
                program = os.path.realpath(re.match(r'"((?:[^"\\]|\\.)*)"', match[2])[1])
            if match[1] in ("clone", "clone3", "fork", "vfork") and succeeded:
                todo.append((int(succeeded[1]), program))
            if match[1] in ("open", "openat") and succeeded:
                path = re.search(r'"((?:[^"\\]|\\.)*)"', match[2])
                if path is not None and path[1].startswith("/") and is_library(path[1]):
                    trace.opened[program].add(os.path.realpath(path[1]))
    return trace


@cache
def is_library(path: str) -> bool:
    """Whether a path leads to a shared object of this machine."""
    if not os.path.isfile(path):
        return False
    try:
        return ElfFile.open(path).dynamic_vaddr is not None
    except (LinkError, OSError):
        return False


def is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def missing(trace: Trace) -> dict[str, set[str]]:
    """For each program of a trace, what it asked for and the analysis would not have allowed.

    That a program has places which may make any call excuses nothing.
    """
    found = {}
    for program, names in trace.calls.items():
        if not os.path.isfile(program) or not is_elf(program):
            continue
        opened = frozenset(trace.opened[program]) - set(closure(program))
        calls, _ = allowed(program, opened)
        absent = {name for name in names - STARTING if number_of(name) not in calls}
        if absent:
            found[program] = absent
    return found
