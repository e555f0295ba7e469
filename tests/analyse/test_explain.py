"""Ways through one file, for people."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from spidl.analyse import ALWAYS, ENTRY, explain
from spidl.analyse.names import number_of
from spidl.diagnostics import LinkError
from spidl.elf import ElfFile
from tests.analyse.building import LIBRARY, build

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
SOURCE = """
extern void imported(void);
static __attribute__((noinline)) long inner(void) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(39) : "rcx", "r11", "memory");
    return result;
}
static __attribute__((noinline)) long middle(void) { imported(); return inner() + 1; }
long outer(void) { return middle() + 1; }
long alone(void) { return 3; }
__attribute__((constructor)) static void starts(void) { middle(); }
"""


def test_the_way_names_each_function(tmp_path: Path) -> None:
    path = build(tmp_path, SOURCE, *LIBRARY)
    file = ElfFile.open(str(path))
    number = number_of("getpid")
    assert number == 39
    way = explain(file, ("outer", None), number)
    assert [step.name for step in way] == ["outer", "middle", "inner"]
    assert explain(file, way[0].vaddr or 0, number) == way
    assert explain(file, "outer", number) == way
    way = explain(file, "outer", ("imported", None))
    assert [step.name for step in way] == ["outer", "middle", "imported@plt"]
    assert [s.name for s in explain(file, ALWAYS, number)] == [
        "always",
        "starts",
        "middle",
        "inner",
    ]
    assert explain(file, "alone", number) == ()
    assert explain(file, "outer", 40) == ()


def test_without_symbols_functions_are_addresses(tmp_path: Path) -> None:
    path = build(tmp_path, SOURCE, *LIBRARY)
    subprocess.run(["strip", str(path)], check=True)
    way = explain(ElfFile.open(str(path)), "outer", 39)
    assert way[0].name == "outer"
    assert [step.name for step in way[1:]] == [f"{step.vaddr:#x}" for step in way[1:]]


def test_a_real_way() -> None:
    way = explain(ElfFile.open(LIBC), ("getpwnam", "GLIBC_2.2.5"), 257)
    assert way[0].name == "getpwnam"
    assert 2 < len(way) < 20


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    file = ElfFile.open(str(build(tmp_path, SOURCE, *LIBRARY)))
    for start in ("missing", ("missing", "V1"), 1, ENTRY):
        with pytest.raises(LinkError) as caught:
            explain(file, start, 39)
        assert caught.value.code == "analyse/no-function"
