"""Relocation types are data: a module adds one without touching the pass that walks the tables."""

from __future__ import annotations

from typing import cast

import numpy as np
from passing import FUNCTION, Passes

from spidl.api import POST_COLLECT, RECIPES, STT, Batch, Link, R, Recipe, Words
from spidl.testing import Define, Relocate, build_dso, expect, memory_link, program, word

MINE = cast(R, 200)


def twice(batch: Batch) -> list[Words]:
    return [Words(batch.P, (batch.S + batch.A) << np.uint64(1))]


def bring(link: Link) -> None:
    link.facts.setdefault(RECIPES, {})[MINE] = Recipe(MINE, "R_X86_64_TWICE", 8, twice)


def using(number: R, width: int = 8) -> bytes:
    return build_dso(
        "libf.so",
        {"f": FUNCTION, "slot": Define(b"\xff" * (width + 8), STT.OBJECT)},
        relocations=[Relocate("slot", number, symbol="f", addend=3)],
    )


def test_a_module_brings_a_type() -> None:
    module = Passes(weak={POST_COLLECT: bring})
    link = memory_link(program(needed=["libf.so"]), {"libf.so": using(MINE)}, [module])
    link.run()
    library = link.objects[1]
    assert word(link, library, "slot") == 2 * (link.definition(library, "f").address + 3)
    assert word(link, library, "slot", 8) == 2**64 - 1


def test_an_unknown_type_is_named_by_its_number() -> None:
    with expect("relocate/unknown-type") as expected:
        memory_link(program(needed=["libf.so"]), {"libf.so": using(MINE)}).run()
    assert "type 200" in expected.diagnostic.message


def test_a_narrow_word_that_does_not_fit() -> None:
    with expect("relocate/overflow"):
        memory_link(program(needed=["libf.so"]), {"libf.so": using(R.R32)}).run()
