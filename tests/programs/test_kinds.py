"""Unusual programs and libraries: no libc, static, fixed, huge, over-aligned, self-modifying."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from .conftest import Same, Workshop
from .harness import run, spidl

FREESTANDING = ("-nostdlib", "-ffreestanding", "-fno-stack-protector")
FIXED = ("-no-pie", "-fno-pie")


@pytest.fixture(scope="module")
def memory(workshop: Workshop) -> Path:
    return workshop.program("memory", "memory_main.c")


@pytest.mark.parametrize("behaviour", ["allocation", "break", "permissions", "mappings", "limits"])
@pytest.mark.parametrize("kind", ["pie", "fixed"])
def test_memory(same: Same, workshop: Workshop, memory: Path, kind: str, behaviour: str) -> None:
    program = memory if kind == "pie" else workshop.folder / "memory-fixed"
    if not program.exists():
        workshop.program(program.name, "memory_main.c", flags=FIXED)
    same([str(program), behaviour])


def test_address_space_limit(same: Same, memory: Path) -> None:
    """An image must run in as little address space as the program does."""
    same([str(memory), "limits"], limits={resource.RLIMIT_AS: (16 << 20, 16 << 20)})


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("pie", ("-pie", "-fPIE")),
        ("fixed", FIXED),
    ],
)
def test_no_libc_but_a_library(
    same: Same, workshop: Workshop, name: str, flags: tuple[str, ...]
) -> None:
    workshop.library("libnolibc.so", "nolibc_lib.c", flags=FREESTANDING)
    program = workshop.program(
        f"nolibc-{name}",
        "nolibc.c",
        "libnolibc.so",
        flags=(*FREESTANDING, "-DLIBRARY", *flags),
    )
    outcome = same([str(program), "one", "two"], env={"A": "1"}, status=21)
    assert b"relocated data\nargc 3\none\ntwo\nvariables 1\n" in outcome.stdout
    assert b"library 63\n" in outcome.stdout


def test_no_libc_and_no_library(same: Same, workshop: Workshop) -> None:
    """A PIE that only asks for ld.so to relocate it."""
    program = workshop.program("nolibc", "nolibc.c", flags=FREESTANDING)
    outcome = same([str(program)], env={}, status=21)
    assert b"relocated data\nargc 1\nvariables 0\n" in outcome.stdout
    assert b"entry is right 1\nstack aligned 1\ncounter 6\n" in outcome.stdout


@pytest.mark.parametrize(
    ("name", "source", "flags", "status"),
    [
        ("static-nolibc", "nolibc.c", (*FREESTANDING, "-static", *FIXED), 21),
        ("static", "env_main.c", ("-static", *FIXED), 0),
        ("static-pie", "env_main.c", ("-static-pie",), 0),
    ],
)
def test_static_program_still_runs(
    workshop: Workshop, name: str, source: str, flags: tuple[str, ...], status: int
) -> None:
    """There is nothing to link; `spidl run` runs it all the same."""
    program = workshop.program(name, source, flags=flags)
    oracle, result = run([str(program), "x"]), spidl(["run", str(program), "x"])
    assert oracle.status == status
    assert b"argc 2" in oracle.stdout
    # Spidl is started with PYTHONPATH, which the oracle does not have.
    assert _without_variables(result.stdout) == _without_variables(oracle.stdout), result
    assert (result.stderr, result.status) == (oracle.stderr, oracle.status)


def _without_variables(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines() if not line.startswith(b"variables")]


def test_fixed_program(same: Same, workshop: Workshop) -> None:
    program = workshop.program("fixed", "env_main.c", flags=FIXED)
    same([str(program)])


def test_huge_bss(same: Same, workshop: Workshop) -> None:
    program = workshop.program("huge-bss", "huge_bss.c")
    same([str(program)], expect="0 1 1, small in memory 1\n")


def test_huge_bss_of_a_fixed_program(same: Same, workshop: Workshop) -> None:
    program = workshop.program("huge-bss-fixed", "huge_bss.c", flags=FIXED)
    same([str(program)], expect="0 1 1, small in memory 1\n")


@pytest.mark.parametrize("where", ["library", "program", "both"])
def test_two_megabyte_alignment(same: Same, workshop: Workshop, where: str) -> None:
    big = ("-Wl,-z,max-page-size=0x200000",)
    flags = big if where != "program" else ()
    path = f"{where}/libaligned.so"
    workshop.library(path, "aligned_lib.c", flags=("-Wl,-h,libaligned.so", *flags))
    program = workshop.program(
        f"{where}/program", "value_main.c", path, flags=big if where != "library" else ()
    )
    same([str(program)], expect="value 6\n")


def test_text_relocations(same: Same, workshop: Workshop) -> None:
    """The linker writes into code: those pages are private, and executable again afterwards."""
    flags = ("-Wl,-z,notext",)
    workshop.library("libtextrel.so", "textrel.S", flags=flags)
    program = workshop.program("textrel", "textrel_main.c", "libtextrel.so")
    same([str(program)], expect="text relocation 55, call 1\n")


def test_writable_code(same: Same, workshop: Workshop) -> None:
    program = workshop.program("rwx", "rwx.c", flags=("-Wl,--no-warn-rwx-segments",))
    same([str(program)], expect="before 1\nafter 9\n")
