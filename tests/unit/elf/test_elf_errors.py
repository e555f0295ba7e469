"""Each way a file can be wrong has its code."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_seeds import ANSWER, rich_dso

from spidl.diagnostics import LinkError
from spidl.elf import DT, PT, ElfFile
from spidl.testing.elves import build_dso


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(LinkError) as caught:
        act()
    assert caught.value.diagnostic.place is not None
    return caught.value.code


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, "parse/not-found"),
        (lambda path: path.mkdir(), "parse/not-a-file"),
        (lambda path: os.mkfifo(path), "parse/not-a-file"),
        (lambda path: path.symlink_to("/dev/null"), "parse/not-a-file"),
        (lambda path: path.symlink_to(path), "parse/cannot-read"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "parse/not-a-file"),
        (lambda path: path.write_bytes(b""), "parse/not-elf"),
        (lambda path: path.write_bytes(b"MZ\0\0"), "parse/not-elf"),
        (lambda path: path.write_bytes(b"\x7fEL"), "parse/truncated"),
        (lambda path: path.write_bytes(b"\x7fELF\2\1\1"), "parse/truncated"),
    ],
)
def test_opening(tmp_path: Path, make: Callable[[Path], object], code: str) -> None:
    path = tmp_path / "file"
    make(path)
    assert code_of(lambda: ElfFile.open(str(path))) == code


@pytest.mark.parametrize("path", ["", "a\0b", "/dev/null/x", "x" * 5000, "\ud800"])
def test_names_that_are_no_files(path: str) -> None:
    assert code_of(lambda: ElfFile.open(path)) in ("parse/not-found", "parse/cannot-read")


def test_no_permission(tmp_path: Path) -> None:
    """Root may read everything: there a child opens the file as nobody."""
    path = tmp_path / "file"
    path.write_bytes(rich_dso())
    path.chmod(0)
    tmp_path.chmod(0o755)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(tmp_path)  # the folders above may be root's alone
            if os.geteuid() == 0:
                os.setgroups([])
                nobody = pwd.getpwnam("nobody")
                os.setresgid(*[nobody.pw_gid] * 3)
                os.setresuid(*[nobody.pw_uid] * 3)
            os.write(writer, code_of(lambda: ElfFile.open("file")).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        assert answer.read() == "parse/no-permission"
    os.waitpid(child, 0)


def test_a_script_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text("#!/usr/bin/env python3\nprint()\n")
    with pytest.raises(LinkError, match="script") as caught:
        ElfFile.open(str(path))
    assert "/usr/bin/env python3" in caught.value.diagnostic.notes[0]
    assert caught.value.code == "parse/not-elf"


def test_the_status_is_the_open_file_s(tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(rich_dso())
    elf = ElfFile.open(str(path))
    assert elf.stat is not None
    assert elf.stat.st_ino == path.stat().st_ino
    assert ElfFile.parse(rich_dso(), "memory").stat is None


def patched(offset: int, form: str, value: int, data: bytes | None = None) -> ElfFile:
    content = bytearray(data or rich_dso())
    struct.pack_into("<" + form, content, offset, value)
    return ElfFile.parse(bytes(content), "patched")


@pytest.mark.parametrize(
    ("offset", "form", "value", "code"),
    [
        (4, "B", 1, "wrong-class"),
        (5, "B", 2, "wrong-machine"),
        (6, "B", 0, "bad-header"),
        (7, "B", 9, "wrong-abi"),
        (16, "H", 1, "wrong-type"),
        (16, "H", 4, "wrong-type"),
        (16, "H", 77, "wrong-type"),
        (18, "H", 183, "wrong-machine"),
        (20, "I", 2, "bad-header"),
        (32, "Q", 1 << 63, "truncated"),
        (54, "H", 32, "bad-header"),
        (56, "H", 0, "bad-header"),
        (56, "H", 0xFFFF, "bad-header"),
        # The first PT_LOAD: offset, vaddr, filesz, memsz, align.
        (64 + 8, "Q", 1 << 40, "truncated"),
        (64 + 8, "Q", 8, "bad-segment"),
        (64 + 16, "Q", 1 << 47, "bad-segment"),
        (64 + 16, "Q", 0x5000, "bad-segment"),
        (64 + 16, "Q", (1 << 64) - 4096, "bad-segment"),
        (64 + 32, "Q", 1 << 62, "bad-segment"),
        (64 + 40, "Q", 0x1800, "bad-segment"),
        (64 + 48, "Q", 12288, "bad-segment"),
    ],
)
def test_headers(offset: int, form: str, value: int, code: str) -> None:
    assert code_of(lambda: patched(offset, form, value)) == f"parse/{code}"


def with_tag(tag: int, value: int, also: int | None = None) -> ElfFile:
    """A rich object where a dynamic tag has another value (or where ``also`` became ``tag``)."""
    data = rich_dso()
    elf = ElfFile.parse(data, "x")
    assert elf.dynamic_vaddr is not None
    index = elf.dynamic["d_tag"].tolist().index(tag if also is None else also)
    at = elf.file_offset(elf.dynamic_vaddr) + 16 * index
    content = bytearray(data)
    struct.pack_into("<qQ", content, at, tag, value)
    return ElfFile.parse(bytes(content), "x")


@pytest.mark.parametrize(
    ("tag", "value", "attribute", "code"),
    [
        (DT.STRTAB, 0xDEAD0000, "strings", "outside"),
        (DT.STRSZ, 1 << 40, "needed", "outside"),
        (DT.STRSZ, 4, "needed", "bad-string"),
        (DT.STRSZ, 4, "name_hashes", "bad-string"),
        (DT.NEEDED, 1 << 30, "needed", "bad-string"),
        (DT.SYMTAB, 0xDEAD0000, "symbols", "bad-hash"),
        (DT.SYMENT, 16, "symbols", "bad-dynamic"),
        (DT.GNU_HASH, 0xDEAD0000, "symbols", "outside"),
        (DT.RELA, 0xDEAD0000, "rela", "outside"),
        (DT.RELASZ, 25, "rela", "bad-dynamic"),
        (DT.RELAENT, 16, "rela", "bad-dynamic"),
        (DT.PLTREL, DT.REL, "jmprel", "rel-unsupported"),
        (DT.RELR, 0xDEAD0000, "relr", "outside"),
        (DT.RELRENT, 4, "relr", "bad-dynamic"),
        (DT.INIT_ARRAYSZ, 12, "init_array", "bad-dynamic"),
        (DT.INIT_ARRAY, 0xDEAD0000, "init_array", "outside"),
        (DT.VERSYM, 0xDEAD0000, "versym", "outside"),
        (DT.VERDEF, 0xDEAD0000, "versions", "outside"),
        (DT.VERNEED, 0xDEAD0000, "versions", "outside"),
    ],
)
def test_dynamic_entries(tag: DT, value: int, attribute: str, code: str) -> None:
    elf = with_tag(tag, value)
    assert code_of(lambda: getattr(elf, attribute)) == f"parse/{code}"


def test_rel_is_unsupported() -> None:
    elf = with_tag(DT.REL, 0x1000, also=DT.RUNPATH)
    assert code_of(lambda: elf.rela) == "parse/rel-unsupported"


def test_a_dynamic_section_without_an_end() -> None:
    data = build_dso("x", {"a": ANSWER})
    row = next(
        i for i, kind in enumerate(ElfFile.parse(data, "x").phdrs["p_type"]) if kind == PT.DYNAMIC
    )
    elf = patched(64 + 56 * row + 40, "Q", 32, data)
    assert code_of(lambda: elf.dynamic) == "parse/bad-dynamic"


def test_plt_relocations_inside_rela_are_listed_once() -> None:
    elf = ElfFile.parse(rich_dso(), "x")
    size = elf.tag(DT.RELASZ)
    assert size is not None
    assert elf.tag(DT.JMPREL) == (elf.tag(DT.RELA) or 0) + size, "the builder puts them in a row"
    spanning = with_tag(DT.RELASZ, size + 24)
    assert spanning.rela.tolist() == elf.rela.tolist()
    assert spanning.jmprel.tolist() == elf.jmprel.tolist()


def test_reading_outside() -> None:
    elf = ElfFile.parse(rich_dso(), "x")
    for vaddr, size in [(1 << 63, 8), (-8, 8), (0, 1 << 40), (0, -1), (elf.span[1], 1)]:
        assert code_of(lambda vaddr=vaddr, size=size: elf.read(vaddr, size)) == "parse/outside"
    assert elf.read(0, 4).tobytes() == b"\x7fELF"
    assert len(elf.read(elf.span[1], 0)) == 0
    assert code_of(lambda: elf.symbol_name(1 << 20)) == "parse/bad-symbol"
    assert code_of(lambda: elf.string(-1)) == "parse/bad-string"
