"""Constructors and destructors run in the order that the libraries need each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Build = Callable[..., Path]
RUN = """
import ctypes, sys
from spidl import live
if sys.argv[2] == "plain":
    import _ctypes
    handle = _ctypes.dlopen(sys.argv[1], 2)
    if sys.argv[3] == "close":
        _ctypes.dlclose(handle)
else:
    library = live.load(sys.argv[1])
    if sys.argv[3] == "close":
        library.close()
sys.stderr.write("over\\n")
sys.stderr.flush()
"""


def _chain(build: Build, names: str) -> Path:
    made = Path()
    for number, name in enumerate(names):
        options = [f"-DNAME=f_{name}", f'-DSTRING="{name}"', "-nostartfiles"]
        if number:
            options += [f"-DNEED=f_{names[number - 1]}", f"-l{names[number - 1]}"]
        made = build("order.c", *options, name=name)
    return made


@pytest.mark.parametrize("end", ["close", "exit"])
def test_order_is_that_of_the_system(build: Build, script: Callable[..., str], end: str) -> None:
    top = _chain(build, "abc")
    expected = script(RUN, top, "plain", end, error=True)
    assert expected.splitlines()[:6] == ["a init", "a begins", "b init", "b begins",
                                         "c init", "c begins"]  # fmt: skip
    assert len(expected.splitlines()) == 13
    for _ in ("anew", "as it was kept"):
        assert script(RUN, top, "live", end, error=True) == expected


def test_libraries_that_need_each_other(build: Build, script: Callable[..., str]) -> None:
    build("order.c", "-DNAME=f_b", '-DSTRING="b"', "-nostartfiles", name="b")
    build("order.c", "-DNAME=f_a", '-DSTRING="a"', "-nostartfiles", "-Wl,--no-as-needed", "-lb",
          name="a")  # fmt: skip
    b = build("order.c", "-DNAME=f_b", '-DSTRING="b"', "-nostartfiles", "-Wl,--no-as-needed",
              "-la", name="b")  # fmt: skip
    lines = script(RUN, b, "live", "close", error=True).splitlines()
    assert sorted(lines[:4]) == ["a begins", "a init", "b begins", "b init"]
    assert sorted(lines[4:8]) == ["a ends", "a fini", "b ends", "b fini"]
    assert lines[8:] == ["over"]
