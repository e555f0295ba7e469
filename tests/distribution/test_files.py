"""Finding ELF files: what counts as one, each once, and who owns it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl.diagnostics import LinkError
from spidl.distribution.files import Root, look, unit_of, walk
from spidl.elf import DT, ET, ElfFile
from spidl.testing import build_dso
from tests.distribution.conftest import deb, elf

Tree = Callable[..., Path]


def test_a_walk_finds_linked_x86_64_files_and_packages_only(tree: Tree) -> None:
    other = bytearray(elf("x"))
    other[18] = 183  # e_machine: AArch64
    relocatable = bytearray(elf("x"))
    relocatable[16] = 1  # ET_REL
    folder = tree(
        "t",
        {
            "b/liba.so": elf("liba.so"),
            "a/prog": elf("prog"),
            "p.deb": deb("p", {}),
            "lib.a": deb("p", {}),
            "text": b"#!/bin/sh\n" * 20,
            "short": elf("x")[:40],
            "arm.so": bytes(other),
            "x.o": bytes(relocatable),
        },
    )
    found = [(os.path.relpath(f.path, folder), f.is_package) for f in walk(str(folder))]
    assert found == [("p.deb", True), ("a/prog", False), ("b/liba.so", False)]


def test_links_are_not_followed_and_an_inode_counts_once(tree: Tree) -> None:
    folder = tree("t", {"sub/liba.so.1": elf("liba.so.1")})
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "sub" / "liba.so").symlink_to("liba.so.1")
    os.link(folder / "sub" / "liba.so.1", folder / "sub" / "again")
    assert len(list(walk(str(folder)))) == 1


def test_links_in_the_folder_are_names_that_others_may_need_a_file_by(tree: Tree) -> None:
    folder = tree("t", {"liba.so.1.2": elf("liba.so.1.2")})
    (folder / "liba.so").symlink_to("liba.so.1")
    (folder / "liba.so.1").symlink_to("liba.so.1.2")
    (folder / "libz.so").symlink_to("libz.so")
    assert [found.links for found in walk(str(folder))] == [("liba.so", "liba.so.1")]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        list(walk(str(tmp_path / "nowhere")))
    assert caught.value.code == "distribution/no-folder"


def test_a_program_is_what_is_started() -> None:
    def is_program(data: bytes) -> bool:
        found = look(ElfFile.parse(data, "x"))
        assert found is not None
        return found.is_program

    interp = "/lib64/ld-linux-x86-64.so.2"
    assert not is_program(elf("liba.so"))
    assert not is_program(build_dso("libc.so.6", {"f": b"\xc3"}, interp=interp))
    assert is_program(build_dso(None, {"f": b"\xc3"}, interp=interp))
    assert is_program(build_dso(None, {"f": b"\xc3"}, type=ET.EXEC, base=0x400000))


def test_runpath_is_kept_and_wins_over_rpath() -> None:
    both = build_dso("a", {"f": b"\xc3"}, tags=[(DT.RPATH, "/r"), (DT.RUNPATH, "$ORIGIN/x:/y")])
    found = look(ElfFile.parse(both, "x"))
    assert found is not None
    assert found.runpath == ("$ORIGIN/x", "/y")


def test_a_file_without_build_id_is_known_by_its_content(tree: Tree) -> None:
    folder = tree("t", {"a": elf("liba.so"), "b": elf("liba.so"), "c": elf("libc.so")})
    units = [unit_of("p", f"/{n}", str(folder / n), 1) for n in "abc"]
    ids = [unit.build_id for unit in units if unit is not None]
    assert ids[0] == ids[1] != ids[2]
    assert all(found.startswith("sha256:") for found in ids)


def test_a_damaged_file_is_a_unit_too(tree: Tree) -> None:
    folder = tree("t", {"a": elf("liba.so")[:200]})
    unit = unit_of("p", "/a", str(folder / "a"), 200)
    assert unit is not None
    assert unit.build_id.startswith("sha256:")


def test_detached_debug_information_is_no_unit(tree: Tree) -> None:
    """It has the build-id of the real file, and none of its code."""
    data = bytearray(build_dso("a", {"f": b"\xc3"}))
    file = ElfFile.parse(bytes(data), "a")
    for at, phdr in enumerate(file.phdrs):
        if phdr["p_type"] == 1:
            where = file.phoff + at * 56 + 32
            data[where : where + 8] = bytes(8)  # p_filesz
    folder = tree("t", {"a.debug": bytes(data)})
    assert unit_of("p", "/a", str(folder / "a.debug"), len(data)) is None


def test_dpkg_says_which_package_owns_a_file(tree: Tree) -> None:
    folder = tree(
        "t",
        {
            "var/lib/dpkg/info/libc6:amd64.list": b"/.\n/lib\n/lib/x/libc.so.6\n",
            "usr/lib/x/libc.so.6": elf("libc.so.6"),
        },
    )
    root = Root(str(folder))
    path = root.path_of(str(folder / "usr/lib/x/libc.so.6"))
    assert path == "/usr/lib/x/libc.so.6"
    assert root.package_of(path) == "libc6"
    assert root.package_of("/opt/x") == "/opt/x"
