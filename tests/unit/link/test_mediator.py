"""Who answers a request: the rules of glibc's elf/dl-lookup.c, each on a few generated objects."""

from __future__ import annotations

import pytest
from passing import FUNCTION, Passes, Second

from spidl.api import (
    DT,
    STB,
    STT,
    STV,
    Definition,
    Dso,
    Link,
    LookupClass,
    R,
    SymbolRequest,
)
from spidl.testing import (
    PROGRAM,
    Define,
    Relocate,
    Undefined,
    binding,
    build_dso,
    expect,
    memory_link,
    program,
    word,
)

SLOT = Define(bytes(8), STT.OBJECT)


def linked(program_: bytes, libraries: dict[str, bytes], *modules: Passes) -> Link:
    link = memory_link(program_, libraries, modules)
    link.run()
    return link


def provider(link: Link, asker: str, name: str) -> str:
    dso = binding(link, asker, name).provider
    return "nothing" if dso is None else dso.name


def test_the_first_object_in_scope_answers() -> None:
    one, two = (build_dso(f"lib{n}.so", {"f": FUNCTION}) for n in "12")
    link = linked(program(["f"], needed=["lib2.so", "lib1.so"]), {"lib1.so": one, "lib2.so": two})
    assert provider(link, PROGRAM, "f") == "lib2.so"
    assert word(link, link.root, "slots") == link.definition(link.objects[1], "f").address


def test_weak_definitions_do_not_give_way() -> None:
    """The dynamic linker takes the first, weak or not (ld.so(8), LD_DYNAMIC_WEAK)."""
    weak = build_dso("libweak.so", {"f": Define(FUNCTION, binding=STB.WEAK)})
    strong = build_dso("libstrong.so", {"f": FUNCTION})
    link = linked(
        program(["f"], needed=["libweak.so", "libstrong.so"]),
        {"libweak.so": weak, "libstrong.so": strong},
    )
    assert provider(link, PROGRAM, "f") == "libweak.so"


def test_a_weak_reference_may_stay_unbound() -> None:
    link = linked(program([Undefined("f", binding=STB.WEAK)]), {})
    assert provider(link, PROGRAM, "f") == "nothing"
    assert word(link, link.root, "slots") == 0


def test_an_undefined_symbol_names_place_scope_and_help() -> None:
    other = build_dso("libother.so", {"g": FUNCTION})
    with expect("relocate/undefined-symbol") as expected:
        linked(program(["f"], needed=["libother.so"]), {"libother.so": other})
    place = expected.diagnostic.place
    assert place is not None
    assert (place.file, place.table, place.index) == (PROGRAM, "DT_RELA", 0)
    assert expected.diagnostic.notes == ("searched: program, libother.so (namespace `main`)",)


def test_an_undefined_slot_stays_lazy_unless_bound_now() -> None:
    link = linked(program(["f"], plt=True), {})
    assert provider(link, PROGRAM, "f") == "nothing"


VERSIONED = build_dso("libv.so", {"f@V1": FUNCTION, "f@@V2": FUNCTION * 2, "old@V1": FUNCTION})


@pytest.mark.parametrize(
    ("version", "size"), [("V1", 1), ("V2", 2), (None, 1)], ids=["hidden", "default", "base"]
)
def test_versions(version: str | None, size: int) -> None:
    """Without a version: index 2, the first that is defined (glibc takes ndx < 3)."""
    wanted = Undefined("f", version, "libv.so") if version else Undefined("f")
    link = linked(program([wanted], needed=["libv.so"]), {"libv.so": VERSIONED})
    bound = binding(link, PROGRAM, "f")
    assert bound.provider is not None
    assert int(bound.provider.file.symbols[bound.symbol]["st_size"]) == size


def test_a_version_that_is_not_defined_is_found_before_binding() -> None:
    wanted = Undefined("f", "V9", "libv.so")
    with expect("collect/no-version") as expected:
        linked(program([wanted], needed=["libv.so"]), {"libv.so": VERSIONED})
    assert expected.diagnostic.notes == ("it defines: V1, V2, libv.so",)


def test_another_version_of_the_name_does_not_answer() -> None:
    first = build_dso("libfirst.so", {"f@@OTHER": FUNCTION})
    wanted = Undefined("f", "V1", "libv.so")
    link = linked(
        program([wanted], needed=["libfirst.so", "libv.so"]),
        {"libfirst.so": first, "libv.so": VERSIONED},
    )
    assert provider(link, PROGRAM, "f") == "libv.so"


