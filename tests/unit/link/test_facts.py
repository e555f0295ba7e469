"""Facts: typed keys that are told once and read later."""

from __future__ import annotations

from passing import Passes

from spidl.api import POST_LOAD, POST_RELOCATE, Fact, Link
from spidl.link.facts import Facts
from spidl.testing import expect, memory_link, program

COUNT: Fact[int] = Fact("count")
OTHER: Fact[int] = Fact("count")


def test_a_fact_travels_from_module_to_module() -> None:
    seen: list[int] = []

    def tell(link: Link) -> None:
        link.facts[COUNT] = len(link.objects)

    def read(link: Link) -> None:
        seen.append(link.facts[COUNT])

    memory_link(program(), modules=[Passes(weak={POST_LOAD: tell, POST_RELOCATE: read})]).run()
    assert seen == [1]


def test_an_untold_fact_is_an_error() -> None:
    with expect("link/no-fact") as expected:
        Facts()[COUNT]
    assert "`count`" in expected.diagnostic.message


def test_facts_are_told_apart_by_identity_not_by_name() -> None:
    facts = Facts()
    facts[COUNT] = 1
    assert OTHER not in facts
    assert facts.get(OTHER, 7) == 7
    assert facts.setdefault(COUNT, 9) == 1
    assert COUNT in facts
