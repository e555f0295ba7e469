"""`spidl seccomp`: why a call is allowed, function by function, and what an update changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .attack import library, one_error, program
from .harness import spidl

BAR = """
#include <unistd.h>
#include <sys/socket.h>
int quiet(void) { return socket(1, 1, 0); }
static __attribute__((noinline)) long inner(void) { return syscall(170, "", 0); }
long foo(void) { return inner() + getppid(); }
"""
"""170 is sethostname."""
MAIN = "long foo(void); int main(void) { return foo() > 1000000; }"


@pytest.fixture
def bar(tmp_path: Path) -> Path:
    return library(tmp_path / "libbar.so", BAR)


@pytest.fixture
def main(tmp_path: Path, bar: Path) -> Path:
    return program(tmp_path / "main", MAIN, bar)


def explained(main: Path, *call: str, status: int = 0) -> Any:
    result = spidl(["seccomp", "explain", "--json", str(main), *call])
    assert result.status == status, result
    return json.loads(result.stdout)


def test_the_way_to_a_call(main: Path) -> None:
    told = explained(main, "getppid")
    assert told["allowed"]
    (way,) = [one["way"] for one in told["ways"] if one["object"] == "libc.so.6"]
    assert [step["object"] for step in way] == ["main", "libbar.so", "libc.so.6"]
    assert [step["through"] for step in way][1] == "foo"
    assert way[2]["through"].startswith("getppid@GLIBC_")
    assert "main" in way[0]["inside"]


def test_the_way_through_a_function_that_is_told_the_number(main: Path) -> None:
    told = explained(main, "sethostname")
    assert told["allowed"]
    (one,) = told["ways"]
    assert [step["object"] for step in one["way"]] == ["main", "libbar.so"]
    assert "0x" in "".join(one["way"][1]["inside"]) or "inner" in one["way"][1]["inside"]


def test_as_text(main: Path) -> None:
    result = spidl(["seccomp", "explain", str(main), "getppid"])
    text = result.stdout.decode()
    assert text.startswith(f"getppid (110) is allowed to {main}\n"), text
    assert "main: its entry\n" in text
    assert "  calls foo of libbar.so\n" in text
    assert "  calls getppid@GLIBC_2.2.5 of libc.so.6\n" in text


def test_what_is_not_allowed(main: Path) -> None:
    told = explained(main, "chroot", status=1)
    assert not told["allowed"]
    assert {"object": "libc.so.6", "exports": ["chroot"]} in told["able"]
    text = spidl(["seccomp", "explain", str(main), "161"]).stdout.decode()
    assert text.startswith(f"chroot (161) is not allowed to {main}\n")
    assert 'to allow it: [modules.seccomp] allow = ["chroot"]' in text


def test_all_that_is_allowed(main: Path) -> None:
    told = explained(main)
    calls = {one["call"]: one for one in told["allowed"]}
    assert calls["sethostname"]["made_by"] == ["libbar.so"]
    assert "libc.so.6" in calls["getppid"]["made_by"]
    assert calls["restart_syscall"]["because"]
    assert len(calls) < 150
    text = spidl(["seccomp", "explain", str(main)]).stdout.decode()
    assert text.startswith(f"{main} may make {len(calls)} system calls\n")


def test_a_call_that_does_not_exist(main: Path) -> None:
    assert one_error(spidl(["seccomp", "explain", str(main), "no_such_call"])) == "cli/usage"


def test_an_update_of_a_library(bar: Path, tmp_path: Path) -> None:
    more = "int kill(int, int); int more(void) { return kill(0, 0) + 1; }"
    new = library(tmp_path / "new/libbar.so", BAR.replace("170", "161") + more)
    same = spidl(["seccomp", "diff", str(bar), str(bar)])
    assert (same.status, same.stdout.decode().splitlines()[1:]) == (0, ["the same system calls"])
    result = spidl(["seccomp", "diff", "--json", str(bar), str(new)])
    assert result.status == 1, result
    changes = {one["name"]: one for one in json.loads(result.stdout)["changes"]}
    assert set(changes) == {"foo", "more"}
    assert (changes["foo"]["added"], changes["foo"]["removed"]) == (["chroot"], ["sethostname"])
    assert (changes["more"]["is"], changes["more"]["added"]) == ("new", ["import kill@GLIBC_2.2.5"])
    text = spidl(["seccomp", "diff", str(bar), str(new)]).stdout.decode()
    assert "foo: +chroot -sethostname\n" in text


def test_an_update_of_a_program(main: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    updated = library(new / "libbar.so", BAR.replace("170", "161"))
    other = program(new / "main", MAIN, updated)
    result = spidl(["seccomp", "diff", "--json", str(main), str(other)])
    changes = {one["name"]: one for one in json.loads(result.stdout)["changes"]}
    assert set(changes) == {"chroot", "sethostname"}
    assert [step["object"] for step in changes["chroot"]["way"]] == ["main", "libbar.so"]
    assert one_error(spidl(["seccomp", "diff", str(main), str(updated)])) == "cli/usage"
