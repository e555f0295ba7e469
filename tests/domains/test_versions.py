"""Symbol versions: who asks for one gets this one, from domains and from the process."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from spidl import domains
from spidl.domains import Domain, Interface
from spidl.testing import expect

from .conftest import Workshop, call

SOURCE = """
__asm__(".symver old, f@V1"); __asm__(".symver new, f@@V2"); __asm__(".symver gone, g@V1");
int old(void) { return 1; }
int new(void) { return 2; }
int gone(void) { return 11; }
"""
NEED = "-Wl,--no-as-needed"
MAP = "V1 { global: f; g; local: old; new; gone; }; V2 { global: f; } V1;"
PLAIN = Interface("int f(void);", "F")


def versioned(workshop: Workshop, name: str, text: str, script: str) -> Path:
    """A library with a version script."""
    made = workshop.folder / f"{name}.map"
    made.write_text(script)
    return workshop.library(name, text, "-nostdlib", f"-Wl,--version-script={made}")


def source(workshop: Workshop, name: str = "source") -> Domain:
    """A domain with f@V1, f@@V2 and g@V1."""
    made = Domain.create(versioned(workshop, name, SOURCE, MAP))
    domains.initialize(made)
    return made


def asking(workshop: Workshop, version: str, symbol: str = "f") -> Domain:
    """A domain whose function ``ask`` calls a version of a symbol."""
    name = f"asks{version}{symbol}"
    stub = versioned(workshop, f"{name}stub", f"int {symbol}(void) {{ return 0; }}",
                     f"{version} {{ global: {symbol}; }};")  # fmt: skip
    text = f"int {symbol}(void); int ask(void) {{ return {symbol}(); }}"
    return Domain.create(workshop.library(name, text, "-nostdlib", NEED, str(stub)))


def ask(domain: Domain) -> int:
    domains.initialize(domain)
    result: int = call(domain, "int ask(void);")
    return result


def test_the_version_asked_for_is_bound(workshop: Workshop) -> None:
    given = source(workshop)
    for version, result in (("V1", 1), ("V2", 2)):
        user = asking(workshop, version)
        assert user.unresolved == ("f",)
        assert domains.resolve(given, user) == ("f",)
        assert ask(user) == result


def test_without_a_version_it_is_the_default_one(workshop: Workshop) -> None:
    user = workshop.domain("user", "int f(void); int ask(void) { return f(); }")
    domains.resolve(source(workshop), user)
    assert ask(user) == 2


def test_a_version_that_is_not_there_stays_unresolved(workshop: Workshop) -> None:
    user = asking(workshop, "V3")
    assert domains.resolve(source(workshop), user) == ()
    with expect("domain/unresolved") as error:
        domains.initialize(user)
    assert error.caught.notes == ("asksV3f needs f@V3",)


def test_old_versions_are_for_who_asks_for_them(workshop: Workshop) -> None:
    given = source(workshop)
    assert given.exports == {"f"}
    user = workshop.domain("user", "int g(void); int ask(void) { return g(); }")
    assert domains.resolve(given, user) == ()
    with expect("domain/not-exported"):
        domains.client(given, Interface("int g(void);"))
    old = asking(workshop, "V1", "g")
    assert domains.resolve(given, old) == ("g",)
    assert ask(old) == 11


def test_what_has_no_version_satisfies_every_reference(workshop: Workshop) -> None:
    """As with ld.so; functions in Python are such definitions, too."""
    plain = workshop.domain("plain", "int f(void) { return 3; }")
    script = versioned(workshop, "other", "int f(void) { return 4; } int h(void) { return 0; }",
                       "{ global: f; }; ")  # fmt: skip
    python = Domain.from_interface(PLAIN, {"f": lambda: 5})
    for given, result in ((plain, 3), (Domain.create(script), 4), (python, 5)):
        user = asking(workshop, "V1")
        assert domains.resolve(given, user) == ("f",)
        assert ask(user) == result


def test_two_versions_in_one_domain(workshop: Workshop) -> None:
    """And each goes on its way: one is replaced, the other stays."""
    stub = versioned(workshop, "stub", SOURCE, MAP)
    text = """
    __asm__(".symver first, f@V1"); __asm__(".symver second, f@V2");
    int first(void), second(void);
    int ask(void) { return first() * 10 + second(); }
    """
    user = Domain.create(workshop.library("both", text, "-nostdlib", NEED, str(stub)))
    assert user.unresolved == ("f",)
    one = source(workshop)
    assert domains.resolve(one, user) == ("f",)
    assert ask(user) == 12
    newer = Domain.create(
        versioned(workshop, "newer", "int f(void) { return 7; }", "V2 { global: f; };")
    )
    domains.initialize(newer)
    assert domains.unresolve(newer, user) == ()
    assert domains.unresolve(one, user) == ("f",)
    assert domains.resolve(newer, user) == ("f",)
    assert user.unresolved == ("f",)
    domains.resolve(one, user)
    assert ask(user) == 17


def test_views_and_unions_keep_versions(workshop: Workshop) -> None:
    given = source(workshop)
    view = Domain.from_interface(PLAIN, given)
    whole = domains.combine(view, domains.combine(given, domains.RUNTIME))
    for each in (view, whole):
        user = asking(workshop, "V1")
        domains.resolve(each, user)
        assert ask(user) == 1
        assert domains.unresolve(given, user) == ("f",)
    with expect("domain/conflict"):
        domains.combine(given, source(workshop, "twin"))


def test_what_is_nameable_is_the_version_that_one_is_linked_to(workshop: Workshop) -> None:
    old = asking(workshop, "V1")
    domains.resolve(source(workshop), old)
    domains.initialize(old)
    view = Domain.from_interface(PLAIN, domains.nameable(old))
    assert call(view, "int f(void);") == 1
    assert domains.resolve(view, asking(workshop, "V2")) == ()
    user = asking(workshop, "V1")
    domains.resolve(view, user)
    assert ask(user) == 1


def test_versions_of_the_c_library(workshop: Workshop) -> None:
    """memcpy of before 2.14 is another function; the name is given away in all its versions."""
    where = {}
    for version in ("GLIBC_2.2.5", "GLIBC_2.14"):
        text = (
            f'__asm__(".symver copy, memcpy@{version}"); void *copy(void *, const void *, long);'
            "void *ask(void) { return (void *)copy; }"
        )
        made = Domain.create(workshop.library(f"copy{version[-1]}", text, "-fno-builtin"))
        assert made.unresolved == ("memcpy",)
        domains.resolve(Domain.from_process(["memcpy"]), made)
        domains.initialize(made)
        where[version] = int(domains.client(made, ASK).ask())
        libc = ctypes.CDLL(None)
        libc.dlvsym.restype = ctypes.c_void_p
        assert where[version] == libc.dlvsym(None, b"memcpy", version.encode())
    assert len(set(where.values())) == 2


ASK = Interface("unsigned long ask(void);")


def test_functions_that_are_the_kernels(workshop: Workshop) -> None:
    """libc's time is an indirect function that leads into the vDSO, which has a table of its own
    with addresses from 0."""
    user = Domain.create(workshop.library("now", "long time(long *); long ask(void) "
                                          "{ return time(0); }", "-fno-builtin"))  # fmt: skip
    domains.resolve(Domain.from_process(["time", "gettimeofday", "clock_gettime"]), user)
    assert ask(user) > 0


@pytest.mark.parametrize(
    ("name", "script", "results"),
    [("globalplain", "", {"V1": 6, "V2": 6}), ("globalold", "V1 { global: f_%s; };", {"V1": 6})],
)
def test_versions_of_libraries_of_the_process(
    workshop: Workshop, name: str, script: str, results: dict[str, int]
) -> None:
    """One that has no versions satisfies all references, one that has them only those."""
    symbol = f"f_{name}"
    # What it needs of libc has a version, and so each of its own has an entry that says none.
    libc = "" if script else "#include <stdio.h>\nvoid say(void) { puts(0); }\n"
    text = f"{libc}int {symbol}(void) {{ return 6; }}"
    made = (
        versioned(workshop, name, text, script % name) if script else workshop.library(name, text)
    )
    ctypes.CDLL(str(made), mode=os.RTLD_GLOBAL)
    given = Domain.from_process([symbol])
    for version in ("V1", "V2"):
        user = asking(workshop, version, symbol)
        assert domains.resolve(given, user) == ((symbol,) if version in results else ())
        if version in results:
            assert ask(user) == results[version]


def test_a_thread_local_variable_with_versions(workshop: Workshop) -> None:
    script = "V1 { global: v; local: one; two; }; V2 { global: v; } V1;"
    text = '__asm__(".symver one, v@V1"); __asm__(".symver two, v@@V2");' \
           "__thread int one = 1; __thread int two = 2;"  # fmt: skip
    library = versioned(workshop, "vars", text, script)
    given = Domain.create(library)
    for number, flag in enumerate(("-mtls-dialect=gnu2", "-ftls-model=initial-exec", "-O1")):
        asks = (
            '__asm__(".symver old, v@V1"); extern __thread int old, v;'
            "int ask(void) { return old * 10 + v; }"
        )
        user = Domain.create(
            workshop.library(f"user{number}", asks, "-nostdlib", NEED, str(library), flag)
        )
        domains.resolve(domains.RUNTIME, user)
        assert domains.resolve(given, user) == ("v",)
        assert ask(user) == 12
