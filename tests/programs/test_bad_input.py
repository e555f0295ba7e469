"""Whatever is given as a program: one clear error, no traceback, no half-written file."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import struct
import subprocess
import sys
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
    NOBODY,
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
from .harness import Outcome, run

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
        after = {k: v for k, v in listing(tmp_path).items() if k not in ("cache/images",)}
        assert after == {k: v for k, v in before.items() if k not in ("cache/images",)}
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


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "32-bit": (lambda p: put(p, 4, "B", 1), "parse/wrong-class"),
    "big-endian": (lambda p: put(p, 5, "B", 2), "parse/wrong-machine"),
    "arm": (lambda p: put(p, 18, "H", 183), "parse/wrong-machine"),
    "object-file": (lambda p: put(p, 16, "H", 1), "parse/wrong-type"),
    "overlapping-segments": (overlap, "parse/bad-segment"),
    "huge-segment": (huge, "parse/bad-segment"),
    "segment-outside": (outside, "parse/truncated"),
    "empty": (lambda p: p.write_bytes(b""), "parse/not-elf"),
    "text": (lambda p: p.write_text("hello\n"), "parse/not-elf"),
    "script": (lambda p: p.write_text("#!/bin/sh\necho no\n"), "parse/not-elf"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_program(
    copy: Path, cache: dict[str, str], tmp_path: Path, damage: str
) -> None:
    make, code = DAMAGES[damage]
    make(copy)
    everywhere(copy, code, cache, tmp_path)


@pytest.mark.parametrize("damage", ["empty", "script", "huge-segment"])
def test_damaged_library(copy: Path, cache: dict[str, str], tmp_path: Path, damage: str) -> None:
    make, code = DAMAGES[damage]
    make(copy.parent / "libvalue.so")
    everywhere(copy, code, cache, tmp_path)


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
        words = [
            {"PROG": str(copy), "OUT": str(copy.parent / "image")}.get(w, w) for w in command
        ]
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
        assert set(listing(tmp_path)) <= {*before, "cache/images"}
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


# -- what else the user says -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "--no-such-option", "PROG"], "cli/usage"),
        (["no-such-command"], "cli/usage"),
        (["build", "PROG"], "cli/usage"),
        (["run"], "cli/usage"),
        (["tree", "--layout=shared", "PROG"], "cli/usage"),
        (["build", "--layout=best", "PROG", "-o", "OUT"], "cli/usage"),
        (["run", "--with", "no-such-module", "PROG"], "register/unknown-module"),
        (["tree", "--with", "no-such-module", "PROG"], "register/unknown-module"),
        (["run", "--with", "./absent.py", "PROG"], "register/no-file"),
        (["run", "--with", "sysv", "PROG"], "register/twice"),
        (["run", "--set", "nonsense", "PROG"], "config/bad-option"),
        (["run", "--set", "sysv.x=1", "PROG"], "config/unknown-key"),
        (["run", "--set", "other.x=1", "PROG"], "config/unknown-module"),
        (["run", "--config", "/no/such/spidl.toml", "PROG"], "config/unreadable"),
        (["run", "--config", "/", "PROG"], "config/unreadable"),
        (["explain", "PROG", "--at", "nowhere"], ""),
    ],
)
def test_command_line(
    good: Path, cache: dict[str, str], tmp_path: Path, words: list[str], code: str
) -> None:
    before = listing(good.parent)
    chosen = [{"PROG": str(good), "OUT": str(tmp_path / "image")}.get(w, w) for w in words]
    one_error(spidl_with(chosen, cache, cwd=good.parent), code)
    assert listing(good.parent) == before
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"pipeline = [", "config/not-toml"),
        (b"\xff\xfe\x00", "config/not-toml"),
        (b"pipelin = []", "config/unknown-key"),
        (b"pipeline = 3", "config/wrong-type"),
        (b'pipeline = ["sysv", "nope"]', "register/unknown-module"),
        (b'pipeline = ["gnu", "sysv"]', "register/order"),
        (b"[modules]\nsysv = 1", "config/wrong-type"),
        (b"[modules.sysv]\nspeed = 1", "config/unknown-key"),
        (b"[modules.absent]\nx = 1", "config/unknown-module"),
    ],
)
def test_settings(
    good: Path, cache: dict[str, str], tmp_path: Path, text: bytes, code: str
) -> None:
    """A broken spidl.toml, where it is looked for without being told."""
    folder = tmp_path / "config/spidl"
    folder.mkdir(parents=True)
    (folder / "spidl.toml").write_bytes(text)
    env = {**cache, "XDG_CONFIG_HOME": str(folder.parent)}
    one_error(spidl_with(["run", good], env), code)
    one_error(spidl_with(["tree", "--json", good], env), code, as_json=True)


HEAD = "from spidl.api import COLLECT, LOAD, POST_LOAD, RELOCATE, Module\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("raise RuntimeError('in import')", "register/broken-module"),
        ("def (", "register/broken-module"),
        ("raise SystemExit(3)", "register/broken-module"),
        ("", "register/no-class"),
        (HEAD + "class M(Module):\n  def register(self, dso, pipeline): 1 / 0", "module/failed"),
        (HEAD + "class M(Module): pass", "module/failed"),
        (HEAD + "class M(Module):\n  def register(self, dso, pipeline):\n"
         "    pipeline.weak(COLLECT, lambda dso, link: [1])", "module/wrong-result"),
        (HEAD + "class M(Module):\n  def register(self, dso, pipeline):\n"
         "    pipeline.strong(LOAD, lambda dso, link: None)", "module/wrong-result"),
        (HEAD + "class M(Module):\n  def register(self, dso, pipeline):\n"
         "    pipeline.weak(POST_LOAD, lambda link: {}['x'])", "module/failed"),
        (HEAD + "class M(Module):\n  def register(self, dso, pipeline):\n"
         "    pipeline.resolver(lambda request, dso, link: 3)", "module/wrong-result"),
    ],
)  # fmt: skip
def test_module_that_fails(
    good: Path, cache: dict[str, str], tmp_path: Path, text: str, code: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    one_error(spidl_with(["run", "--with", path, good], cache), code)
    image = tmp_path / "image"
    one_error(spidl_with(["build", "--with", path, good, "-o", image], cache), code)
    assert not image.exists()


# -- where the output goes -------------------------------------------------------------------------


def build_fails(result: Outcome, folder: Path, before: dict[str, tuple[int, int, int]]) -> None:
    one_error(result, "exec/cannot-write")
    assert listing(folder) == before


@pytest.mark.parametrize("name", ["absent/image", "a-folder", "a-file/image", "fifo", "a" * 300])
def test_output_that_cannot_be(good: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "a-file").write_text("kept")
    os.mkfifo(tmp_path / "fifo")
    before = listing(tmp_path)
    build_fails(spidl_with(["build", good, "-o", tmp_path / name]), tmp_path, before)
    assert (tmp_path / "a-file").read_text() == "kept"


def test_output_to_a_device(good: Path) -> None:
    """As root too, /dev/null must stay what it is."""
    one_error(spidl_with(["build", good, "-o", "/dev/null"]), "exec/cannot-write")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_output_into_a_read_only_folder(good: Path, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    open_to_all(good.parent)
    (tmp_path / "mine").mkdir(mode=0o755)
    (tmp_path / "mine/image").write_text("the old image")
    (tmp_path / "mine").chmod(0o555)
    before = listing(tmp_path / "mine")
    result = as_nobody(["build", good, "-o", tmp_path / "mine/image"], home=tmp_path)
    build_fails(result, tmp_path / "mine", before)


def test_full_disk(good: Path, cache: dict[str, str], tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for it: the write fails in the middle of the image."""
    limits = {resource.RLIMIT_FSIZE: (20000, 20000)}
    image = tmp_path / "image"
    image.write_text("the old image")
    before = listing(tmp_path)
    result = spidl_with(["build", good, "-o", image], limits=limits)
    build_fails(result, tmp_path, before)
    assert image.read_text() == "the old image"
    result = spidl_with(["run", good], cache, limits=limits)
    assert (result.stdout, result.status) == (b"1\n", 0), result
    assert result.stderr.startswith(b"spidl: warning[cache/cannot-write]"), result
    assert not list(Path(cache["SPIDL_CACHE"]).rglob("*program*"))
    assert not list(Path(cache["SPIDL_CACHE"]).rglob(".new-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
def test_full_tmpfs(good: Path, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=48k none "$1" && shift && exec "$@"'
    build = [sys.executable, "-m", "spidl", "build", str(good), "-o", str(tmp_path / "image")]
    after = 'code=$?; ls -A "$0"; exit $code'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path),
               "sh", "-c", f'"$@"; {after}', str(tmp_path), *build]  # fmt: skip
    result = run(command, env=environment())
    if b"unshare" in result.stderr or b"mount:" in result.stderr:
        pytest.skip(f"no mounts here: {result.stderr.decode()}")
    one_error(result, "exec/cannot-write")


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(
    good: Path, cache: dict[str, str], tmp_path: Path, redirection: str
) -> None:
    """Nothing that Spidl opens may end up as the program's standard stream."""
    spidl = f"{sys.executable} -m spidl"
    report = program(tmp_path / "report",
                     """#include <fcntl.h>
#include <stdio.h>
int main(int argc, char **argv) {
  FILE *out = fopen(argv[1], "w");
  for (int i = 0; i < 20; i++) fprintf(out, "%d", i != fileno(out) && fcntl(i, F_GETFD) >= 0);
  return 7;
}""")  # fmt: skip

    def shell(line: str) -> Outcome:
        return run(["sh", "-c", f"{line} {redirection}"], env=environment(**cache))

    assert shell(f"{report} {tmp_path}/plain").status == 7
    for attempt in ("first", "cached"):
        result = shell(f"{spidl} run {report} {tmp_path}/{attempt}")
        assert result.status == 7, result
        assert b"spidl" not in result.stderr, result
        assert (tmp_path / attempt).read_text() == (tmp_path / "plain").read_text()
    assert shell(f"{spidl} build {good} -o {tmp_path}/image").status == 0
    assert run([str(good)], executable=tmp_path / "image", env=environment()).stdout == b"1\n"
    result = shell(f"{spidl} run {tmp_path}/absent")
    assert result.status == 2
    assert b"Traceback" not in result.stderr


def test_output_that_is_full(good: Path) -> None:
    for command in ("tree", "explain"):
        line = f"{sys.executable} -m spidl {command} {good} > /dev/full"
        one_error(run(["sh", "-c", line], env=environment()), "cli/cannot-write")


def test_nobody_links_and_runs(good: Path, tmp_path: Path) -> None:
    """No privilege is needed for anything."""
    open_to_all(good.parent)
    open_to_all(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    if os.geteuid() == 0:
        os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    for _ in range(2):
        result = as_nobody(["run", good], {"SPIDL_VERBOSE": "1"}, home=home)
        assert (result.stdout, result.stderr, result.status) == (b"1\n", b"", 0), result
    kept = list((home / ".cache/spidl/images").iterdir())
    assert len(kept) == 1


def test_subprocess_sees_default_signals(good: Path, cache: dict[str, str]) -> None:
    """Python ignores SIGPIPE and sets LC_CTYPE; the program must not inherit either."""
    for _ in range(2):
        line = f"{sys.executable} -m spidl run /usr/bin/yes | head -n 1"
        result = run(["sh", "-c", line], env=environment(**cache))
        assert (result.stdout, result.stderr) == (b"y\n", b""), result
    bare = {"PYTHONPATH": environment()["PYTHONPATH"], **cache}
    result = run([sys.executable, "-m", "spidl", "run", "/usr/bin/env"], env=bare)
    expected = subprocess.run(["/usr/bin/env"], env=bare, capture_output=True, check=True).stdout
    assert sorted(result.stdout.splitlines()) == sorted(expected.splitlines())


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
