"""The builder's objects are what the system's dlopen and our own parser take them for."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from elf_seeds import ANSWER, rich_dso

from spidl.elf import DT, ET, STT, ElfFile, R
from spidl.testing.elves import Define, Relocate, build_dso


@pytest.mark.parametrize("hash_style", ["gnu", "sysv", "both"])
def test_dlopen_takes_it(tmp_path: Path, hash_style: str) -> None:
    path = tmp_path / "librich.so"
    path.write_bytes(rich_dso(hash_style))
    library = ctypes.CDLL(str(path))
    assert library.answer() == 42
    assert library.f() == 2, "the default version"
    assert library.choose() == 42, "an IFUNC"
    assert ctypes.cast(library.absolute, ctypes.c_void_p).value == 0x1234
    assert ctypes.c_uint64.in_dll(library, "variable").value == 0x63, "the constructor ran"
    assert ctypes.c_uint64.in_dll(library, "per_thread").value == 7
    puts = ctypes.cast(ctypes.CDLL(None).puts, ctypes.c_void_p).value
    first, second, third = (ctypes.c_uint64 * 3).in_dll(library, "pointers")
    assert first == third == puts
    assert ctypes.CFUNCTYPE(ctypes.c_int)(second)() == 42, "the word DT_RELR relocates"


@pytest.mark.parametrize("hash_style", ["gnu", "sysv", "both", "none"])
def test_the_parser_reads_it_back(hash_style: str) -> None:
    elf = ElfFile.parse(rich_dso(hash_style), "librich.so.1")
    names = [elf.symbol_name(index) for index in range(len(elf.symbols))]
    known = ["", "puts", "nowhere"]
    assert names[:3] == known if hash_style != "none" else names == known[:2]
    if hash_style != "none":
        assert sorted(names[3:]) == sorted(
            ["absolute", "answer", "choose", "f", "f", "per_thread", "pointers", "set", "variable"]
        )
    assert elf.soname == "librich.so.1"
    assert elf.needed == ("libc.so.6",)
    assert elf.runpath == "$ORIGIN"
    assert elf.bind_now
    assert not elf.stack_executable
    assert elf.tls is not None
    assert elf.tls.filesz == 8
    assert [(v.name, v.defined) for _, v in sorted(elf.versions.items())] == [
        ("V1", True),
        ("V2", True),
        ("GLIBC_2.2.5", False),
        ("GLIBC_ABI_DT_RELR", False),
    ]
    assert elf.jmprel["r_type"].tolist() == [R.JUMP_SLOT]
    assert elf.rela["r_type"].tolist() == [R.RELATIVE, R.RELATIVE, R.R64]
    assert len(elf.relr) == 1
    assert elf.init_array is not None
    assert elf.init_array[1] == 8


def test_many_symbols_are_all_found(tmp_path: Path) -> None:
    names = {f"function_{number}": ANSWER for number in range(500)}
    path = tmp_path / "libmany.so"
    path.write_bytes(build_dso("libmany.so", names))
    library = ctypes.CDLL(str(path))
    assert all(getattr(library, name)() == 42 for name in names)
    assert len(ElfFile.open(str(path)).symbols) == 501


def test_relr_over_several_bitmaps(tmp_path: Path) -> None:
    offsets = [*range(0, 8 * 70, 8), 8 * 200, 8 * 399]
    symbols = {"table": Define(bytes(3200), STT.OBJECT), "answer": ANSWER}
    content = build_dso("librelr.so", symbols, relr=[("table", at, "answer") for at in offsets])
    elf = ElfFile.parse(content, "librelr.so")
    table = next(
        int(value)
        for value, kind in zip(elf.symbols["st_value"], elf.symbols["st_info"] & 15, strict=True)
        if kind == STT.OBJECT
    )
    assert elf.relr.tolist() == [table + at for at in offsets]
    path = tmp_path / "librelr.so"
    path.write_bytes(content)
    words = (ctypes.c_uint64 * 400).in_dll(library := ctypes.CDLL(str(path)), "table")
    answer = ctypes.cast(library.answer, ctypes.c_void_p).value
    assert [index * 8 for index, word in enumerate(words) if word == answer] == offsets


def test_a_program(tmp_path: Path) -> None:
    # mov edi, 42; mov eax, 60 (exit); syscall
    start = bytes.fromhex("bf2a000000" + "b83c000000" + "0f05")
    path = tmp_path / "program"
    path.write_bytes(
        build_dso(None, {"_start": start}, type=ET.EXEC, entry="_start", base=0x400000)
    )
    path.chmod(0o755)
    assert subprocess.run([path], check=False).returncode == 42
    elf = ElfFile.open(str(path))
    assert (elf.type, elf.span[0], elf.phdr_vaddr) == (ET.EXEC, 0x400000, 0x400040)


def test_an_interpreter() -> None:
    elf = ElfFile.parse(build_dso(None, {"a": ANSWER}, interp="/lib/ld.so", entry="a"), "p")
    assert elf.interp == "/lib/ld.so"
    assert elf.phdr_vaddr == 64
    assert elf.entry == elf.loads[1].vaddr


def test_unknown_names_are_an_error() -> None:
    with pytest.raises(KeyError):
        build_dso("x", {"a": ANSWER}, relocations=[Relocate("b", R.R64)])


def test_executable_stack_is_the_default_without_a_header() -> None:
    content = bytearray(build_dso("x", {"a": ANSWER}))
    elf = ElfFile.parse(bytes(content), "x")
    assert not elf.stack_executable
    content[64 + 56 * (len(elf.phdrs) - 1)] = 0  # PT_GNU_STACK becomes another type
    assert ElfFile.parse(bytes(content), "x").stack_executable
    assert ElfFile.parse(build_dso("x", executable_stack=True), "x").stack_executable


def test_last_of_several_tags_wins() -> None:
    elf = ElfFile.parse(build_dso("x", tags=[(DT.FLAGS, 2), (DT.FLAGS, 4)]), "x")
    assert elf.flags_dt == 4
    assert elf.textrel
    assert not elf.symbolic
