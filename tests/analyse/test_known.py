"""Builds of which more is known: objects of the data, functions that do nothing before others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from spidl.analyse import Summary, analyse, explain
from spidl.analyse.known import AFTER, OBJECTS
from spidl.analyse.layout import Layout
from spidl.analyse.names import number_of
from spidl.analyse.objects import Objects, known_objects
from spidl.elf import ElfFile
from tests.analyse.building import LIBRARY, build, calls, imports
from tests.analyse.debug_symbols import objects_of, rules_of
from tests.needs import tool

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
_SOURCE = """
typedef long function(void);
#define CALL(name, number) static long name(void) { \\
    long r; asm volatile("syscall" : "=a"(r) : "0"(number) : "rcx", "r11"); return r; }
CALL(alarmed, 37) CALL(timed, 100) CALL(forked, 57) CALL(paused, 34)
struct table { function *const *next; function *one[4]; };
#define CONSTANT __attribute__((section(".data.rel.ro"), used, aligned(32)))
CONSTANT static function *inner[4] = { paused };
CONSTANT static function *first[4] = { alarmed };
CONSTANT static struct table second = { inner, { 0, timed } };
CONSTANT function *shown[4] = { forked };
long nothing(void) { return 0; }
long start(int i) { function **p = first; asm("" : "+r"(p)); return p[i](); }
long middle(int i) { function **p = second.one + 1; asm("" : "+r"(p)); return p[i](); }
long operand(void) { function *p; asm("mov 8+first(%%rip), %0" : "=r"(p)); return p(); }
long outside(int i) {
    function **p;
    asm("lea inner-0x40(%%rip), %0" : "=r"(p));
    return p[i]();
}
long by_symbol(int i) { return shown[i](); }
"""
_OBJECTS = ("inner", "first", "second", "shown")


@pytest.fixture(name="path")
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library whose objects are known by its symbols."""
    path = build(tmp_path, _SOURCE, *LIBRARY, "-fno-toplevel-reorder")
    command = [tool("nm", "binutils"), "-S", "-n", str(path)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = [line.split() for line in found.splitlines()]
    table = " ".join(f"{w[0]}+{w[1]}" for w in words if len(w) == 4 and w[3] in _OBJECTS)
    assert table.count("+") == len(_OBJECTS)
    build_id = ElfFile.open(str(path)).build_id
    assert build_id is not None
    monkeypatch.setitem(OBJECTS, build_id.hex(), table)
    return path


@pytest.fixture(name="summary")
def _summary(path: Path) -> Summary:
    return analyse(ElfFile.open(str(path)))


@pytest.mark.parametrize(
    ("export", "reached"),
    [
        pytest.param("nothing", set(), id="no-reference"),
        pytest.param("start", {"alarm"}, id="start"),
        pytest.param("operand", {"alarm"}, id="operand-in-memory"),
        pytest.param(
            "middle", {"alarm", "times", "fork", "pause"}, id="middle-and-those-beside-it"
        ),
        pytest.param("outside", {"alarm", "times", "fork", "pause"}, id="no-object-means-all"),
        pytest.param("shown", {"fork"}, id="exported-data"),
    ],
)
def test_what_an_address_reaches(summary: Summary, export: str, reached: set[str]) -> None:
    assert calls(summary, export) == reached
    assert calls(summary) == set()


def test_data_that_can_be_interposed_is_an_import(summary: Summary) -> None:
    assert "shown" in imports(summary, "by_symbol")


def test_all_of_data_counts_in_a_build_that_is_not_known(tmp_path: Path) -> None:
    summary = analyse(ElfFile.open(str(build(tmp_path, _SOURCE, *LIBRARY))))
    assert calls(summary) == {"alarm", "times", "fork", "pause"}


@pytest.mark.parametrize("wrong", ["0+8", "{first}+40 {first}+40", "{last}+8 {first}+8"])
def test_a_table_that_does_not_fit_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    file = ElfFile.open(str(path))
    assert file.build_id is not None
    items = OBJECTS[file.build_id.hex()].split()
    first, last = (item.partition("+")[0] for item in (items[0], items[-1]))
    monkeypatch.setitem(OBJECTS, file.build_id.hex(), wrong.format(first=first, last=last))
    assert not len(known_objects(Layout(file)))
    assert calls(analyse(file)) == {"alarm", "times", "fork", "pause"}


def test_addresses_and_objects() -> None:
    objects = Objects(np.array([0x5000, 0x5040, 0x5080]), np.array([0x5020, 0x5060, 0x50A0]))

    def of(vaddr: int, *, exact: bool = False) -> set[int]:
        row, found = objects.named(np.array([vaddr]), np.array([exact]))
        assert set(row.tolist()) <= {0}
        return set(found.tolist())

    assert of(0x5040) == of(0x5040, exact=True) == of(0x5048, exact=True) == {1}
    assert of(0x5048) == {0, 1, 2}
    assert of(0x5060) == {1}, "the end of an array"
    assert of(0x5070) == of(0x4FF8) == of(0x50B0) == {0, 1, 2}
    assert of(0x5070, exact=True) == of(0x1000) == of(0x9000) == set()


def test_a_way_through_data(path: Path) -> None:
    number = number_of("alarm")
    assert number is not None
    way = explain(ElfFile.open(str(path)), "start", number)
    assert [step.name.partition(" at ")[0] for step in way[:2]] == ["start", "data"]
    assert len(way) == 3


def test_the_tables_are_what_debug_files_say() -> None:
    """Of this machine's libc; in another build than the known ones, nothing is assumed."""
    file = ElfFile.open(LIBC)
    assert file.build_id is not None
    objects, build_id = known_objects(Layout(file)), file.build_id.hex()
    if build_id in OBJECTS:
        assert " ".join(OBJECTS[build_id].split()) == objects_of(LIBC)
        assert [rule.split() for rule in AFTER[build_id].split(";")] == rules_of(LIBC)
        assert len(objects) > 100
        always = calls(analyse(file))
        assert "accept" not in always, "of its remote procedure calls"
        assert "sched_setscheduler" not in always, "of mutexes with priorities"
    else:
        assert not len(objects)
        assert build_id not in AFTER


def test_what_does_nothing_before_another_function_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        __attribute__((noinline)) long later(void) {
            long r; asm volatile("syscall" : "=a"(r) : "0"(37) : "rcx", "r11"); return r; }
        long first(void) { return 1; }
        long user(void) { return later() + 1; }
    """
    flags = (*LIBRARY, "-Wl,-Bsymbolic")
    path = build(tmp_path, source, *flags)
    file = ElfFile.open(str(path))
    starts = {name: summary_address(file, name) for name in ("later", "first")}
    assert calls(analyse(file), "user") == {"alarm"}
    assert file.build_id is not None
    rule = f"{starts['later']:x} < {starts['first']:x}"
    monkeypatch.setitem(AFTER, file.build_id.hex(), rule)
    summary = analyse(file)
    assert calls(summary, "user") == set()
    assert calls(summary, "first") == calls(summary, "later") == {"alarm"}
    monkeypatch.setitem(AFTER, file.build_id.hex(), f"{starts['later']:x} < 1")
    assert calls(analyse(file), "user") == {"alarm"}, "a rule that does not fit the file"


def summary_address(file: ElfFile, name: str) -> int:
    """Where an export is."""
    found = [at for at in range(len(file.symbols)) if file.symbol_name(at) == name]
    return int(file.symbols["st_value"][found[0]])


@pytest.mark.parametrize("flags", [("-fPIE", "-pie"), ("-fno-pie", "-no-pie")])
def test_copied_data_are_imports(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """The copy may point to functions of the library that it comes from."""
    source = '#include <stdio.h>\nint main(void) { return fputs("x", stdout); }'
    summary = analyse(ElfFile.open(str(build(tmp_path, source, "-O2", *flags))))
    assert "stdout" in imports(summary)
