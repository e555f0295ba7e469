"""What a store tells about its distribution: per program, package, system call and library."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any

from spidl.analyse.names import NAMES, name_of
from spidl.analyse.summary import Summary
from spidl.diagnostics import LinkError
from spidl.distribution.closure import Scope, Universe
from spidl.distribution.combine import Member, Reached, reach
from spidl.distribution.store import File, Store

_KEPT = 4096
"""Unpacked summaries in memory: some gigabyte of the largest."""


@dataclass(frozen=True, slots=True)
class Program:
    """What one program can ask of the kernel."""

    package: str
    path: str
    calls: frozenset[int]
    objects: int
    """Files in its scope, itself included."""
    unknown: bool
    """Any call may come on top; see `Reached.unknown`."""
    opens: bool
    """What it opens at run time comes on top."""
    starts: bool
    missing: tuple[str, ...]
    """Names of needed files that the store has no summary of: what they bring comes on top."""


@dataclass(frozen=True, slots=True)
class Library:
    """What one library brings to those who link with it."""

    package: str
    path: str
    name: str
    """Its soname, or else the name of its file."""
    users: int
    """Programs with it in their scope."""
    linked: frozenset[int]
    """Calls that come with it in any case: what it and the libraries that it needs do by
    themselves, without those that libc has by itself."""
    used: frozenset[int]
    """Those, and the calls of all that it exports."""
    unknown: bool


@dataclass(frozen=True, slots=True)
class Package:
    """A package by the files in it."""

    name: str
    programs: int
    libraries: int
    calls: frozenset[int]
    """All that its programs can make; of its libraries, for a package without programs."""
    fewest: int
    """Calls of its program, or library, with the fewest."""
    unknown: bool
    opens: bool
    missing: bool
    """Some program needs a file that the store has no summary of: its calls are too few."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A file or package without a summary."""

    name: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Figures:
    """All of it."""

    files: int
    objects: int
    """Different files, by build-id."""
    seconds: float
    """Processor time of all summaries."""
    programs: list[Program]
    libraries: list[Library]
    packages: list[Package]
    calls: dict[str, int]
    """Every call that Linux has, to the number of programs that can make it."""
    failures: list[Failure]

    def to_json(self) -> dict[str, Any]:
        """The same, for programs: calls by name."""

        def plain(value: Any) -> Any:
            if isinstance(value, frozenset):
                return [name_of(number) for number in sorted(value)]
            return value

        def rows(values: list[Any]) -> list[dict[str, Any]]:
            return [{key: plain(part) for key, part in asdict(row).items()} for row in values]

        return {
            "files": self.files,
            "objects": self.objects,
            "seconds": self.seconds,
            "programs": rows(self.programs),
            "libraries": rows(self.libraries),
            "packages": rows(self.packages),
            "calls": self.calls,
            "failures": rows(self.failures),
        }


def read_figures(store: Store, tell: Callable[[int, int], None]) -> Figures:
    """Combine all that a store has; ``tell`` is called with how many of how many are done.

    Raises LinkError ``distribution/store``; a file whose summary is damaged or missing counts as
    missing to its programs.
    """
    members = _Members(store)
    files = store.files()
    have = [file for file in files if members.has(file.build_id)]
    universe = Universe(have, lambda build_id: members.of(build_id).summary.needed)
    programs: list[Program] = []
    users: Counter[str] = Counter()
    chosen = [file for file in have if file.is_program]
    others = [file for file in have if not file.is_program]
    total = len(have)
    for at, file in enumerate(chosen):
        tell(at, total)
        scope = universe.scope(file)
        users.update(member.path for member in scope.members[1:])
        found = reach([members.of(member.build_id) for member in scope.members])
        programs.append(_program(file, scope, found))
    libraries = _libraries(others, universe, members, users,
                           lambda done: tell(len(chosen) + done, total))  # fmt: skip
    paths = {file.build_id: file.path for file in files}
    makers = Counter(number for program in programs for number in program.calls)
    numbers = sorted(NAMES.keys() | makers.keys())
    return Figures(
        files=len(files),
        objects=len({file.build_id for file in files}),
        seconds=store.seconds(),
        programs=programs,
        libraries=libraries,
        packages=_packages(programs, libraries),
        calls={name_of(number): makers[number] for number in numbers},
        failures=[_failure(paths.get(what, what), text) for what, text in store.failures()],
    )


class _Members:
    """Members by build-id; libraries, which many programs share, are unpacked once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.of = lru_cache(_KEPT)(self._member)
        self.has = cache(self._has)

    def _member(self, build_id: str) -> Member:
        content = self._store.summary(build_id)
        assert content is not None, "`has` said so"
        return Member(Summary.from_bytes(content, build_id))

    def _has(self, build_id: str) -> bool:
        if self._store.summary(build_id) is None:
            return False
        try:
            self.of(build_id)
        except LinkError:  # of an older analyser, or damaged: it is made again by the next run
            return False
        return True


def _program(file: File, scope: Scope, found: Reached) -> Program:
    return Program(file.package, file.path, found.calls, len(scope.members), found.unknown,
                   found.opens, found.starts, scope.missing)  # fmt: skip


def _libraries(
    files: list[File], universe: Universe, members: _Members, users: Counter[str],
    tell: Callable[[int], None],
) -> list[Library]:  # fmt: skip
    by_itself: dict[str, frozenset[int]] = {}
    rows: list[Library] = []
    for at, file in enumerate(files):
        tell(at)
        if not users[file.path]:
            continue  # a plug-in, or what no package here needs
        scope = [members.of(member.build_id) for member in universe.scope(file).members]
        linked, used = reach(scope, library=True), reach(scope, library=True, used=True)
        name = file.soname or file.path.rpartition("/")[2]
        by_itself.setdefault(name, linked.calls)
        rows.append(Library(file.package, file.path, name, users[file.path], linked.calls,
                            used.calls, linked.unknown))  # fmt: skip
    libc = by_itself.get("libc.so.6", frozenset())
    return [_without(library, libc) for library in rows]


def _without(library: Library, calls: frozenset[int]) -> Library:
    return Library(library.package, library.path, library.name, library.users,
                   library.linked - calls, library.used - calls, library.unknown)  # fmt: skip


def _packages(programs: list[Program], libraries: list[Library]) -> list[Package]:
    names = {program.package for program in programs} | {row.package for row in libraries}
    of_package: dict[str, tuple[list[Program], list[Library]]] = {
        name: ([], []) for name in sorted(names)
    }
    for program in programs:
        of_package[program.package][0].append(program)
    for library in libraries:
        of_package[library.package][1].append(library)
    return [_package(name, *rows) for name, rows in of_package.items()]


def _package(name: str, programs: list[Program], libraries: list[Library]) -> Package:
    sets = [p.calls for p in programs] or [library.used for library in libraries]
    return Package(
        name,
        len(programs),
        len(libraries),
        frozenset[int]().union(*sets),
        min(len(calls) for calls in sets),
        any(p.unknown for p in programs) or any(row.unknown for row in libraries),
        any(p.opens for p in programs),
        any(p.missing for p in programs),
    )


def _failure(name: str, text: str) -> Failure:
    told = json.loads(text)
    return Failure(name, told["code"], told["message"])
