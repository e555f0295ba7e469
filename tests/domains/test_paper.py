"""The paper's examples: SPL, Console and ConsolePrivate, SpinPublic and SpinPrivate."""

from __future__ import annotations

import pytest

from spidl import domains
from spidl.domains import Domain, Identity, Interface, NameServer, caller, only
from spidl.testing import expect

from .conftest import EXAMPLES, Workshop, call, load_module


def test_spl_can_be_compiled_against_and_not_linked_to(workshop: Workshop) -> None:
    spl = load_module(EXAMPLES / "spl" / "spl.py")
    source = (EXAMPLES / "spl" / "client.c").read_text()
    trusted = workshop.domain("trusted", source, f"-I{EXAMPLES / 'spl'}")
    other = workshop.domain("other", source, f"-I{EXAMPLES / 'spl'}")
    domains.resolve(spl.domain, trusted)
    domains.initialize(trusted)
    assert call(trusted, "int critical(int value);", 21) == 42
    assert spl.levels == [0]
    with expect("domain/unresolved") as error:
        domains.initialize(other)
    assert error.caught.notes == ("other needs SPL_High, SPL_Restore",)
    # A header of one's own is no implementation.
    with expect("domain/not-exported"):
        Domain.from_interface(spl.INTERFACE, other)


@pytest.fixture
def console(workshop: Workshop) -> Domain:
    text = (EXAMPLES / "console" / "Console.c").read_text()
    domain = workshop.domain("Console", text, f"-I{EXAMPLES / 'console'}")
    domains.initialize(domain)
    return domain


def test_the_console_gives_its_private_interface_to_the_privileged(
    workshop: Workshop, console: Domain
) -> None:
    module = load_module(EXAMPLES / "console" / "console.py")
    admin, guest = Identity.create("admin"), Identity.create("guest")
    service = module.Console(console, {admin.principal})
    assert service.get_private_interface() is None
    with guest.active():
        assert service.get_private_interface() is None
        writer = workshop.domain("writer", "int Console_Write(const char *);"
                                 'int hello(void) { return Console_Write("hello"); }')  # fmt: skip
        assert domains.resolve(service.public, writer) == ("Console_Write",)
        domains.initialize(writer)
        assert call(writer, "int hello(void);") == 5
        assert service.public.exports == {"Console_Write"}
    with admin.active():
        private = service.get_private_interface()
        assert private.exports == {"ConsolePrivate_Clear", "ConsolePrivate_Written"}
        assert call(private, "int ConsolePrivate_Written(void);") == 5
        call(private, "void ConsolePrivate_Clear(void);")
        assert call(private, "int ConsolePrivate_Written(void);") == 0
    assert caller() is None


def test_spin_public_and_spin_private(workshop: Workshop, console: Domain) -> None:
    module = load_module(EXAMPLES / "console" / "console.py")
    names, kernel = NameServer(), Identity.create("kernel")
    trusted, stranger = Identity.create("trusted"), Identity.create("stranger")
    with kernel.active():
        public = Domain.from_interface(module.CONSOLE, console)
        names.register("SpinPublic", domains.combine(domains.RUNTIME, public))
        private = Domain.from_interface(module.CONSOLE_PRIVATE, console)
        names.register("SpinPrivate", private, only(trusted.principal))
    text = "void ConsolePrivate_Clear(void); int f(void) { ConsolePrivate_Clear(); return 1; }"
    extension = workshop.domain("extension", text)
    with stranger.active():
        assert domains.resolve(names.query("SpinPublic"), extension) == ()
        with expect("domain/denied"):
            names.query("SpinPrivate")
        with expect("domain/unresolved"):
            domains.initialize(extension)
    with trusted.active():
        domains.resolve(names.query("SpinPrivate"), extension)
        domains.initialize(extension)
    assert call(extension, "int f(void);") == 1


def test_domains_are_passed_on(workshop: Workshop) -> None:
    """Whoever is linked to an interface may make a domain of it and hand it out."""
    inner = workshop.domain("inner", "int f(void) { return 1; } int g(void) { return 2; }")
    domains.initialize(inner)
    both = Domain.from_interface(Interface("int f(void); int g(void);", "both"), inner)
    just_f = Domain.from_interface(Interface("int f(void);", "F"), both)
    user = workshop.domain("user", "int f(void); int h(void) { return f() + 10; }")
    domains.resolve(just_f, user)
    domains.initialize(user)
    assert call(user, "int h(void);") == 11
    assert domains.unresolve(both, user) == ("f",)  # the same symbol, however it is shown
