"""Attacks on what is trusted: privileges, the cache, the inputs, the machine.

What an image itself must notice when it is started directly is in test_guards.py; here `spidl run`
and its cache come into it, other users, and what changes on the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from spidl.cache.entry import decode
from tests.needs import missing, tool

from .attack import (
    NOBODY,
    as_nobody,
    environment,
    library,
    listing,
    one_error,
    open_to_all,
    plainly,
    program,
    spidl_with,
)
from .harness import Outcome, run

ASKS = '#include <stdio.h>\nint value(void); int main(void) { printf("%d\\n", value()); return 0; }'
IDS = """#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>
int main(void) {
  char line[256];
  FILE *status = fopen("/proc/self/status", "r");
  printf("%d %d %d %d %lu\\n", getuid(), geteuid(), getgid(), getegid(), getauxval(AT_SECURE));
  while (fgets(line, sizeof line, status)) if (!strncmp(line, "CapEff", 6)) fputs(line, stdout);
}"""
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def value(folder: Path, number: int, *flags: str) -> Path:
    return library(folder / "libvalue.so", f"int value(void) {{ return {number}; }}", *flags)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """A program that prints its library's number, in a folder of its own."""
    lib = value(tmp_path / "place", 1)
    return program(tmp_path / "place/program", ASKS, lib)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def start(main: Path, cache: Path, words: Sequence[str | Path] = (), **variables: str) -> Outcome:
    env = {"SPIDL_CACHE": str(cache), "SPIDL_VERBOSE": "1", **variables}
    return spidl_with(["run", main, *words], env)


def images(cache: Path) -> list[Path]:
    """The image of each entry, by time."""
    found = [p for p in cache.glob("images/*/*") if p.name != "entry"]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


# -- privileges ------------------------------------------------------------------------------------


@root_only
@pytest.mark.parametrize("kind", ["user", "group", "capability", "all three"])
def test_privileges_come_from_the_file(tmp_path: Path, kind: str) -> None:
    """Started by nobody: the program has its privileges, and ld.so's secure mode."""
    main = program(tmp_path / "place/ids", IDS)
    open_to_all(main.parent)
    if kind in ("user", "all three"):
        main.chmod(main.stat().st_mode | stat.S_ISUID)
    if kind in ("group", "all three"):
        main.chmod(main.stat().st_mode | stat.S_ISGID)
    if kind in ("capability", "all three"):
        subprocess.run([tool("setcap", "libcap2-bin"), "cap_net_bind_service=ep", main], check=True)
    before = listing(tmp_path)
    result = spidl_with(["build", main, "-o", tmp_path / "image"])
    assert one_error(result) == "exec/privileged"
    assert listing(tmp_path) == before
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    oracle = subprocess.run([main], user=NOBODY.pw_uid, group=NOBODY.pw_gid, extra_groups=[],
                            capture_output=True, check=True, env={})  # fmt: skip
    assert b" 1\n" in oracle.stdout, "AT_SECURE"
    for _ in range(2):
        result = as_nobody(["run", main], home=home)
        assert (result.stdout, result.stderr) == (oracle.stdout, b""), result


@root_only
def test_privileges_that_are_given_later(tmp_path: Path, cache: Path) -> None:
    main = program(tmp_path / "place/ids", IDS)
    assert plainly(start(main, cache), run([str(main)]).stdout) is False
    main.chmod(0o4755)
    result = start(main, cache)
    assert plainly(result, run([str(main)]).stdout)
    assert b"exec/privileged" in result.stderr


# -- another user's cache --------------------------------------------------------------------------


