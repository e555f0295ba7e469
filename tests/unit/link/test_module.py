"""Modules that fail, and the order of modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from passing import AnyPhase, Passes, Second

from spidl.api import (
    COLLECT,
    LOAD,
    POST_LOAD,
    PROTECT,
    RELOCATE,
    START,
    Definition,
    Dso,
    Link,
    MemoryObject,
    Module,
    Pipeline,
    SymbolRequest,
)
from spidl.testing import PROGRAM, expect, memory_link, program


def fail(*arguments: object) -> Any:
    raise KeyError("oops")


@pytest.mark.parametrize("phase", [COLLECT, LOAD, POST_LOAD, RELOCATE, PROTECT, START])
def test_an_exception_names_module_phase_and_line(phase: AnyPhase) -> None:
    with expect("module/failed") as expected:
        memory_link(program(), modules=[Passes(weak={phase: fail})]).run()
    assert expected.diagnostic.message == f"module `passes` failed in {phase}: KeyError: 'oops'"
    assert expected.diagnostic.notes[0].startswith("raised at test_module.py:")


def test_an_exception_between_two_results_is_the_modules_too() -> None:
    def protect(dso: Dso, link: Link) -> Iterator[Any]:
        yield from ()
        raise ZeroDivisionError

    with expect("module/failed"):
        memory_link(program(), modules=[Passes(weak={PROTECT: protect})]).run()


def test_an_exception_in_register() -> None:
    class Broken(Module):
        def register(self, dso: Dso, pipeline: Pipeline) -> None:
            raise ValueError("no")

    with expect("module/failed") as expected:
        memory_link(program(), modules=[Broken()]).run()
    assert "in register" in expected.diagnostic.message


def test_an_exception_in_a_resolver() -> None:
    with expect("module/failed"):
        memory_link(program(["f"]), modules=[Passes(resolve=fail)]).run()


@pytest.mark.parametrize("phase", [COLLECT, LOAD, PROTECT, START])
@pytest.mark.parametrize("result", [None, 1, ["x"]])
def test_a_wrong_result(phase: AnyPhase, result: object) -> None:
    with expect("module/wrong-result") as expected:
        memory_link(program(), modules=[Passes(weak={phase: lambda dso, link: result})]).run()
    assert "module `passes` gave" in expected.diagnostic.message


def test_a_wrong_answer_of_a_resolver() -> None:
    def resolve(request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        return 5  # type: ignore[return-value]  # what the test is about

    with expect("module/wrong-result"):
        memory_link(program(["f"]), modules=[Passes(resolve=resolve)]).run()


class Late(Passes):
    after = ("second",)


@pytest.mark.parametrize("modules", [[Late(), Second()], [Late()]])
def test_after_is_checked_never_sorted(modules: list[Module]) -> None:
    with expect("register/order") as expected:
        Link(MemoryObject(PROGRAM, program(), "test"), modules)
    assert expected.diagnostic.message == "module `late` must come after `second`"


def test_twice_is_an_error() -> None:
    with expect("register/twice"):
        Link(MemoryObject(PROGRAM, program(), "test"), [Second(), Second()])


def test_names_are_kebab_case_unless_given() -> None:
    class NoSockets2Fast(Module):
        pass

    class Named(Module):
        name = "other"

    assert (NoSockets2Fast.name, Named.name) == ("no-sockets2-fast", "other")
