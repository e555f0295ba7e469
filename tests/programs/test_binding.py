"""Which definition a symbol binds to, and what the linker writes for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import tool

from .conftest import Same, Workshop
from .harness import assert_same, run, spidl

LINKED = {
    "default": (),
    "now": ("-Wl,-z,now",),
    "lazy": ("-Wl,-z,lazy",),
    "norelro": ("-Wl,-z,norelro",),
    "sysv-hash": ("-Wl,--hash-style=sysv",),
    "gnu-hash": ("-Wl,--hash-style=gnu",),
    "both-hashes": ("-Wl,--hash-style=both",),
    "relr": ("-Wl,-z,pack-relative-relocs",),
    "one-segment": ("-Wl,-z,noseparate-code",),
    "gold": ("-fuse-ld=gold",),
}
PROGRAMS = {
    "pie": (),
    "fixed": ("-no-pie", "-fno-pie"),
    "no-copy": ("-fPIC", "-Wl,-z,nocopyreloc"),
    "own-malloc": ("-DOWN_MALLOC",),
}


def make(workshop: Workshop, linked: str, program: str) -> Path:
    flags = LINKED[linked]
    folder = f"{linked}-{program}"
    library = f"{folder}/libbinding.so"
    workshop.library(library, "binding_lib.c", flags=("-Wl,-h,libbinding.so", *flags))
    return workshop.program(
        f"{folder}/binding", "binding_main.c", library, flags=(*flags, *PROGRAMS[program])
    )


@pytest.mark.parametrize("behaviour", ["ifunc", "copy", "visibility", "interposition"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_binding(same: Same, workshop: Workshop, program: str, behaviour: str) -> None:
    outcome = same([str(make(workshop, "default", program)), behaviour])
    if behaviour == "interposition" and program == "own-malloc":
        assert outcome.stdout == b"counted 2, library's pointer is ours 1\n"


@pytest.mark.parametrize("linked", LINKED)
def test_link_options(same_shared: Same, workshop: Workshop, linked: str) -> None:
    if linked == "gold":
        tool("ld.gold", "binutils")
    program = str(make(workshop, linked, "pie"))
    for behaviour in ("ifunc", "copy", "visibility"):
        same_shared([program, behaviour])


@pytest.mark.parametrize("flag", ["-Wl,-Bsymbolic", "-Wl,-Bsymbolic-functions"])
def test_symbolic_library_binds_to_itself(same: Same, workshop: Workshop, flag: str) -> None:
    folder = flag.rpartition("-B")[2]
    library = f"{folder}/libbinding.so"
    workshop.library(library, "binding_lib.c", flags=("-Wl,-h,libbinding.so", flag))
    program = workshop.program(
        f"{folder}/binding", "binding_main.c", library, flags=("-fPIC", "-Wl,-z,nocopyreloc")
    )
    outcome = same([str(program), "visibility"])
    assert b"overridden function 1, variable" in outcome.stdout
    same([str(program), "copy"])


@pytest.fixture(scope="module")
def versioned(workshop: Workshop) -> tuple[Path, Path, Path]:
    """A program linked with version 1, one linked with version 2, one linked without versions;
    all run with the library that has both."""
    first = workshop.text("first.map", "V1 { global: answer; only_old; local: *; };")
    both = workshop.text(
        "both.map",
        "V1 { global: answer; only_old; local: *; }; V2 { global: answer; self_check; } V1;",
    )
    soname = "-Wl,-h,libversions.so"
    name = "old/libversions.so"
    script = f"-Wl,--version-script={first}"
    workshop.library(name, "versions_old.c", flags=(soname, script))
    old = workshop.program("with-v1", "versions_main.c", name)
    workshop.library("none/libversions.so", "versions_old.c", flags=(soname,))
    none = workshop.program("with-none", "versions_main.c", "none/libversions.so")
    script = f"-Wl,--version-script={both}"
    workshop.library("libversions.so", "versions_new.c", flags=(soname, script))
    return old, workshop.program("with-v2", "versions_main.c", "libversions.so"), none


@pytest.mark.parametrize(("which", "answer"), [(0, 1), (1, 2), (2, None)])
def test_versions(
    same: Same, versioned: tuple[Path, Path, Path], which: int, answer: int | None
) -> None:
    outcome = same([str(versioned[which])])
    if answer is not None:
        assert outcome.stdout.startswith(b"answer %d\n" % answer)


def test_missing_version_is_an_error(workshop: Workshop) -> None:
    """ld.so does not start this program; Spidl says so before anything runs."""
    script = workshop.text("nine.map", "V9 { global: value; };")
    flags = (f"-Wl,--version-script={script}", "-DVALUE=1", "-Wl,-h,libnine.so")
    workshop.library("nine/libnine.so", "value.c", flags=flags)
    program = workshop.program("needs-nine", "value_main.c", "nine/libnine.so")
    script = workshop.text("eight.map", "V8 { global: value; };")
    flags = (f"-Wl,--version-script={script}", "-DVALUE=1", "-Wl,-h,libnine.so")
    workshop.library("libnine.so", "value.c", flags=flags)
    oracle = run([str(program)])
    assert oracle.status == 1
    assert b"version `V9' not found" in oracle.stderr
    result = spidl(["run", str(program)])
    assert result.status == 2
    assert result.stderr.startswith(b"spidl: error[")
    assert b"V9" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("call",)])
def test_unresolvable_function(same: Same, workshop: Workshop, arguments: tuple[str, ...]) -> None:
    """With lazy binding only the call fails, in the same words."""
    lazy = ("-Wl,-z,lazy",)
    workshop.library("liblazy.so", "lazy_lib.c", flags=lazy)
    program = workshop.program(
        "lazy", "lazy_main.c", "liblazy.so", flags=(*lazy, "-Wl,--allow-shlib-undefined")
    )
    outcome = same([str(program), *arguments], status=127 if arguments else 0)
    assert outcome.stdout == b"harmless 3\n"
    assert (b"undefined symbol: nobody_defines_this" in outcome.stderr) == bool(arguments)


def test_copy_of_another_size_is_refused(workshop: Workshop) -> None:
    """The library's variable grew since the program was linked.  ld.so says so on every start: an
    image would start without that warning."""
    small = workshop.text("small.c", "int grown[2] = {1, 2};")
    grown = workshop.text("grown.c", "int grown[4] = {1, 2, 3, 4};")
    main = workshop.text(
        "size_main.c",
        "#include <stdio.h>\nextern int grown[]; int main(void)"
        ' { printf("%d %d\\n", grown[0], grown[1]); }',
    )
    workshop.library("small/libgrown.so", str(small), flags=("-Wl,-h,libgrown.so",))
    program = workshop.program("size", str(main), "small/libgrown.so")
    workshop.library("libgrown.so", str(grown))
    oracle = run([str(program)])
    assert oracle.stdout == b"1 2\n"
    assert b"Symbol `grown' has different size in shared object" in oracle.stderr
    built = spidl(["build", str(program), "-o", str(workshop.folder / "image")])
    assert built.status == 2
    assert built.stderr.startswith(b"spidl: refused[relocate/copy-size]:")
    assert_same(oracle, spidl(["run", str(program)]), ["size"])


def test_weak_function_that_comes_later(same: Same, workshop: Workshop) -> None:
    """Its PLT slot stays lazy: a library that is opened later defines it."""
    late = workshop.library("late/liblate.so", "late.c")
    workshop.library("late/libcaller.so", "late_caller.c", flags=("-Wl,-z,lazy,-h,libcaller.so",))
    program = workshop.program("late/late", "late_main.c", "late/libcaller.so")
    same([str(program), str(late)], expect="opened 1\nlate 7\n")