def test_an_object_without_versions_answers_any() -> None:
    """As with LD_PRELOAD: check_match accepts where l_versyms is null."""
    plain = build_dso("libplain.so", {"f": FUNCTION})
    wanted = Undefined("f", "V1", "libv.so")
    link = linked(
        program([wanted], needed=["libplain.so", "libv.so"]),
        {"libplain.so": plain, "libv.so": VERSIONED},
    )
    assert provider(link, PROGRAM, "f") == "libplain.so"


def test_the_base_version_answers_a_versioned_request() -> None:
    based = build_dso("libbased.so", {"f": FUNCTION, "g@@V1": FUNCTION})
    wanted = Undefined("f", "V1", "libv.so")
    link = linked(
        program([wanted], needed=["libbased.so", "libv.so"]),
        {"libbased.so": based, "libv.so": VERSIONED},
    )
    assert provider(link, PROGRAM, "f") == "libbased.so"


def referring(soname: str, define: Define, *, lookup: R = R.R64, tags: bool = False) -> bytes:
    """A library that defines ``f`` and refers to it from ``slot``."""
    return build_dso(
        soname,
        {"f": define, "slot": SLOT},
        relocations=[Relocate("slot", lookup, symbol="f", plt=lookup == R.JUMP_SLOT)],
        tags=[(DT.FLAGS, 2)] if tags else [],  # DF_SYMBOLIC
    )


@pytest.mark.parametrize(
    ("define", "symbolic", "expected"),
    [
        (Define(FUNCTION), False, "libfirst.so"),
        (Define(FUNCTION), True, "libown.so"),
        (Define(FUNCTION, visibility=STV.PROTECTED), False, "libown.so"),
        (Define(FUNCTION, visibility=STV.HIDDEN), False, "libown.so"),
        (Define(FUNCTION, binding=STB.LOCAL), False, "libown.so"),
    ],
    ids=["default", "DF_SYMBOLIC", "protected", "hidden", "local"],
)
def test_an_own_definition(define: Define, symbolic: bool, expected: str) -> None:
    first = build_dso("libfirst.so", {"f": FUNCTION})
    own = referring("libown.so", define, tags=symbolic)
    link = linked(
        program(needed=["libfirst.so", "libown.so"]), {"libfirst.so": first, "libown.so": own}
    )
    assert provider(link, "libown.so", "f") == expected


def test_a_hidden_symbol_is_no_definition_for_others() -> None:
    own = referring("libown.so", Define(FUNCTION, visibility=STV.HIDDEN))
    with expect("relocate/undefined-symbol"):
        linked(program(["f"], needed=["libown.so"]), {"libown.so": own})


def test_unique_symbols_are_exported() -> None:
    one = build_dso("lib1.so", {"f": Define(bytes(8), STT.OBJECT, STB.GNU_UNIQUE)})
    two = referring("lib2.so", Define(bytes(8), STT.OBJECT, STB.GNU_UNIQUE))
    link = linked(program(["f"], needed=["lib1.so", "lib2.so"]), {"lib1.so": one, "lib2.so": two})
    assert provider(link, PROGRAM, "f") == "lib1.so"
    assert provider(link, "lib2.so", "f") == "lib1.so"


def canonical(monkeypatch: pytest.MonkeyPatch, link: Link) -> None:
    """Give the program's undefined ``f`` an address: a canonical PLT entry (psABI 5.2)."""
    symbols = link.root.file.symbols.copy()
    index = next(i for i in range(len(symbols)) if link.root.file.symbol_name(i) == "f")
    symbols[index]["st_value"] = 0x1000
    monkeypatch.setitem(link.root.file.__dict__, "symbols", symbols)


@pytest.mark.parametrize(
    ("relocation", "expected"), [(R.R64, PROGRAM), (R.JUMP_SLOT, "libown.so")],
    ids=["normal", "PLT"],
)  # fmt: skip
def test_a_canonical_plt_entry_answers_only_what_takes_the_address(
    monkeypatch: pytest.MonkeyPatch, relocation: R, expected: str
) -> None:
    own = referring("libown.so", Define(FUNCTION), lookup=relocation)
    asking = build_dso(
        None,
        {"_start": FUNCTION, "slots": SLOT},
        needed=["libown.so"],
        undefined=["f"],
        relocations=[Relocate("slots", R.JUMP_SLOT, symbol="f", plt=True)],
        hash_style="sysv",
        interp="/no/interpreter",
        entry="_start",
    )
    link = memory_link(asking, {"libown.so": own})
    link.collect()
    canonical(monkeypatch, link)
    link.load()
    link.relocate()
    assert provider(link, "libown.so", "f") == expected


