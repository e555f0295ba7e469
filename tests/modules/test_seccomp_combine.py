"""What a link can ask of the kernel, from hand-made summaries and the bindings of real links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest

from spidl.analyse import Class, Site, Summary
from spidl.analyse.names import number_of
from spidl.api import POST_COLLECT, Definition, Dso, ElfFile, Link, Module, Pipeline, SymbolRequest
from spidl.elf import STT, R
from spidl.modules.seccomp import DECISION, SUMMARISE, Decision, Seccomp
from spidl.modules.seccomp.decide import ALWAYS, VDSO
from spidl.modules.seccomp.plugins import IMAGES
from spidl.testing import (
    PROGRAM,
    Define,
    Relocate,
    Undefined,
    build_dso,
    expect,
    memory_link,
    program,
)

READ, WRITE, OPEN, SOCKET, GETPPID, EXECVE = 0, 1, 2, 41, 110, 59
Key = tuple[str, str | None]


def summary(
    name: str = "",
    calls: Mapping[str | Key, Iterable[int]] = {},
    *,
    imports: Sequence[str | Key] = (),
    uses: Mapping[str, Sequence[int]] = {},
    always: Class = Class(frozenset(), frozenset()),  # noqa: B008  (frozen)
    wrappers: Mapping[Key, int] = {},
    told: Sequence[tuple[int, int]] = (),
    unknown: Iterable[str] = (),
    addresses: Mapping[str, int] = {},
) -> Summary:
    """Of a file whose exports make these ``calls`` and ``uses`` of imports; the program's entry
    uses all imports."""
    keys = {
        (key, None) if isinstance(key, str) else key: set(value) for key, value in calls.items()
    }
    classes = [always, Class(frozenset(), frozenset(range(len(imports))), frozenset(told))]
    exports = {}
    for key, numbers in keys.items():
        exports[key] = len(classes)
        used = frozenset(uses.get(key[0], ()))
        classes.append(Class(frozenset(numbers), used, unknown=key[0] in unknown))
    return Summary(
        build_id="", soname=name, needed=(),
        imports=tuple((key, None) if isinstance(key, str) else key for key in imports),
        classes=tuple(classes), always=0, entry=None if name else 1, exports=exports,
        addresses={vaddr: exports[key, None] for key, vaddr in addresses.items()},
        wrappers=wrappers,
        unknown=(Site(0x40, "odd", "from memory", tuple(exports[u, None] for u in unknown)),),
    )  # fmt: skip


def version_in(file: ElfFile, symbol: int) -> str | None:
    if file.versym is None:
        return None
    version = file.versions.get(int(file.versym[symbol]) & 0x7FFF)
    return None if version is None else version.name


class Summaries(Module):
    """Tells summaries by soname, "" is the program; addresses of exports are the files' own."""

    table: dict[str, Summary]

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_COLLECT, self.tell)

    def tell(self, link: Link) -> None:
        link.facts[SUMMARISE] = self.of

    def of(self, file: ElfFile) -> Summary:
        made = self.table[file.soname or ""]
        where = {}
        for index in range(1, len(file.symbols)):
            key = (file.symbol_name(index), version_in(file, index))
            if int(file.symbols[index]["st_shndx"]) and key in made.exports:
                where[int(file.symbols[index]["st_value"])] = made.exports[key]
        fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
        return Summary(**{**fields, "addresses": where})


def library(name: str, *functions: str, **more: object) -> bytes:
    code = {function: Define(bytes.fromhex("90" * at + "c3"), STT.FUNC)
            for at, function in enumerate(functions)}  # fmt: skip
    return build_dso(name, code, **more)  # type: ignore[arg-type]


def decided(
    main: bytes, libraries: Mapping[str, bytes], table: dict[str, Summary], *modules: Module,
    **settings: object,
) -> Decision:  # fmt: skip
    seccomp = Seccomp(**settings)  # type: ignore[arg-type]
    link = memory_link(main, libraries, [Summaries(table), *modules, seccomp])
    link.run()
    return link.facts[DECISION]


