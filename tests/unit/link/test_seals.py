"""Seals: what comes too late is an error that names the module."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from passing import FUNCTION, AnyPhase, Passes

from spidl.api import (
    LOAD,
    POST_COLLECT,
    POST_LOAD,
    POST_PROTECT,
    POST_RELOCATE,
    PROTECT,
    START,
    Link,
    Mapping,
    MemoryObject,
    Placement,
    Protect,
    Protection,
)
from spidl.testing import build_dso, expect, memory_link, program


def add_object(link: Link) -> None:
    link.add(MemoryObject("late.so", build_dso("late.so", {"f": FUNCTION}), "test"))


def add_mapping(link: Link) -> None:
    start = link.space.allocate(4096)
    link.space.map(Mapping(start, 4096, Protection.READ, link.by))


def write(link: Link) -> None:
    at = link.definition(link.root, "slots").address
    link.space.write(np.array([at], np.uint64), np.array([1], np.uint64), link.by)


def patch(link: Link) -> None:
    link.space.patch(link.definition(link.root, "slots").address, b"\1", link.by)


def protect(link: Link) -> None:
    link.space.protect(Protect(link.root.start, 4096, Protection.READ), link.by)


@pytest.mark.parametrize(
    ("code", "phase", "late"),
    [
        ("collect/sealed", LOAD, add_object),
        ("collect/sealed", POST_LOAD, add_object),
        ("load/sealed", POST_RELOCATE, add_mapping),
        ("load/sealed", START, add_mapping),
        ("relocate/sealed", PROTECT, write),
        ("relocate/sealed", POST_PROTECT, write),
        ("relocate/sealed", PROTECT, patch),
        ("protect/sealed", START, protect),
    ],
)
def test_too_late(code: str, phase: AnyPhase, late: Callable[[Link], None]) -> None:
    def run(*arguments: object) -> object:
        link = arguments[-1]
        assert isinstance(link, Link)
        late(link)
        return Placement(0, ()) if phase is LOAD else []

    with expect(code) as expected:
        memory_link(program(), modules=[Passes(weak={phase: run})]).run()
    assert "module `passes`" in expected.diagnostic.message
    assert str(phase) in expected.diagnostic.message
    assert expected.diagnostic.help


@pytest.mark.parametrize(
    ("phase", "early"),
    [
        (POST_COLLECT, add_object),
        (POST_LOAD, add_mapping),
        (POST_RELOCATE, write),
        (POST_RELOCATE, patch),
        (POST_PROTECT, protect),
    ],
)
def test_the_last_moment_is_in_time(phase: AnyPhase, early: Callable[[Link], None]) -> None:
    link = memory_link(program(), modules=[Passes(weak={phase: early})])
    link.run()
    assert len(link.history) > 5


def test_an_address_before_load_is_an_error() -> None:
    def ask(link: Link) -> None:
        assert link.root.bias

    with expect("link/too-early"):
        memory_link(program(), modules=[Passes(weak={POST_COLLECT: ask})]).run()