def test_copy_relocations_skip_the_program() -> None:
    data = build_dso("libdata.so", {"v": Define(b"\7" * 8, STT.OBJECT)})
    copying = build_dso(
        None,
        {"_start": FUNCTION, "v": SLOT},
        needed=["libdata.so"],
        relocations=[Relocate("v", R.COPY, symbol="v")],
        interp="/no/interpreter",
        entry="_start",
    )
    link = linked(copying, {"libdata.so": data})
    assert link.bindings[0].requests.lookup.tolist() == [LookupClass.COPY]
    assert provider(link, PROGRAM, "v") == "libdata.so"
    assert word(link, link.root, "v") == int.from_bytes(b"\7" * 8, "little")


# -- resolvers -----------------------------------------------------------------------------------


def answering(name: str, address: int) -> Passes:
    def resolve(request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        return Definition(None, name, address) if request.name == name else None

    return Passes(resolve=resolve)


def test_a_resolver_answers_before_the_scope_and_owns_the_word() -> None:
    lib = build_dso("libf.so", {"f": FUNCTION, "g": FUNCTION})
    link = linked(program(["f", "g"], needed=["libf.so"]), {"libf.so": lib}, answering("f", 0x1234))
    assert word(link, link.root, "slots") == 0x1234
    bound = binding(link, PROGRAM, "f")
    assert (bound.provider, bound.owner) == (None, "passes")
    assert binding(link, PROGRAM, "g").owner is None
    assert not link.bindings[0].alone.any(), "libf.so would have answered as well"


def test_a_resolver_answers_what_nothing_defines() -> None:
    link = linked(program(["f"]), {}, answering("f", 0x1234))
    assert word(link, link.root, "slots") == 0x1234
    assert link.bindings[0].alone.all()


def test_resolvers_of_later_objects_are_not_asked_for_what_came_before_them() -> None:
    asked: list[str] = []

    def resolve(request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        asked.append(request.name)
        return None

    one, two = build_dso("lib1.so", {"f": FUNCTION}), build_dso("lib2.so", {"g": FUNCTION})
    linked(
        program(["f", "g"], needed=["lib1.so", "lib2.so"]),
        {"lib1.so": one, "lib2.so": two},
        Passes(resolve=resolve, only="lib2.so"),
    )
    assert asked == ["g"]


def test_the_latest_resolver_is_asked_first() -> None:
    class Other(Second):
        pass

    first = answering("f", 1)
    other = Other(resolve=lambda request, dso, link: Definition(None, "f", 2))
    link = linked(program(["f"]), {}, first, other)
    assert word(link, link.root, "slots") == 2
    assert binding(link, PROGRAM, "f").owner == "other"


@pytest.mark.parametrize("visibility", [STV.HIDDEN, STV.PROTECTED])
def test_what_cannot_leave_its_object_is_not_asked_for(visibility: STV) -> None:
    own = referring("libown.so", Define(FUNCTION, visibility=visibility))
    link = linked(program(needed=["libown.so"]), {"libown.so": own}, answering("f", 0x1234))
    assert provider(link, "libown.so", "f") == "libown.so"


def test_an_indirect_function_is_no_answer() -> None:
    lib = build_dso("libf.so", {"choose": Define(FUNCTION, STT.GNU_IFUNC)})
    module = Passes(resolve=lambda request, dso, link: link.definition(link.objects[1], "choose"))
    with expect("relocate/indirect-answer"):
        linked(program(["f"], needed=["libf.so"]), {"libf.so": lib}, module)


# -- Link.definition -----------------------------------------------------------------------------


def test_definition_gives_the_default_or_the_version_asked_for() -> None:
    link = linked(program(needed=["libv.so"]), {"libv.so": VERSIONED})
    lib = link.objects[1]
    assert link.definition(lib, "f", "V2").size == 2
    assert link.definition(lib, "f", "V1").size == 1
    found = link.definition(lib, "old", "V1")
    assert (found.dso, found.name, found.type) == (lib, "old", STT.FUNC)
    assert lib.start <= found.address < lib.end


def test_definition_of_what_is_not_there() -> None:
    link = linked(program(needed=["libv.so"]), {"libv.so": VERSIONED})
    with expect("relocate/no-definition") as expected:
        link.definition(link.objects[1], "f", "V7")
    assert "f@V7" in expected.diagnostic.message
    assert len(expected.diagnostic.notes) == 2