def reached(decision: Decision) -> set[int]:
    return set(decision.allowed - ALWAYS.keys() - VDSO.keys())


def test_only_what_is_bound_counts() -> None:
    main = program(["f"], needed=["liba.so", "libb.so"])
    libraries = {"liba.so": library("liba.so", "f", "g"), "libb.so": library("libb.so", "f")}
    table = {
        "": summary(imports=["f"]),
        "liba.so": summary("liba.so", {"f": [WRITE], "g": [SOCKET]}),
        "libb.so": summary("libb.so", {"f": [OPEN]}),
    }
    assert reached(decided(main, libraries, table)) == {WRITE}


def test_imports_are_followed_from_object_to_object() -> None:
    main = program(["f"], needed=["liba.so"])
    f, word = Define(b"\xc3", STT.FUNC), Define(bytes(8), STT.OBJECT)
    libraries = {
        "liba.so": build_dso(
            "liba.so",
            {"f": f, "quiet": f, "word": word},
            needed=["libb.so"],
            undefined=[Undefined("g")],
            relocations=[Relocate("word", R.R64, symbol="g")],
        ),
        "libb.so": library("libb.so", "g", "h"),
    }
    a = {"f": [READ], "quiet": [EXECVE]}
    table = {
        "": summary(imports=["f"]),
        "liba.so": summary("liba.so", a, imports=["g"], uses={"f": [0]}),
        "libb.so": summary("libb.so", {"g": [WRITE], "h": [SOCKET]}),
    }
    decision = decided(main, libraries, table)
    assert reached(decision) == {READ, WRITE}
    ((member, number),) = decision.reach.callers(WRITE)
    way = decision.reach.way(member, number)
    assert [decision.reach.members[step.member].name for step in way] == [
        PROGRAM, "liba.so", "libb.so",
    ]  # fmt: skip
    assert [step.symbol for step in way[1:]] == ["f", "g"]
    assert decision.reach.callers(SOCKET) == []


def test_constructors_of_every_object_run() -> None:
    always = Class(frozenset({GETPPID}), frozenset())
    table = {"": summary(imports=["f"]), "liba.so": summary("liba.so", {"f": []}, always=always)}
    main = program(["f"], needed=["liba.so"])
    assert reached(decided(main, {"liba.so": library("liba.so", "f")}, table)) == {GETPPID}


def test_a_version_selects_the_definition() -> None:
    main = program([Undefined("f", "V1", "liba.so")], needed=["liba.so"])
    content = build_dso("liba.so", {
        "f@V1": Define(b"\xc3", STT.FUNC), "f@@V2": Define(b"\x90\xc3", STT.FUNC),
    })  # fmt: skip
    table = {
        "": summary(imports=[("f", "V1")]),
        "liba.so": summary("liba.so", {("f", "V1"): [READ], ("f", "V2"): [WRITE]}),
    }
    assert reached(decided(main, {"liba.so": content}, table)) == {READ}


class Answer(Module):
    """Answers one name of the program's with another function, or with an address of nobody."""

    function: str | None

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.resolver(self.resolve)

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        if request.name != "f":
            return None
        if self.function is None:
            return Definition(None, "f", 0x1234000)
        provider = link.known("liba.so")
        assert provider is not None
        return link.definition(provider, self.function)


TWO = {
    "": summary(imports=["f"]),
    "liba.so": summary("liba.so", {"f": [READ], "g": [WRITE]}),
}


def test_a_slot_that_a_module_owns_is_followed() -> None:
    main = program(["f"], needed=["liba.so"])
    libraries = {"liba.so": library("liba.so", "f", "g")}
    assert reached(decided(main, libraries, dict(TWO), Answer("g"))) == {WRITE}


def test_a_slot_that_leads_to_code_of_nobody_is_refused() -> None:
    main = program(["f"], needed=["liba.so"])
    libraries = {"liba.so": library("liba.so", "f", "g")}
    with expect("seccomp/unknown") as error:
        decided(main, libraries, dict(TWO), Answer(None), unknown="refuse")
    assert "`f` leads to code of no object" in str(error.diagnostic)


