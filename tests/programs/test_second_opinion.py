"""A fault of Spidl's must not keep a program from starting that starts without it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.needs import missing

from .attack import (
    NOBODY,
    as_nobody,
    environment,
    library,
    one_error,
    open_to_all,
    plainly,
    program,
    spidl_with,
)
from .harness import SOURCE, Outcome, run

SAYS = '#include <stdio.h>\nint main(void) { puts("here"); return 3; }'
FAULTS = {
    "adopt/differs": "from spidl.diagnostics import LinkError\n"
    "def broken(*a, **k): raise LinkError('adopt/differs', 'made up', help='none')\n"
    "import spidl.targets.exec.adopt as m; m.compare = broken",
    "internal/fault": "def broken(*a, **k): raise IndexError('made up')\n"
    "import spidl.targets.exec.adopt as m; m.compare = broken",
    "collect/not-found": "import spidl.modules.gnu as gnu, spidl.modules.gnu.search as m\n"
    "from spidl.api import Need\n"
    "def broken(name, dso, link): return Need(name, None, found='nowhere')\n"
    "m.find = gnu.find = broken",
    "module/failed": "import spidl.modules.sysv as m\n"
    "def broken(*a): raise IndexError('made up')\n"
    "m.relocate = broken",
}
NOTHING = (
    "from spidl.api import Module\nclass Nothing(Module):\n    name = 'nothing'\n"
    "    def register(self, dso, pipeline): pass\n"
)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return program(tmp_path / "program", SAYS)


def with_fault(code: str, folder: Path, *words: str | Path) -> Outcome:
    """Spidl's command line with one of its functions broken."""
    (folder / "fault").mkdir(exist_ok=True)
    (folder / "fault/sitecustomize.py").write_text(FAULTS[code])
    paths = f"{folder / 'fault'}:{SOURCE}"
    return spidl_with(words, {"PYTHONPATH": paths, "SPIDL_CACHE": str(folder / "cache")})


@pytest.mark.parametrize("code", FAULTS)
def test_the_program_starts_all_the_same(main: Path, tmp_path: Path, code: str) -> None:
    for _ in range(2):
        result = with_fault(code, tmp_path, "run", main)
        assert (result.stdout, result.status) == (b"here\n", 3), result
        assert result.stderr.startswith(f"spidl: warning[{code}]: ".encode()), result
        assert b"plain way" in result.stderr
    built = with_fault(code, tmp_path, "build", main, "-o", tmp_path / "image")
    assert (built.status, built.stdout) == (2, b""), built
    assert f"spidl: error[{code}]".encode() in built.stderr


def test_a_link_of_the_users_own_making_stays_an_error(main: Path, tmp_path: Path) -> None:
    module = tmp_path / "nothing.py"
    module.write_text(NOTHING)
    result = with_fault("adopt/differs", tmp_path, "run", "--with", module, main)
    assert one_error(result) == "adopt/differs"


def test_both_agree(tmp_path: Path) -> None:
    """What ld.so refuses as well is one clear error, Spidl's."""
    lib = library(tmp_path / "libvalue.so", "int value = 1;")
    main = program(tmp_path / "program",
                   "extern int value; int main(void) { return value; }", lib)  # fmt: skip
    cache = {"SPIDL_CACHE": str(tmp_path / "cache")}
    library(tmp_path / "libvalue.so", "int other;")
    assert run([str(main)], env=environment()).status == 127
    assert one_error(spidl_with(["run", main], cache)) == "relocate/undefined-symbol"
    lib.unlink()
    assert run([str(main)], env=environment()).status == 127
    assert one_error(spidl_with(["run", main], cache)) == "collect/not-found"


def test_a_32_bit_program_is_left_alone(main: Path, tmp_path: Path) -> None:
    content = bytearray(main.read_bytes())
    content[4], content[18] = 1, 3  # ELFCLASS32, EM_386
    main.write_bytes(content)
    result = spidl_with(["build", main, "-o", tmp_path / "image"])
    assert one_error(result) == "parse/wrong-class"
    assert b"refused" in result.stderr


def test_a_32_bit_program_that_becomes_one_of_64_bits(main: Path, tmp_path: Path) -> None:
    """What was refused is asked again once the file is another."""
    whole = main.read_bytes()
    main.write_bytes(whole[:4] + b"\1" + whole[5:18] + b"\3" + whole[19:])
    env = {"SPIDL_CACHE": str(tmp_path / "cache"), "SPIDL_VERBOSE": "1"}
    refused = spidl_with(["run", main], env)
    assert b"refused[parse/wrong-class]" in refused.stderr, refused
    main.write_bytes(whole)
    result = spidl_with(["run", main], env)
    assert (result.stdout, result.stderr, result.status) == (b"here\n", b"", 3), result


def test_a_library_of_32_bits_that_becomes_one_of_64(tmp_path: Path) -> None:
    """A file that the search passes over decides the link as well."""
    first = library(tmp_path / "first/libvalue.so", "int value(void) { return 1; }")
    library(tmp_path / "second/libvalue.so", "int value(void) { return 2; }")
    main = program(tmp_path / "program",
                   '#include <stdio.h>\nint value(void);\n'
                   'int main(void) { printf("%d\\n", value()); return 0; }',
                   first, "-Wl,-rpath,$ORIGIN/first:$ORIGIN/second")  # fmt: skip
    env = {"SPIDL_CACHE": str(tmp_path / "cache"), "SPIDL_VERBOSE": "1"}
    whole = first.read_bytes()
    first.write_bytes(whole[:4] + b"\1" + whole[5:18] + b"\3" + whole[19:])
    image = tmp_path / "image"
    assert spidl_with(["build", main, "-o", image], env).status == 0
    assert spidl_with(["run", main], env).stdout == b"2\n"
    first.write_bytes(whole)
    assert spidl_with(["run", main], env).stdout == b"1\n"
    assert plainly(run([str(main)], executable=image, env=environment(**env)), b"1\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="a file of another user's takes root")
def test_a_program_that_one_may_execute_but_not_read(main: Path, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    main.chmod(0o111)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    result = as_nobody(["run", main], home=home)
    assert (result.stdout, result.status) == (b"here\n", 3), result
    assert result.stderr.startswith(b"spidl: warning[parse/no-permission]: "), result


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize("policy", [False, True])
def test_a_cache_on_a_file_system_without_execution(
    main: Path, tmp_path: Path, policy: bool
) -> None:
    (tmp_path / "cache").mkdir()
    module = tmp_path / "nothing.py"
    module.write_text(NOTHING.replace("    def", "    policy = True\n    def"))
    words = ["--with", str(module)] if policy else []
    script = 'mount -t tmpfs -o noexec,mode=700 none "$0" && exec "$@"'
    cache = str(tmp_path / "cache")
    command = ["unshare", "-m", "sh", "-c", script, cache,
               sys.executable, "-m", "spidl", "run", *words, str(main)]  # fmt: skip
    result = run(command, env=environment(SPIDL_CACHE=cache))
    if b"unshare:" in result.stderr or b"mount:" in result.stderr:
        missing(f"no mounts here: {result.stderr.decode()}")
    if policy:
        assert one_error(result) == "start/exec"
    else:
        assert (result.stdout, result.status) == (b"here\n", 3), result
        assert result.stderr.startswith(b"spidl: warning[start/exec]: "), result
