"""Calls of whole programs: bindings against ld.so's, sets against a plain walk and the truth."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache

import pytest

from spidl.analyse import Class, Summary
from spidl.analyse.names import name_of
from spidl.diagnostics import LinkError
from spidl.distribution.combine import Member, bindings, reach
from tests.analyse.combining import closure, summary
from tests.needs import tool

PROGRAMS = {
    "ls": "coreutils", "bash": "bash", "git": "git", "sqlite3": "sqlite3", "perl": "perl",
    "openssl": "openssl", "curl": "curl", "grep": "grep", "tar": "tar", "xz": "xz-utils",
}  # fmt: skip


def of(
    name: str,
    classes: list[Class],
    imports: tuple[tuple[str, str | None], ...] = (),
    exports: Mapping[tuple[str, str | None], int] | None = None,
    entry: int | None = None,
    wrappers: Mapping[tuple[str, str | None], int] | None = None,
) -> Member:
    """A summary by hand; class 0 is what always runs."""
    return Member(
        Summary(name, name, (), imports, tuple(classes), 0, entry, exports or {}, {},
                wrappers or {})
    )  # fmt: skip


def makes(*syscalls: int, imports: tuple[int, ...] = ()) -> Class:
    return Class(frozenset(syscalls), frozenset(imports))


NOTHING = makes()


def test_only_what_is_reached_counts() -> None:
    program = of("p", [makes(1), makes(2, imports=(0,)), makes(3)], (("f", None),), entry=1)
    library = of("l", [makes(10), makes(11), makes(12)],
                 exports={("f", None): 1, ("g", None): 2})  # fmt: skip
    assert reach([program, library]).calls == {1, 2, 10, 11}
    assert reach([library], library=True).calls == {10}
    assert reach([library], library=True, used=True).calls == {10, 11, 12}


def test_the_first_that_defines_it_answers() -> None:
    program = of("p", [makes(imports=(0,))], (("f", None),))
    first, second = (of(n, [NOTHING, makes(at)], exports={("f", None): 1})
                     for at, n in enumerate("ab", start=1))  # fmt: skip
    assert reach([program, first, second]).calls == {1}
    assert reach([program, second, first]).calls == {2}


def test_a_version_must_fit_unless_the_library_has_none() -> None:
    program = of("p", [makes(imports=(0,))], (("f", "V2"),))
    old = of("a", [NOTHING, makes(1)], exports={("f", "V1"): 1})
    both = of("b", [NOTHING, makes(1), makes(2)], exports={("f", "V1"): 1, ("f", "V2"): 2})
    bare = of("c", [NOTHING, makes(3)], exports={("f", None): 1})
    assert reach([program, old, both]).calls == {2}
    assert reach([program, old, bare]).calls == {3}
    assert reach([program, old]).calls == set()


def test_a_reference_without_a_version_takes_all_versions_of_the_first() -> None:
    program = of("p", [makes(imports=(0,))], (("f", None),))
    both = of("b", [NOTHING, makes(1), makes(2)], exports={("f", "V1"): 1, ("f", "V2"): 2})
    assert reach([program, both]).calls == {1, 2}


def test_numbers_told_to_a_wrapper() -> None:
    libc = of("libc", [NOTHING, NOTHING], exports={("syscall", "G"): 1},
              wrappers={("syscall", "G"): 0})  # fmt: skip
    imports = (("syscall", "G"),)
    told = Class(frozenset(), frozenset({0}), frozenset({(0, 39)}))
    assert reach([of("p", [told], imports), libc]).calls == {39}
    assert not reach([of("p", [told], imports), libc]).unknown
    asks = Class(frozenset(), frozenset({0}))
    assert reach([of("p", [asks], imports), libc]).unknown
    assert not reach([of("p", [NOTHING, asks], imports), libc]).unknown, "it is not reached"


def test_unknown_and_opening() -> None:
    anything = Class(frozenset(), frozenset(), unknown=True)
    assert reach([of("p", [anything])]).unknown
    assert not reach([of("p", [NOTHING, anything])]).unknown
    opens = of("p", [makes(imports=(0,))], (("dlopen", "G"),))
    assert reach([opens, of("libc", [NOTHING, NOTHING], exports={("dlopen", "G"): 1})]).opens


# -- real programs ---------------------------------------------------------------------------------


@cache
def members(program: str) -> tuple[list[str], list[Member]]:
    paths = list(closure(program))
    return paths, [Member(summary(path)) for path in paths]


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_real_programs_are_bound_as_ld_so_binds_them(name: str) -> None:
    """LD_BIND_NOW makes ld.so bind every symbol; LD_DEBUG tells to which file."""
    program = os.path.realpath(tool(name, PROGRAMS[name]))
    paths, found = members(program)
    told = subprocess.run(
        [program, "--version"], capture_output=True, text=True, errors="replace", check=False,
        stdin=subprocess.DEVNULL, env={"LD_DEBUG": "bindings", "LD_BIND_NOW": "1"},
    ).stderr  # fmt: skip
    line = re.compile(
        r"binding file (\S+) \[0\] to (\S+) \[0\]: normal symbol `([^']+)'(?: \[([^]]+)\])?"
    )
    ours = [bindings(found, at) for at in range(len(paths))]
    numbers = {path: at for at, path in enumerate(paths)}
    numbers[program] = numbers[name] = 0
    checked = 0
    for by, to, symbol, version in line.findall(told):
        asking, giving = numbers.get(os.path.realpath(by)), numbers.get(os.path.realpath(to))
        if by == name:
            asking = 0
        if to == name:
            giving = 0
        if asking is None or giving is None:
            continue  # opened at run time
        bound = ours[asking].get((symbol, version or None))
        if asking == bound == 0:
            continue  # its copy of a library's data, which ld.so fills from the library
        if bound is not None:  # data is no import of any function's
            assert bound == giving, f"{by}: {symbol}@{version}"
            checked += 1
    assert checked > 20


def plainly(program: str) -> tuple[set[str], bool]:
    """The same as a plain walk over sets, one class at a time."""
    _, found = members(program)
    todo = [(at, member.summary.always) for at, member in enumerate(found)]
    todo += [(at, member.summary.entry) for at, member in enumerate(found)
             if member.summary.entry is not None
             and (at == 0 or member.summary.soname.startswith("ld-linux"))]  # fmt: skip
    seen, calls, unknown = set(todo), set[int](), False
    while todo:
        at, which = todo.pop()
        one = found[at].summary.classes[which]
        calls |= one.syscalls | {number for _, number in one.wrapper_calls}
        unknown |= one.unknown
        for index in one.imports:
            name, version = found[at].summary.imports[index]
            for to, member in enumerate(found):
                exports = member.summary.exports
                keys = [key for key in exports if key[0] == name
                        and (version is None or key[1] == version)] or [
                    key for key in ((name, None),) if key in exports]  # fmt: skip
                if not keys:
                    continue
                wrapper = any(key in member.summary.wrappers for key in keys)
                if wrapper and not any(i == index for i, _ in one.wrapper_calls):
                    unknown |= not one.unknown
                for key in keys:
                    if (to, exports[key]) not in seen:
                        seen.add((to, exports[key]))
                        todo.append((to, exports[key]))
                break
    return {name_of(number) for number in calls}, unknown


@pytest.mark.parametrize("name", ["ls", "bash", "xz", "tar"])
def test_real_programs_come_out_as_by_a_plain_walk(name: str) -> None:
    program = os.path.realpath(tool(name, PROGRAMS[name]))
    found = reach(members(program)[1])
    assert ({name_of(number) for number in found.calls}, found.unknown) == plainly(program)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ls", ["-la", "/"]),
        ("bash", ["-c", "x=$(echo a | (read y; echo $y)); echo $x"]),
        ("sqlite3", [":memory:", "select 1;"]),
        ("git", ["--version"]),
        ("xz", ["-c", "/etc/hostname"]),
        ("tar", ["-cf", "/dev/null", "/etc/hostname"]),
        ("openssl", ["version"]),
        ("perl", ["-e", "print 1"]),
        ("curl", ["--version"]),
        ("grep", ["root", "/etc/passwd"]),
    ],
)
def test_what_programs_really_ask_is_among_what_they_can(name: str, arguments: list[str]) -> None:
    program = os.path.realpath(tool(name, PROGRAMS[name]))
    found = reach(members(program)[1])
    traced = subprocess.run(
        [tool("strace", "strace"), "-qq", program, *arguments],
        capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
    ).stderr  # fmt: skip
    made = set(re.findall(r"^(\w+)\(", traced, re.MULTILINE)) - {"execve"}
    assert len(made) > 10
    can = {name_of(number) for number in found.calls}
    assert found.unknown or made <= can | {"rt_sigreturn", "restart_syscall"}, made - can


def test_a_summary_that_is_damaged_has_its_code() -> None:
    with pytest.raises(LinkError) as caught:
        Summary.from_bytes(b"no summary")
    assert caught.value.code == "analyse/summary"
