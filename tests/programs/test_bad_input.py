"""Whatever is given as a program: one clear error, no traceback, no half-written file."""

from __future__ import annotations

import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl.diagnostics import LinkError
from spidl.elf import PT, ElfFile
from spidl.link.environment import Environment
from spidl.link.link import Link
from spidl.modules.gnu import Gnu
from spidl.modules.sysv import SystemV

from .attack import (
    as_nobody,
    compile_to,
    environment,
    library,
    listing,
    one_error,
    open_to_all,
    program,
    spidl_with,
)
from .harness import run

COMMANDS = (
    ("build", "PROG", "-o", "OUT"),
    ("run", "PROG"),
    ("tree", "PROG"),
    ("tree", "--json", "PROG"),
    ("explain", "--json", "PROG"),
)
VALUE = "int value(void) { return 1; }"
ASKS = '#include <stdio.h>\nint value(void); int main(void) { printf("%d\\n", value()); return 0; }'


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints 1, with a library beside it."""
    folder = tmp_path_factory.mktemp("good")
    lib = library(folder / "libvalue.so", VALUE)
    return program(folder / "program", ASKS, lib)


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    """Both in a folder of this test alone."""
    shutil.copytree(good.parent, tmp_path / "copy")
    return tmp_path / "copy" / good.name


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "cache").mkdir(mode=0o700)
    return {"SPIDL_CACHE": str(tmp_path / "cache")}


def without_cache(files: dict[str, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
    """Spidl remembers there why it did not link, until a file changes."""
    return {path: found for path, found in files.items() if path.partition("/")[0] != "cache"}


def everywhere(
    target: Path | str, code: str, cache: dict[str, str], tmp_path: Path, cwd: Path | None = None
) -> None:
    """Each command gives the error, and leaves every folder as it was."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "image").write_text("the old image")
    for command in COMMANDS:
        words = [{"PROG": str(target), "OUT": str(folder / "image")}.get(w, w) for w in command]
        before = listing(tmp_path)
        result = spidl_with(words, cache, cwd=cwd)
        one_error(result, code, as_json="--json" in command, draws=command[0] == "tree")
        after = listing(tmp_path)
        assert not [path for path in after if path.startswith("cache/") and path.endswith(
            (os.path.basename(target), "image"))], "no image"  # fmt: skip
        assert without_cache(after) == without_cache(before)
    assert (folder / "image").read_text() == "the old image"


# -- damaged files ---------------------------------------------------------------------------------


def put(path: Path, offset: int, form: str, value: int) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<" + form, content, offset, value)
    path.write_bytes(content)


def loads(path: Path) -> list[int]:
    """File offsets of the PT_LOAD program headers."""
    elf = ElfFile.open(str(path))
    return [elf.phoff + 56 * i for i, kind in enumerate(elf.phdrs["p_type"]) if kind == PT.LOAD]


def overlap(path: Path) -> None:
    put(path, loads(path)[2] + 16, "Q", 0x1000)


def huge(path: Path) -> None:
    put(path, loads(path)[-1] + 40, "Q", 1 << 60)


