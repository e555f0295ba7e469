"""C++ across private libraries: exceptions, casts, unique symbols."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import live

pytestmark = pytest.mark.usefixtures("each_way")
Build = Callable[..., Path]
RESULTS = {"catch_base": 9, "catch_std": 11, "cast": 3, "within": 5}


def test_exceptions_and_casts_cross_libraries(build: Build) -> None:
    build("shapes.cc")
    user = build("shapes_user.cc", "-lshapes")
    with live.load(user) as one, live.load(user) as other:
        for library in (one, other):
            names = [member.name for member in library.namespace.members]
            assert names == [user.name, "libshapes.so", "libstdc++.so.6"]
            assert {name: library.function(name)() for name in RESULTS} == RESULTS


def test_unique_symbols_are_one_in_a_namespace_and_two_in_two(build: Build) -> None:
    build("shapes.cc")
    user = build("shapes_user.cc", "-lshapes")
    second = build("unique.cc")
    with (
        live.load(user) as one,
        live.load(second, namespace=one.namespace) as same,
        live.load(second) as apart,
    ):
        first = one.function("unique_at", ctypes.c_void_p)()
        assert same.function("unique_at2", ctypes.c_void_p)() == first
        assert apart.function("unique_at2", ctypes.c_void_p)() != first
