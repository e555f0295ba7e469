"""C++ across libraries: exceptions, types, unique symbols, thread-local objects."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .conftest import Same, Workshop


@pytest.fixture(scope="module")
def program(workshop: Workshop) -> Path:
    workshop.library("libcxx_base.so", "cxx_base.cc")
    workshop.library("libcxx_user.so", "cxx_user.cc", "libcxx_base.so")
    workshop.library("libcxx_plugin.so", "cxx_plugin.cc", "libcxx_base.so")
    return workshop.program("cxx", "cxx_main.cc", "libcxx_user.so", "libcxx_base.so")


@pytest.mark.parametrize(
    "behaviour",
    [
        "throw-across",
        "type-identity",
        "unique",
        "throw-from-plugin",
        "across-threads",
        "thread-local-destructors",
        "streams",
        "bad-alloc",
    ],
)
def test_cxx(same: Same, program: Path, behaviour: str) -> None:
    outcome = same([str(program), behaviour])
    assert outcome.stdout.startswith(b"base library constructed\nuser library constructed\n")
    assert outcome.stdout.endswith(b"user library destroyed\nbase library destroyed\n")


def test_uncaught_exception_aborts(same: Same, program: Path) -> None:
    outcome = same([str(program), "uncaught"], status=-signal.SIGABRT)
    assert b"terminate called after throwing an instance of 'Special'" in outcome.stderr