@root_only
def test_another_user_s_cache_is_not_used(main: Path, cache: Path) -> None:
    """What nobody could have planted there must not run as this user."""
    assert start(main, cache).stderr == b""
    for path in (cache, *cache.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    images(cache)[0].write_text("#!/bin/sh\necho attacked\n")
    result = start(main, cache)
    assert (result.stdout, result.status) == (b"1\n", 0), result
    assert result.stderr.startswith(b"spidl: warning[cache/not-private]"), result
    assert b"= help: " in result.stderr
    assert b"attacked" in images(cache)[0].read_bytes(), "nothing is repaired in there"


@root_only
def test_root_s_cache_is_not_nobody_s(main: Path, cache: Path, tmp_path: Path) -> None:
    start(main, cache)
    open_to_all(main.parent)
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o755)
    result = as_nobody(["run", main], {"SPIDL_CACHE": str(cache)}, home=tmp_path)
    assert (result.stdout, result.status) == (b"1\n", 0), result
    assert result.stderr.startswith(b"spidl: warning[cache/not-private]"), result


def test_a_cache_that_others_may_write_to(main: Path, cache: Path) -> None:
    start(main, cache)
    cache.chmod(0o777)
    result = start(main, cache)
    assert (result.stdout, result.status) == (b"1\n", 0), result
    assert result.stderr.startswith(b"spidl: warning[cache/not-private]"), result
    cache.chmod(0o700)
    assert start(main, cache).stderr == b""


def test_a_planted_entry(main: Path, cache: Path, tmp_path: Path) -> None:
    """The place of an entry as a link to a folder elsewhere, and its image as a link."""
    start(main, cache)
    entry = images(cache)[0].parent
    elsewhere = tmp_path / "elsewhere"
    shutil.move(entry, elsewhere)
    (elsewhere / "program").write_text("#!/bin/sh\necho attacked\n")
    entry.symlink_to(elsewhere)
    assert start(main, cache) == Outcome(b"1\n", b"", 0)
    assert not entry.is_symlink()
    real = images(cache)[0]
    real.unlink()
    real.symlink_to(elsewhere / "program")
    assert start(main, cache) == Outcome(b"1\n", b"", 0)


def test_an_image_that_was_changed(main: Path, cache: Path) -> None:
    """Shorter, or as long with other bits: it is not executed."""
    start(main, cache)
    for damage in (
        lambda image: os.truncate(image, 5000),
        lambda image: image.write_bytes(image.read_bytes()[::-1]),
        lambda image: image.write_bytes(b""),
    ):
        before = images(cache)[0].stat().st_ino
        damage(images(cache)[0])
        assert start(main, cache) == Outcome(b"1\n", b"", 0)
        assert images(cache)[0].stat().st_ino != before


@pytest.mark.parametrize("text", [b"", b"SPIDTRY1", b"\0" * 100_000, b"\xff" * 160])
def test_an_entry_that_was_damaged(main: Path, cache: Path, text: bytes) -> None:
    start(main, cache)
    path = images(cache)[0].parent / "entry"
    path.write_bytes(text)
    assert start(main, cache) == Outcome(b"1\n", b"", 0)
    assert decode(path.read_bytes()).image == "program"


def test_an_entry_of_another_program(main: Path, cache: Path, tmp_path: Path) -> None:
    other = program(tmp_path / "other", "int main(void) { return 9; }")
    assert start(main, cache).status == 0
    mine = images(cache)[0].parent
    assert start(other, cache).status == 9
    theirs = images(cache)[-1].parent
    mine.rename(cache / "aside")
    theirs.rename(mine)
    assert start(main, cache) == Outcome(b"1\n", b"", 0)


# -- inputs that change ----------------------------------------------------------------------------


def replaced(main: Path, folder: Path) -> None:
    value(folder / "new", 2)
    os.rename(folder / "new/libvalue.so", main.parent / "libvalue.so")


def rewritten(main: Path, folder: Path) -> None:
    """In place, with size and mtime as before."""
    new, old = value(folder / "new", 2), main.parent / "libvalue.so"
    before = old.stat()
    assert new.stat().st_size == before.st_size
    with old.open("r+b") as file:
        file.write(new.read_bytes())
    os.utime(old, ns=(before.st_atime_ns, before.st_mtime_ns))


def earlier_in_runpath(main: Path, folder: Path) -> None:
    value(main.parent / "first", 2)


