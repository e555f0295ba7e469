"""The machine's own files, with binutils' readelf as the oracle."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from elf_seeds import LIBC, touch
from tests.needs import missing

from spidl.elf import SHN, VERSYM_HIDDEN, ElfFile, name_hash, relocation_name

LIB = "/usr/lib/x86_64-linux-gnu/"
FILES = [
    LIBC,
    "/lib64/ld-linux-x86-64.so.2",
    LIB + "libm.so.6",
    LIB + "libstdc++.so.6",
    LIB + "libcrypto.so.3",
    LIB + "libz.so.1",
    "/usr/bin/git",
    "/usr/bin/python3.11",
    "/usr/bin/true",
    "/sbin/ldconfig",  # static
]


@pytest.fixture(params=FILES, scope="module")
def path(request: pytest.FixtureRequest) -> str:
    if not Path(request.param).exists():
        missing(f"{request.param} is not on this machine: apt-get install the package that has it")
    return str(request.param)


@pytest.fixture(scope="module")
def elf(path: str) -> ElfFile:
    return ElfFile.open(path)


def readelf(*arguments: str) -> str:
    return subprocess.run(
        ["readelf", "-W", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_dynamic_section(elf: ElfFile, path: str) -> None:
    text = readelf("-d", path)
    assert elf.needed == tuple(re.findall(r"\(NEEDED\).*\[(.*)\]", text))
    assert [elf.soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", text) or [None])
    lines = re.findall(r"^ (0x[0-9a-f]{16}) ", text, re.M)
    assert elf.dynamic["d_tag"].tolist() == [int(line, 16) for line in lines if int(line, 16)]


def test_segments(elf: ElfFile, path: str) -> None:
    text = readelf("-l", path)
    number = r"(0x[0-9a-f]+)"
    rows = re.findall(
        rf"^  LOAD +{number} {number} {number} {number} {number} (.{{3}}) {number}", text, re.M
    )
    expected = [
        (int(vaddr, 16), int(memsz, 16), int(offset, 16), int(filesz, 16), int(align, 16))
        for offset, vaddr, _, filesz, memsz, _, align in rows
    ]
    assert [(x.vaddr, x.memsz, x.offset, x.filesz, x.align) for x in elf.loads] == expected
    interp = re.findall(r"interpreter: (.*)\]", text)
    assert [elf.interp] == (interp or [None])
    assert elf.stack_executable is bool(re.search(r"GNU_STACK.* RWE ", text))
    assert (elf.relro is None) is ("GNU_RELRO" not in text)
    assert (elf.tls is None) is ("  TLS  " not in text)
    assert elf.entry == int(re.findall(r"Entry point (0x[0-9a-f]+)", text)[0], 16)


def test_symbols_and_versions(elf: ElfFile, path: str) -> None:
    text = readelf("--dyn-syms", path)
    row = r"^ *\d+: ([0-9a-f]{16}) .* (?:UND|ABS|\d+) (\S*)(?: \(\d+\))?$"
    rows = re.findall(row, text, re.M)
    assert [len(rows)] == ([*map(int, re.findall(r"contains (\d+) entr", text))] or [0])
    assert len(elf.symbols) == len(rows)
    assert elf.symbols["st_value"].tolist() == [int(value, 16) for value, _ in rows]
    named = []
    for index in range(len(rows)):
        name = elf.symbol_name(index)
        number = 0 if elf.versym is None else int(elf.versym[index])
        version = elf.versions.get(number & ~VERSYM_HIDDEN)
        # readelf shows the absolute symbols that stand for versions without one.
        if version is not None and not (version.defined and version.name == name):
            defined = elf.symbols["st_shndx"][index] != SHN.UNDEF
            default = defined and not number & VERSYM_HIDDEN and version.defined
            name += ("@@" if default else "@") + version.name
        named.append(name)
    assert named == [name for _, name in rows]


def test_relocations(elf: ElfFile, path: str) -> None:
    text = readelf("-r", path)
    expected = Counter(re.findall(r"^[0-9a-f]{16} +[0-9a-f]{16} (R_X86_64_\w+)", text, re.M))
    types = np.concatenate([elf.rela["r_type"], elf.jmprel["r_type"]])
    found = {
        relocation_name(int(number)): int(count)
        for number, count in zip(*np.unique(types, return_counts=True), strict=True)
    }
    assert found == dict(expected)
    relr = re.findall(r"^([0-9a-f]{16})$", text, re.M)
    assert elf.relr.tolist() == [int(word, 16) for word in relr]


def test_version_tables(elf: ElfFile, path: str) -> None:
    text = readelf("-V", path)
    needs, _, definitions = text.partition("Version definition section")
    if "Version needs section" in definitions:
        definitions, _, needs = definitions.partition("Version needs section")
    assert [d.name for d in elf.verdefs] == re.findall(r"Index: .*Name: (\S+)", definitions)
    assert [(n.name, n.index) for n in elf.verneeds] == [
        (name, int(index))
        for name, index in re.findall(r"Name: (\S+) +Flags: .*Version: (\d+)", needs)
    ]


def test_notes(elf: ElfFile, path: str) -> None:
    build_id = re.findall(r"Build ID: ([0-9a-f]+)", readelf("-n", path))
    assert [elf.build_id and elf.build_id.hex()] == (build_id or [None])


def test_name_hashes(elf: ElfFile) -> None:
    expected = [
        name_hash(elf.symbol_name(index).encode(errors="surrogateescape"))
        for index in range(len(elf.symbols))
    ]
    assert elf.name_hashes.tolist() == expected


def test_everything_reads(elf: ElfFile) -> None:
    assert touch(elf)["span"] == elf.span


def test_arrays_are_read_only(elf: ElfFile) -> None:
    for value in touch(elf).values():
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable or not value.size
