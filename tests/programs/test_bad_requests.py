"""What the user asks for, and where output goes: one clear error, nothing half-written."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import missing

from .attack import (
    NOBODY,
    as_nobody,
    environment,
    library,
    listing,
    one_error,
    open_to_all,
    program,
    spidl_with,
)
from .harness import Outcome, run
from .test_bad_input import ASKS, VALUE


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints 1, with a library beside it."""
    folder = tmp_path_factory.mktemp("good")
    lib = library(folder / "libvalue.so", VALUE)
    return program(folder / "program", ASKS, lib)


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "cache").mkdir(mode=0o700)
    return {"SPIDL_CACHE": str(tmp_path / "cache")}


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


@pytest.mark.parametrize("name", ["program", "libvalue.so", "link", "hard"])
def test_output_that_is_an_input(good: Path, tmp_path: Path, name: str) -> None:
    for file in (good, good.parent / "libvalue.so"):
        shutil.copy2(file, tmp_path)
    (tmp_path / "link").symlink_to("program")
    (tmp_path / "hard").hardlink_to(tmp_path / "program")
    before = listing(tmp_path)
    result = spidl_with(["build", "./program", "-o", f"./{name}"], cwd=tmp_path)
    build_fails(result, tmp_path, before)
    assert run([str(tmp_path / "program")], env=environment()).stdout == b"1\n"


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
        missing(f"no mounts here: {result.stderr.decode()}")
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