CHANGES = {
    "replaced": ("$ORIGIN", replaced),
    "rewritten": ("$ORIGIN", rewritten),
    "earlier in RUNPATH": ("$ORIGIN/first:$ORIGIN", earlier_in_runpath),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_input_is_linked_again(tmp_path: Path, cache: Path, change: str) -> None:
    path, act = CHANGES[change]
    lib = value(tmp_path / "place", 1)
    main = program(tmp_path / "place/program", ASKS, lib, f"-Wl,-rpath,{path}")
    assert start(main, cache) == Outcome(b"1\n", b"", 0)
    old = tmp_path / "old"
    shutil.copy2(images(cache)[0], old)
    act(main, tmp_path)
    verbose = run([str(main)], executable=old, env=environment(SPIDL_VERBOSE="1"))
    assert (verbose.stdout, verbose.status) == (b"2\n", 0), verbose
    assert verbose.stderr.startswith(b"spidl: not as linked: "), verbose
    for _ in range(2):
        assert start(main, cache) == Outcome(b"2\n", b"", 0)
    assert len(images(cache)) == 1


def test_earlier_in_library_path(main: Path, cache: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    main = program(tmp_path / "plain/program", ASKS, main.parent / "libvalue.so",
                   "-Wl,-rpath,/nowhere")  # fmt: skip
    value(second, 7)
    paths = {"LD_LIBRARY_PATH": f"{first}:{second}"}
    assert start(main, cache, **paths) == Outcome(b"7\n", b"", 0)
    image = tmp_path / "old"
    shutil.copy2(images(cache)[0], image)
    value(first, 8)
    env = environment(SPIDL_VERBOSE="1", **paths)
    result = run([str(main)], executable=image, env=env)
    assert (result.stdout, result.status) == (b"8\n", 0), result
    assert result.stderr.startswith(b"spidl: not as linked: file absent when linked"), result
    assert start(main, cache, **paths) == Outcome(b"8\n", b"", 0)


@pytest.mark.parametrize("way", ["LD_LIBRARY_PATH", "RUNPATH", "LD_PRELOAD"])
def test_another_working_folder(main: Path, cache: Path, tmp_path: Path, way: str) -> None:
    """A relative path means another library there; the image must not bring the old one."""
    flags = "-Wl,-rpath,none:lib" if way == "RUNPATH" else "-Wl,-rpath,/nowhere"
    if way == "LD_PRELOAD":
        flags = "-Wl,-rpath,$ORIGIN"
    main = program(main.parent / "relative", ASKS, main.parent / "libvalue.so", flags)
    variables = {"LD_LIBRARY_PATH": {way: "none:lib"}, "RUNPATH": {},
                 "LD_PRELOAD": {way: "lib/libvalue.so"}}[way]  # fmt: skip
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for number, folder in enumerate(folders):
        value(folder / "lib", number)
    value(folders[2] / "none", 3)
    image = tmp_path / "image"
    linked = spidl_with(["build", main, "-o", image], variables, cwd=folders[0])
    assert linked.status == 0, linked
    verbose = {"SPIDL_CACHE": str(cache), "SPIDL_VERBOSE": "1", **variables}
    env = environment(**verbose)
    for folder, expect in zip(folders, (b"0\n", b"1\n", b"3\n"), strict=True):
        if way == "LD_PRELOAD":
            expect = b"2\n" if folder == folders[2] else expect
        assert run([str(main)], cwd=folder, env=env).stdout == expect
        result = run([str(main)], executable=image, cwd=folder, env=env)
        assert plainly(result, expect) == (folder != folders[0]), result
        assert spidl_with(["run", main], verbose, cwd=folder).stdout == expect


@root_only
def test_touched_ld_so_cache(main: Path, cache: Path, tmp_path: Path) -> None:
    """In a mount namespace, so that the machine's own stays as it is."""
    script = """
set -e
cp -p /etc/ld.so.cache "$1/ld.so.cache"
mount --bind "$1/ld.so.cache" /etc/ld.so.cache
shift
"$@"; cp "$IMAGE" "$OLD"
touch "$COPY"
"$OLD"; "$@"; "$@"
"""
    env = environment(SPIDL_CACHE=str(cache), SPIDL_VERBOSE="1", OLD=str(tmp_path / "old"),
                      COPY=str(tmp_path / "ld.so.cache"))  # fmt: skip
    start(main, tmp_path / "warm")
    name = images(tmp_path / "warm")[0].parent.name
    env["IMAGE"] = str(cache / "images" / name / "program")
    command = [sys.executable, "-m", "spidl", "run", str(main)]
    result = run(["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), *command], env=env)
    if b"mount:" in result.stderr or b"unshare:" in result.stderr:
        missing(f"no mounts here: {result.stderr.decode()}")
    assert result.stdout == b"1\n" * 4, result
    assert result.stderr.count(b"spidl: ") == 1, result
    assert b"/etc/ld.so.cache" in result.stderr


# -- a cache that cannot be used -------------------------------------------------------------------


def test_unwritable_home(main: Path, tmp_path: Path) -> None:
    open_to_all(main.parent)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    result = as_nobody(["run", main], home=home)
    assert (result.stdout, result.status) == (b"1\n", 0), result
    assert result.stderr.startswith(b"spidl: warning[cache/cannot-write]"), result
    assert listing(home) == {}


@pytest.mark.parametrize("folder", ["/proc/none", "/dev/null"])
def test_cache_that_cannot_be(main: Path, folder: str) -> None:
    result = start(main, Path(folder))
    assert (result.stdout, result.status) == (b"1\n", 0), result
    assert result.stderr.startswith(b"spidl: warning[cache/"), result


def test_many_at_once(main: Path, cache: Path) -> None:
    """Twenty first starts: all are right, one entry stays, nothing else."""
    env = environment(SPIDL_CACHE=str(cache))
    command = [sys.executable, "-m", "spidl", "run", str(main)]
    running = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(20)
    ]
    for process in running:
        assert process.communicate(timeout=120) == (b"1\n", b"")
        assert process.returncode == 0
    assert len(list((cache / "images").iterdir())) == 1
    assert start(main, cache) == Outcome(b"1\n", b"", 0)


def test_killed_while_linking(main: Path, cache: Path) -> None:
    """At many moments; whatever is left, the next start is right."""
    env = environment(SPIDL_CACHE=str(cache))
    command = [sys.executable, "-m", "spidl", "run", str(main)]
    for step in range(12):
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
        time.sleep(0.04 * step)
        process.send_signal(signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
        assert stdout in (b"", b"1\n")
        assert stderr == b""
        for image in images(cache):
            if not image.parent.name.startswith("."):
                assert run([str(main)], executable=image, env=environment()).stdout == b"1\n"
    assert start(main, cache) == Outcome(b"1\n", b"", 0)
    time.sleep(0.2)
    traced = subprocess.run(["pgrep", "-f", f"^{main}"], capture_output=True, check=False).stdout
    assert traced == b"", "no stopped tracee is left behind"


# -- the environment -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable",
    ["LD_BIND_NOW=1", "LD_LIBRARY_PATH=/nowhere", "GLIBC_TUNABLES=glibc.malloc.perturb=85",
     "MALLOC_PERTURB_=3", "LD_PRELOAD=PLACE/libother.so", "LD_LIBRARY_PATH=PLACE/other"],
)  # fmt: skip
def test_variable_that_the_link_did_not_see(main: Path, cache: Path, variable: str) -> None:
    """`spidl run` links for these variables, and keeps both images apart."""
    library(main.parent / "libother.so", "int value(void) { return 5; }")
    value(main.parent / "other", 6)
    name, _, text = variable.replace("PLACE", str(main.parent)).partition("=")
    assert start(main, cache) == Outcome(b"1\n", b"", 0)
    oracle = run([str(main)], env=environment(**{name: text}))
    for _ in range(2):
        assert start(main, cache, **{name: text}) == oracle
        assert start(main, cache) == Outcome(b"1\n", b"", 0)
    assert len(images(cache)) == 2
