"""Which files a program is linked with: the store's answer against ld.so's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import cache

import pytest

from spidl.distribution.closure import Universe
from spidl.distribution.files import names_of
from spidl.distribution.store import File
from spidl.elf import ElfFile
from tests.needs import tool

PROGRAMS = {
    "ls": "coreutils", "bash": "bash", "git": "git", "sqlite3": "sqlite3", "perl": "perl",
    "openssl": "openssl", "ffmpeg": "ffmpeg", "gdb": "gdb", "clang": "clang", "xz": "xz-utils",
}  # fmt: skip
LD_SO = "/lib64/ld-linux-x86-64.so.2"


def file(path: str, soname: str = "", package: str = "p", *runpath: str) -> File:
    return File(package, path, path, soname, (), False, runpath)


def universe(needed: dict[str, tuple[str, ...]], *files: File) -> Universe:
    return Universe(list(files), lambda build_id: needed.get(build_id, ()))


def paths(found: Universe, root: File) -> list[str]:
    return [member.path for member in found.scope(root).members]


def test_breadth_first_each_once() -> None:
    root = file("/usr/bin/p")
    lib = "/usr/lib/x86_64-linux-gnu"
    files = [file(f"{lib}/lib{n}.so.1.0", f"lib{n}.so.1") for n in "abc"]
    needed = {
        "/usr/bin/p": ("liba.so.1", "libb.so.1"),
        f"{lib}/liba.so.1.0": ("libc.so.1", "libb.so.1", "libz.so.1"),
        f"{lib}/libc.so.1.0": ("liba.so.1",),
    }
    found = universe(needed, root, *files).scope(root)
    assert [m.path for m in found.members] == ["/usr/bin/p", *(f.path for f in files[:3])]
    assert found.missing == ("libz.so.1",)


def test_runpath_comes_before_the_default_folders() -> None:
    root = file("/opt/x/bin/p", "", "x", "$ORIGIN/../lib")
    other = file("/usr/bin/q")
    own = file("/opt/x/lib/liba.so", "liba.so", "x")
    system = file("/lib/x86_64-linux-gnu/liba.so", "liba.so", "a")
    needed = {"/opt/x/bin/p": ("liba.so",), "/usr/bin/q": ("liba.so",)}
    found = universe(needed, root, other, own, system)
    assert paths(found, root)[1:] == [own.path]
    assert paths(found, other)[1:] == [system.path]


def test_what_is_found_nowhere_is_taken_from_the_same_package_first() -> None:
    root = file("/usr/bin/p", "", "mine")
    files = [file("/a/liba.so", "liba.so", "other"), file("/zz/liba.so", "liba.so", "mine")]
    assert paths(universe({"/usr/bin/p": ("liba.so",)}, root, *files), root)[1:] == ["/zz/liba.so"]


def test_a_library_without_soname_is_known_by_its_file_name() -> None:
    root = file("/usr/bin/p")
    plugin = file("/usr/lib/plugin.so")
    assert paths(universe({"/usr/bin/p": ("plugin.so",)}, root, plugin), root)[1:] == [plugin.path]


@cache
def _links(folder: str) -> Mapping[str, str]:
    with os.scandir(folder) as entries:
        return {e.name: os.readlink(e.path) for e in entries if e.is_symlink()}


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_the_scope_is_ld_so_s(name: str) -> None:
    program = os.path.realpath(tool(name, PROGRAMS[name]))
    traced = subprocess.run(
        [LD_SO, "--list", program], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split() for line in traced.splitlines() if "linux-vdso" not in line]
    expected = [os.path.realpath(line[2] if "=>" in line else line[0]) for line in lines]
    everything = {program: ElfFile.open(program)} | {path: ElfFile.open(path) for path in expected}
    links = {path: tuple(names_of(_links(os.path.dirname(path))).get(os.path.basename(path), ()))
             for path in everything}  # fmt: skip
    files = [
        File("p", path, path, elf.soname or "", links[path], False,
             tuple(filter(None, (elf.runpath or elf.rpath or "").split(":"))))
        for path, elf in everything.items()
    ]  # fmt: skip
    found = Universe(files, lambda path: everything[path].needed).scope(files[0])
    assert [member.path for member in found.members[1:]] == expected
    assert found.missing == ()
