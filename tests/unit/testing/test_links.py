"""The helpers that module authors test with."""

from __future__ import annotations

import pytest

from spidl.api import LinkError
from spidl.testing import PROGRAM, binding, build_dso, expect, memory_link, program, word


def test_a_link_in_memory_reads_no_file_and_gets_to_the_end() -> None:
    lib = build_dso("libf.so", {"f": b"\xc3"})
    link = memory_link(program(["f"], needed=["libf.so"]), {"libf.so": lib})
    link.run()
    assert not link.inputs
    assert len(link.actions) == 1
    bound = binding(link, PROGRAM, "f")
    assert bound.provider is link.known("libf.so")
    assert word(link, link.root, "slots") == bound.value


def test_binding_of_what_was_never_asked_for() -> None:
    link = memory_link(program())
    link.run()
    with pytest.raises(LookupError, match="program has no reference to f"):
        binding(link, PROGRAM, "f")


def test_expect_fails_where_nothing_failed() -> None:
    with pytest.raises(AssertionError, match="nothing failed"), expect("link/no-fact"):
        pass


def test_expect_fails_where_something_else_failed() -> None:
    with (
        pytest.raises(AssertionError, match=r"another error:\n.*link/too-early"),
        expect("link/no-fact"),
    ):
        raise LinkError("link/too-early", "x")


def test_expect_passes_other_exceptions() -> None:
    with pytest.raises(KeyError), expect("link/no-fact"):
        raise KeyError


def test_expect_gives_the_diagnostic() -> None:
    with expect("link/no-fact") as expected:
        raise LinkError("link/no-fact", "x", notes=("y",))
    assert expected.diagnostic.notes == ("y",)
