"""Where ptrace is forbidden or taken, nothing can be adopted: the plain way, and it says why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.needs import tool

from .attack import environment, library, listing, one_error, plainly, program, spidl_with
from .harness import Outcome, forbidding, run
from .test_bad_input import ASKS, VALUE


@pytest.fixture
def main(tmp_path: Path) -> Path:
    lib = library(tmp_path / "place/libvalue.so", VALUE)
    return program(tmp_path / "place/program", ASKS, lib)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


PTRACE = 101
"""ptrace(2)'s number."""


def test_ptrace_is_forbidden(main: Path, cache: Path, tmp_path: Path) -> None:
    env = environment(SPIDL_CACHE=str(cache), SPIDL_VERBOSE="1")
    denied = [*forbidding(PTRACE), sys.executable, "-m", "spidl"]
    before = listing(tmp_path)
    result = run([*denied, "build", str(main), "-o", str(tmp_path / "image")], env=env)
    assert one_error(result) == "adopt/no-ptrace"
    after = {name: what for name, what in listing(tmp_path).items() if not name.startswith("cache")}
    assert after == before, "but for what is known about the objects now"
    result = run([*denied, "run", str(main)], env=env)
    assert plainly(result, b"1\n"), result
    assert b"adopt/no-ptrace" in result.stderr
    assert spidl_with(["run", main], {"SPIDL_CACHE": str(cache), "SPIDL_VERBOSE": "1"}) == Outcome(
        b"1\n", b"", 0
    ), "outside the sandbox there is an image"
    assert run([*denied, "run", str(main)], env=env) == Outcome(b"1\n", b"", 0)


def test_under_a_tracer(main: Path, cache: Path, tmp_path: Path) -> None:
    """A process has one tracer; a child under strace -f already has it."""
    spidl = [sys.executable, "-m", "spidl"]
    trace = [tool("strace", "strace"), "-f", "-qq", "-o", "/dev/null"]
    env = environment(SPIDL_CACHE=str(cache), SPIDL_VERBOSE="1")
    result = run([*trace, *spidl, "build", str(main), "-o", str(tmp_path / "image")], env=env)
    assert one_error(result) == "adopt/no-ptrace"
    assert plainly(run([*trace, *spidl, "run", str(main)], env=env), b"1\n")