def with_wrapper(**main: object) -> tuple[bytes, dict[str, bytes], dict[str, Summary]]:
    table = {
        "": summary(imports=["syscall"], **main),  # type: ignore[arg-type]
        "libw.so": summary("libw.so", {"syscall": []}, wrappers={("syscall", None): 0}),
    }
    content = {"libw.so": library("libw.so", "syscall")}
    return program(["syscall"], needed=["libw.so"]), content, table


def test_numbers_that_are_told_to_a_wrapper() -> None:
    assert reached(decided(*with_wrapper(told=[(0, GETPPID), (0, SOCKET)]))) == {GETPPID, SOCKET}


def test_a_wrapper_that_is_told_what_nobody_knows() -> None:
    with expect("seccomp/unknown") as error:
        decided(*with_wrapper(), unknown="refuse")
    assert "`syscall` is told a number that is not known" in str(error.diagnostic)


ODD = {
    "": summary(imports=["f"]),
    "liba.so": summary("liba.so", {"f": [READ], "g": []}, unknown=["f"]),
}
ODD_LIBRARY = {"liba.so": library("liba.so", "f", "g")}


@pytest.mark.parametrize("settings", [{"unknown": "refuse"}, {"strict": True}])
def test_an_unknown_call_is_refused_with_its_place(settings: dict[str, object]) -> None:
    with expect("seccomp/unknown") as error:
        decided(program(["f"], needed=["liba.so"]), ODD_LIBRARY, ODD, **settings)
    assert "liba.so: odd at 0x40: from memory" in str(error.diagnostic)


def test_an_unknown_call_that_nobody_reaches_is_none() -> None:
    table = {**ODD, "": summary(imports=["g"])}
    assert reached(decided(program(["g"], needed=["liba.so"]), ODD_LIBRARY, table)) == set()


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, {READ}),
        ({"unknown": "deny"}, {READ}),
        ({"unknown": "log"}, {READ}),
        ({"unknown": "allow-all"}, set(range(335)) - ALWAYS.keys() - VDSO.keys()),
        ({"assume": {"liba.so": ["getppid"]}}, {READ, GETPPID}),
    ],
)
def test_what_the_settings_say_about_unknown_calls(
    settings: dict[str, object], allowed: set[int]
) -> None:
    main = program(["f"], needed=["liba.so"])
    assert reached(decided(main, ODD_LIBRARY, ODD, **settings)) == allowed


def test_what_the_settings_add_and_take_away() -> None:
    main = program(["f"], needed=["liba.so"])
    libraries = {"liba.so": library("liba.so", "f", "g")}
    decision = decided(main, libraries, dict(TWO), allow=["getppid"], forbid=["read", "time"])
    assert reached(decision) == {GETPPID}
    assert 201 not in decision.allowed, "forbidden, though allowed in every program"


@pytest.mark.parametrize(
    "settings",
    [
        {"action": "warn"}, {"errno": "EOOPS"}, {"filter_from": "main"}, {"unknown": "maybe"},
        {"exec": "some"}, {"allow": ["no_such_call"]}, {"assume": {"libw.so": ["nothing"]}},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing(settings: dict[str, object]) -> None:
    main = program(["f"], needed=["liba.so"])
    with expect("config/wrong-value"):
        decided(main, {"liba.so": library("liba.so", "f", "g")}, dict(TWO), **settings)


def test_a_program_that_starts_others() -> None:
    main = program(["f"], needed=["liba.so"])
    libraries = {"liba.so": library("liba.so", "f")}
    table = {"": summary(imports=["f"]), "liba.so": summary("liba.so", {"f": [EXECVE]})}
    images = {number_of(call) for call in IMAGES}
    assert reached(decided(main, libraries, table)) == {EXECVE, *images}
    assert reached(decided(main, libraries, table, exec="deny")) == set()
    with expect("seccomp/open-ended"):
        decided(main, libraries, table, strict=True)
    with expect("seccomp/no-program"):
        decided(main, libraries, table, exec=["/no/such/program"])
