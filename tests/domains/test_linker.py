"""The linker as native code has it: SPL in C, as in the paper, and numbers that mean nothing."""

from __future__ import annotations

import sys

import pytest

from spidl import domains
from spidl.domains import Domain, Identity, Interface, Linker, NameServer
from spidl.testing import expect

from .conftest import EXAMPLES, Workshop, call, load_module

ASK = """
#include "Domain.h"
Domain_T query(const char *name) { return NameServer_Query(name); }
int resolve(Domain_T source, Domain_T target) { return Domain_Resolve(source, target); }
const char *error(void) { return Domain_Error(); }
"""
ASKS = Interface(
    "unsigned long query(const char *name); int resolve(unsigned long s, unsigned long t);"
    "const char *error(void);"
)


def extension(
    workshop: Workshop, names: NameServer, who: Identity, name: str, text: str, *flags: str
) -> tuple[Domain, Linker]:
    made = workshop.domain(name, text, f"-I{workshop.folder}", *flags)
    linker = Linker(names, who)
    linker.serve(made)
    domains.resolve(linker.domain, made)
    domains.initialize(made)
    return made, linker


def test_spl_makes_a_domain_of_itself(workshop: Workshop) -> None:
    names = NameServer()
    text = (EXAMPLES / "spl" / "SPL.c").read_text()
    extension(workshop, names, Identity.create("SPL"), "SPL", text, f"-I{EXAMPLES / 'spl'}")
    spl = names.query("SPL")
    assert spl.exports == {"SPL_High", "SPL_Restore"}
    assert call(spl, "int SPL_High(void);") == 0
    assert call(spl, "int SPL_High(void);") == 7


def test_native_code_asks_as_itself(workshop: Workshop) -> None:
    names, one, two = NameServer(), Identity.create("one"), Identity.create("two")
    names.register("for one", domains.RUNTIME, domains.only(one.principal))
    first, linker = extension(workshop, names, one, "first", ASK)
    second, _ = extension(workshop, names, two, "second", ASK)
    asks, others = (domains.client(domain, ASKS) for domain in (first, second))
    number = asks.query(b"for one")
    assert linker.take(number) is domains.RUNTIME
    assert asks.query(b"for one") == number
    with one.active():  # whatever the thread that calls acts as
        assert others.query(b"for one") == 0
    message = ASKS.ffi.string(others.error()).decode()
    assert message == "there is no domain `for one` for `two`"


def test_numbers_of_others_mean_nothing(workshop: Workshop) -> None:
    names, one, two = NameServer(), Identity.create("one"), Identity.create("two")
    _, first = extension(workshop, names, one, "first", ASK)
    domain, second = extension(workshop, names, two, "second", ASK)
    asks = domains.client(domain, ASKS)
    victim = workshop.domain("victim", "int query(int); int f(void) { return query(0); }")
    stolen = first.give(victim)
    own = second.give(domain)
    for guess in (stolen, 0, 1, own + 1, 2**64 - 1):
        assert asks.resolve(own, guess) == -1
        assert asks.resolve(guess, own) == -1
    assert b"was not given" in ASKS.ffi.string(asks.error())
    assert victim.unresolved == ("query",)
    assert asks.resolve(own, second.give(victim)) == 1
    with expect("domain/forged"):
        second.take(stolen)


def test_an_extension_can_name_what_it_is_linked_to_and_no_more(workshop: Workshop) -> None:
    text = """
    #include "Domain.h"
    int given(void);
    Domain_T wrap(const char *h) { given(); return Domain_CreateFromInterface(h); }
    """
    both = "int given(void) { return 5; } int hidden(void) { return 6; }"
    source = workshop.domain("source", both)
    made = workshop.domain("wrapper", text, f"-I{workshop.folder}")
    linker = Linker(NameServer(), Identity.create("wrapper"))
    linker.serve(made)
    for each in (linker.domain, source):
        domains.resolve(each, made)
    domains.initialize(made)
    wrap = domains.client(made, Interface("unsigned long wrap(const char *h);")).wrap
    given = linker.take(wrap(b"int given(void);"))
    assert call(given, "int given(void);") == 5
    assert wrap(b"int hidden(void);") == 0
    assert wrap(b"int given(void); int hidden(void);") == 0
    assert wrap(b"int given(") == 0
    assert wrap(b"unsigned long wrap(const char *h);") != 0


def test_python_functions_for_one_extension(workshop: Workshop) -> None:
    """GetPrivateInterface of the paper's Console, as C calls it: whoever's thread it is, the
    extension acts as itself."""
    module = load_module(EXAMPLES / "console" / "console.py")
    text = (EXAMPLES / "console" / "Console.c").read_text()
    console = workshop.domain("Console", text, f"-I{EXAMPLES / 'console'}")
    domains.initialize(console)
    admin, guest = Identity.create("admin"), Identity.create("guest")
    service = module.Console(console, {admin.principal})
    text = """
    #include "Domain.h"
    Domain_T Console_GetPrivateInterface(void);
    Domain_T get(void) { return Console_GetPrivateInterface(); }
    """
    got = {}
    for who in (admin, guest):
        linker = Linker(NameServer(), who)
        user = workshop.domain(f"get{who.principal.name}", text, f"-I{workshop.folder}")
        offered = linker.offer(
            Interface("unsigned long Console_GetPrivateInterface(void);"),
            {"Console_GetPrivateInterface": service.get_private_interface},
        )
        domains.resolve(offered, user)
        domains.initialize(user)
        with admin.active():
            got[who] = call(user, "unsigned long get(void);")
        if got[who]:
            private = linker.take(got[who])
            assert private.exports == {"ConsolePrivate_Clear", "ConsolePrivate_Written"}
    assert got[guest] == 0
    assert got[admin] != 0


def test_results_of_what_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    linker = Linker(NameServer(), Identity.create("who"))
    with expect("domain/wrong-type"):  # wrapping does not hide what a function takes
        linker.offer(Interface("int f(int a);"), {"f": lambda: 1})
    with expect("domain/not-implemented"):
        linker.offer(Interface("int f(int a);"), {"f": lambda a: 1, "g": lambda: 1})
    offered = linker.offer(
        Interface("int f(void); double g(void); void h(void);"),
        {"f": lambda: None, "g": lambda: 2.5, "h": lambda: None},
    )
    assert call(offered, "int f(void);") == 0
    assert call(offered, "double g(void);") == 2.5
    assert call(offered, "void h(void);") is None
    assert failed == []