def outside(path: Path) -> None:
    put(path, loads(path)[-1] + 12, "I", 1 << 8)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "32-bit": (lambda p: put(p, 4, "B", 1), "parse/wrong-class"),
    "big-endian": (lambda p: put(p, 5, "B", 2), "parse/wrong-machine"),
    "arm": (lambda p: put(p, 18, "H", 183), "parse/wrong-machine"),
    "object-file": (lambda p: put(p, 16, "H", 1), "parse/wrong-type"),
    "huge-segment": (huge, "parse/bad-segment"),
    "segment-outside": (outside, "parse/truncated"),
    "empty": (lambda p: p.write_bytes(b""), "parse/not-elf"),
    "text": (lambda p: p.write_text("hello\n"), "parse/not-elf"),
    "script": (lambda p: p.write_text("#!/bin/sh\necho no\n"), "parse/not-elf"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_program(copy: Path, cache: dict[str, str], tmp_path: Path, damage: str) -> None:
    make, code = DAMAGES[damage]
    make(copy)
    everywhere(copy, code, cache, tmp_path)


@pytest.mark.parametrize("damage", ["empty", "script", "huge-segment"])
def test_damaged_library(copy: Path, cache: dict[str, str], tmp_path: Path, damage: str) -> None:
    make, code = DAMAGES[damage]
    make(copy.parent / "libvalue.so")
    everywhere(copy, code, cache, tmp_path)


@pytest.mark.parametrize("file", ["program", "libvalue.so"])
def test_overlapping_segments(copy: Path, cache: dict[str, str], tmp_path: Path, file: str) -> None:
    """The kernel and ld.so map the later one over the earlier: `run` leaves it to them."""
    overlap(copy.parent / file)
    before = listing(copy.parent)
    for command in (("build", copy, "-o", copy.parent / "image"), ("explain", copy)):
        one_error(spidl_with(command, cache), "parse/bad-segment")
    one_error(spidl_with(["tree", copy], cache), "parse/bad-segment", draws=True)
    oracle = run([str(copy)], env=environment())
    result = spidl_with(["run", copy], cache)
    assert result.status in (2, oracle.status), result
    assert result.stderr.count(b"[parse/bad-segment]") == 1, result
    assert b"Traceback" not in result.stderr
    assert listing(copy.parent) == before


def test_library_for_another_machine_is_passed_over(
    copy: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    """As ld.so does; then there is none."""
    put(copy.parent / "libvalue.so", 18, "H", 183)
    everywhere(copy, "collect/not-found", cache, tmp_path)


def test_zeroes_without_end(copy: Path, tmp_path: Path) -> None:
    """A terabyte of bss is the kernel's business: no image, and no memory taken to find out."""
    put(copy, loads(copy)[-1] + 40, "Q", 1 << 40)
    before = listing(tmp_path)
    image = tmp_path / "image"
    result = spidl_with(
        ["build", copy, "-o", image], limits={resource.RLIMIT_AS: (1 << 32, 1 << 32)}
    )
    assert one_error(result) == "load/too-big"
    assert listing(tmp_path) == before
    oracle = run([str(copy)], env=environment())
    result = spidl_with(["run", copy], {"SPIDL_CACHE": str(tmp_path / "cache")})
    assert result.status == oracle.status
    assert result.stdout == oracle.stdout


@pytest.mark.parametrize("file", ["program", "libvalue.so"])
def test_truncated(copy: Path, cache: dict[str, str], tmp_path: Path, file: str) -> None:
    path = copy.parent / file
    size = max(load.offset + load.filesz for load in ElfFile.open(str(path)).loads)
    for i, length in enumerate((1, 50, 63, 64, 500, size // 2, size - 1)):
        command = COMMANDS[i * 3 % len(COMMANDS)]
        whole = path.read_bytes()
        path.write_bytes(whole[:length])
        before = listing(copy.parent)
        words = [{"PROG": str(copy), "OUT": str(copy.parent / "image")}.get(w, w) for w in command]
        result = spidl_with(words, cache)
        one_error(result, "parse/truncated", as_json="--json" in command,
                  draws=command[0] == "tree")  # fmt: skip
        assert listing(copy.parent) == before
        path.write_bytes(whole)


@pytest.mark.parametrize("file", ["program", "libbare.so"])
def test_truncated_at_every_offset(tmp_path: Path, file: str) -> None:
    bare = ("-nostdlib", "-ffreestanding", "-Wl,-z,noseparate-code", "-Wl,-z,norelro", "-s")
    lib = library(tmp_path / "libbare.so", VALUE, *bare)
    main = program(tmp_path / "program", "int value(void); void _start(void) { value(); }", lib,
                   *bare)  # fmt: skip
    path = tmp_path / file
    needed = max(load.offset + load.filesz for load in ElfFile.open(str(path)).loads)

    def outcome() -> str:
        link = Link(str(main), [SystemV(), Gnu()], Environment())
        try:
            link.run()
        except LinkError as error:
            return error.code
        return "linked"

    codes: dict[str, int] = {}
    for size in range(path.stat().st_size, -1, -1):
        os.truncate(path, size)
        code = outcome()
        codes[code] = codes.get(code, 0) + 1
        expected = "linked" if size >= needed else "parse/truncated" if size else "parse/not-elf"
        passed_over = file == "libbare.so" and 0 < size < 20
        assert code == expected or passed_over, f"{size} bytes give {code}"
    assert codes["parse/truncated"] > 500, codes


# -- what is no program ----------------------------------------------------------------------------


def test_not_there(cache: dict[str, str], tmp_path: Path) -> None:
    everywhere(tmp_path / "absent", "collect/no-program", cache, tmp_path)


@pytest.mark.parametrize("name", ["", "no-such-program-anywhere"])
def test_not_in_the_path(cache: dict[str, str], tmp_path: Path, name: str) -> None:
    everywhere(name, "collect/no-program", cache, tmp_path)


def test_folder(cache: dict[str, str], tmp_path: Path) -> None:
    everywhere(tmp_path, "collect/not-a-program", cache, tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_fifo(cache: dict[str, str], tmp_path: Path, mode: int) -> None:
    os.mkfifo(tmp_path / "fifo", mode)
    everywhere(tmp_path / "fifo", "collect/not-a-program", cache, tmp_path)


def test_device(cache: dict[str, str], tmp_path: Path) -> None:
    everywhere("/dev/null", "collect/not-a-program", cache, tmp_path)


def test_not_executable(copy: Path, cache: dict[str, str], tmp_path: Path) -> None:
    copy.chmod(0o644)
    everywhere(copy, "collect/not-a-program", cache, tmp_path)


@pytest.mark.parametrize("mode", [0o000, 0o311])
def test_no_permission(copy: Path, tmp_path: Path, mode: int) -> None:
    """Neither readable nor executable; executable only: both cannot be linked."""
    open_to_all(copy.parent)
    copy.chmod(mode)
    code = "parse/no-permission" if mode else "collect/not-a-program"
    for command in (("build", copy, "-o", "/tmp/never"), ("tree", copy), ("explain", copy)):
        one_error(as_nobody(command, home=tmp_path), code)
    assert not Path("/tmp/never").exists()


def test_library_without_permission(copy: Path, tmp_path: Path) -> None:
    open_to_all(copy.parent)
    (copy.parent / "libvalue.so").chmod(0)
    result = as_nobody(["tree", "--json", copy], home=tmp_path)
    assert one_error(result, as_json=True) in ("parse/no-permission", "collect/not-found")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_library_that_is_no_file(
    copy: Path, cache: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """And never wait for somebody to write into the FIFO."""
    path = copy.parent / "libvalue.so"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    everywhere(copy, "parse/not-a-file|collect/not-found", cache, tmp_path)


# -- needs -----------------------------------------------------------------------------------------


def runs(main: Path, cache: dict[str, str], expect: bytes) -> None:
    oracle = run([str(main)], env=environment())
    assert (oracle.stdout, oracle.status) == (expect, 0), oracle
    for _ in range(2):
        result = spidl_with(["run", main], {**cache, "SPIDL_VERBOSE": "1"})
        assert result == oracle
    assert spidl_with(["tree", main], cache).status == 0


def test_cyclic_needs(tmp_path: Path, cache: dict[str, str]) -> None:
    """Two libraries that need each other, down to their constructors."""
    one = "int two(void); int value(void) { return two() - 1; } int one(void) { return 1; }"
    two = "int one(void); int two(void) { return one() + 1; }"
    library(tmp_path / "libone.so", one)
    library(tmp_path / "libtwo.so", two, tmp_path / "libone.so")
    library(tmp_path / "libone.so", one, tmp_path / "libtwo.so")
    main = program(tmp_path / "program", ASKS, tmp_path / "libone.so")
    assert ElfFile.open(str(tmp_path / "libone.so")).needed[0] == "libtwo.so"
    assert ElfFile.open(str(tmp_path / "libtwo.so")).needed[0] == "libone.so"
    runs(main, cache, b"1\n")


def test_a_library_that_needs_itself(tmp_path: Path, cache: dict[str, str]) -> None:
    library(tmp_path / "libself.so", VALUE)
    shutil.copy(tmp_path / "libself.so", tmp_path / "stub.so")
    library(tmp_path / "libself.so", VALUE, tmp_path / "stub.so")
    assert "libself.so" in ElfFile.open(str(tmp_path / "libself.so")).needed
    runs(program(tmp_path / "program", ASKS, tmp_path / "libself.so"), cache, b"1\n")


def test_missing_library(copy: Path, cache: dict[str, str], tmp_path: Path) -> None:
    (copy.parent / "libvalue.so").unlink()
    everywhere(copy, "collect/not-found", cache, tmp_path)


def test_missing_symbol(cache: dict[str, str], tmp_path: Path) -> None:
    lib = library(tmp_path / "libvalue.so", "int value = 1;")
    main = program(tmp_path / "program",
                   "extern int value; int main(void) { return value; }", lib)  # fmt: skip
    library(tmp_path / "libvalue.so", "int other;")
    for command in (("run", main), ("build", main, "-o", tmp_path / "image")):
        before = listing(tmp_path)
        one_error(spidl_with(command, cache), "relocate/undefined-symbol")
        assert without_cache(listing(tmp_path)) == without_cache(before)
    one_error(spidl_with(["explain", "--json", main], cache), as_json=True)


def version_map(folder: Path, version: str) -> str:
    path = folder / f"{version}.map"
    path.write_text(version + " { global: *; };\n")
    return f"-Wl,--version-script={path}"


def test_missing_version(cache: dict[str, str], tmp_path: Path) -> None:
    lib = library(tmp_path / "libvalue.so", VALUE, version_map(tmp_path, "V2"))
    main = program(tmp_path / "program", ASKS, lib)
    library(tmp_path / "libvalue.so", VALUE, version_map(tmp_path, "V1"))
    everywhere(main, "collect/no-version", cache, tmp_path)


def test_unversioned_library(cache: dict[str, str], tmp_path: Path) -> None:
    """ld.so warns at each start: there is no image, and `spidl run` shows its warning."""
    lib = library(tmp_path / "libvalue.so", VALUE, version_map(tmp_path, "V1"))
    main = program(tmp_path / "program", ASKS, lib)
    library(tmp_path / "libvalue.so", VALUE)
    one_error(spidl_with(["build", main, "-o", tmp_path / "image"]), "collect/unversioned")
    assert not (tmp_path / "image").exists()
    oracle = run([str(main)], env=environment())
    assert b"no version information" in oracle.stderr
    for _ in range(2):
        assert spidl_with(["run", main], cache) == oracle


def test_static_library_and_shared_object_without_entry(
    good: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    """A library is an ELF file that one may mark executable; it has no program in it."""
    lib = good.parent / "libvalue.so"
    oracle = run([str(lib)], env=environment())
    result = spidl_with(["run", lib], cache)
    assert result.status in (2, oracle.status), result
    assert b"Traceback" not in result.stderr
    compile_to(tmp_path / "object.o", VALUE, "-c")
    (tmp_path / "object.o").chmod(0o755)
    everywhere(tmp_path / "object.o", "parse/wrong-type", cache, tmp_path)
