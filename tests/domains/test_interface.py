"""What is an interface and what is not: declarations, and whether they fit the symbols."""

from __future__ import annotations

import sys

import pytest

from spidl import domains
from spidl.domains import Domain, Interface
from spidl.testing import expect

from .conftest import Workshop, call

GOOD = {
    "int f(int), g(void);": {"f", "g"},
    "extern int (*hook)(int); int (*choose(int))(int);": {"hook", "choose"},
    "typedef struct { int a; } t; t f(t); extern t v[3];": {"f", "v"},
    "struct open; struct open *f(void); extern struct open *v;": {"f", "v"},
    "enum e { A = 1 }; enum e f(void); enum { B };": {"f"},
    "/* one\n # two */ int f(void); // three\n": {"f"},
    "#define X 1 \\\n   + 2\nint f(void);": {"f"},
    "extern __thread int v; static inline int f(void);": {"v", "f"},
    "static const int X = 3;": set(),
}
BAD = [
    "int f(", "\0", "int f(void); int f(int);", "extern struct { int a; } v;", "int f(__int128);",
    "struct s f(void);", "struct { int a; } f(void);", "int f(enum { A } a);", "(" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("header", GOOD)
def test_declarations(header: str) -> None:
    made = Interface(header)
    assert made.names == GOOD[header]
    for name in made.names:
        assert made.at(name, 4096)
        assert made.is_function(name) == (name not in ("v", "hook"))


@pytest.mark.parametrize("header", BAD)
def test_what_is_no_declaration(header: str) -> None:
    with expect("domain/header"):
        Interface(header)


def test_functions_and_variables_are_not_mistaken_for_each_other(workshop: Workshop) -> None:
    """Whoever called the one or wrote to the other would crash."""
    whole = workshop.domain("whole", "int v = 1; int f(void) { return v; }")
    domains.initialize(whole)
    for header in ("int v(void);", "extern int f;"):
        with expect("domain/wrong-type"):
            domains.client(whole, Interface(header))
        with expect("domain/wrong-type"):
            Domain.from_interface(Interface(header), whole)
    assert domains.client(whole, Interface("extern int v;")).v[0] == 1
    with expect("domain/wrong-type"):
        Domain.from_interface(Interface("int environ(void);"), Domain.from_process(["environ"]))


def test_functions_have_the_names_that_they_have(workshop: Workshop) -> None:
    """Also those that Python uses."""
    whole = workshop.domain("names", "int __class__(void) { return 1; } int __dict__(void) "
                            "{ return 2; }")  # fmt: skip
    domains.initialize(whole)
    made = domains.client(whole, Interface("int __class__(void); int __dict__(void);"))
    assert vars(made)["__class__"]() == 1


def test_a_python_function_that_fails_gives_zero(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, and where what it returns does not fit: C code goes on."""

    def stop(number: int) -> int:
        raise KeyboardInterrupt

    def leave() -> int:
        raise SystemExit(3)

    header = "int stop(int); double leave(void); void *text(void); int big(void);"
    functions = {"stop": stop, "leave": leave, "text": lambda: "x", "big": lambda: 2**40}
    raised: list[type[BaseException] | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: raised.append(error.exc_type))
    user = workshop.domain(
        "user",
        header + "int f(void) { return 7 + stop(1) + (leave() != 0) + (text() != 0) + big(); }",
    )
    domains.resolve(Domain.from_interface(Interface(header), functions), user)
    domains.initialize(user)
    assert call(user, "int f(void);") == 7
    assert set(raised) == {KeyboardInterrupt, SystemExit, TypeError, OverflowError}
