"""The name server and identities."""

from __future__ import annotations

import threading

import pytest

from spidl import domains
from spidl.domains import Domain, Identity, NameServer, Principal, caller, only
from spidl.testing import expect


@pytest.fixture
def domain() -> Domain:
    return Domain.from_process(["strlen"], "strings")


def test_the_procedure_is_asked_each_time(domain: Domain) -> None:
    names, who, asked = NameServer(), Identity.create("client"), list[Principal | None]()

    def authorize(principal: Principal | None) -> bool:
        asked.append(principal)
        return len(asked) != 2

    names.register("strings", domain, authorize)
    assert names.query("strings") is domain
    with who.active():
        with expect("domain/denied"):
            names.query("strings")
        assert names.query("strings") is domain
    assert asked == [None, who.principal, who.principal]


def test_absence_and_refusal_look_alike(domain: Domain) -> None:
    names = NameServer()
    names.register("there", domain, lambda principal: False)
    with expect("domain/denied") as refused:
        names.query("there")
    with expect("domain/denied") as absent:
        names.query("gone!")
    assert refused.caught.message.replace("there", "") == absent.caught.message.replace(
        "there", ""
    ).replace("gone!", "")
    assert refused.caught.notes == absent.caught.notes
    assert refused.caught.help == absent.caught.help


def test_a_name_belongs_to_who_registered_it(domain: Domain) -> None:
    names, one, two = NameServer(), Identity.create("one"), Identity.create("two")
    with one.active():
        names.register("name", domain)
    with two.active():
        with expect("domain/taken"):
            names.register("name", domains.RUNTIME)
        with expect("domain/taken"):
            names.unregister("name")
        assert names.query("name") is domain
    with one.active():
        names.register("name", domains.RUNTIME)
        assert names.query("name") is domains.RUNTIME
        names.unregister("name")
    with expect("domain/denied"):
        names.query("name")


def test_an_identity_ends_with_its_block_and_stays_in_its_thread() -> None:
    who, seen = Identity.create("who"), list[Principal | None]()
    with who.active():
        assert caller() is who.principal
        with Identity.create("inner").active():
            assert caller() is not who.principal
        assert caller() is who.principal
        thread = threading.Thread(target=lambda: seen.append(caller()))
        thread.start()
        thread.join()
    assert caller() is None
    assert seen == [None]


def test_a_procedure_does_not_act_as_the_caller_it_judges(domain: Domain) -> None:
    """Otherwise registering a name would be a way to borrow the rights of whoever asks for it."""
    names, owner, victim = NameServer(), Identity.create("owner"), Identity.create("victim")
    names.register("precious", domain, only(victim.principal))
    stolen: list[object] = []

    def authorize(principal: Principal | None) -> bool:
        assert caller() is owner.principal
        with expect("domain/denied"):
            stolen.append(names.query("precious"))
        return True

    with owner.active():
        names.register("bait", domains.RUNTIME, authorize)
    with victim.active():
        assert names.query("bait") is domains.RUNTIME
        assert names.query("precious") is domain
    assert stolen == []
