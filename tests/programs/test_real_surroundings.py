"""Enabled names where programs really start: make, git hooks, cron, containers, debuggers.

The program prints ``image`` where its image is mapped; make and git are looked at from their
children, which see in /proc what their parent is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.needs import missing, tool

from .attack import NOBODY, open_to_all
from .harness import Outcome, run
from .starts import Place, compiled_launcher, enable, root_only, told

PARENT = 'grep -q "/images/" /proc/$PPID/maps && echo "by an image" || echo plainly'


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def link(place: Place) -> Path:
    return place.enable(place.folder / "bin")


def shell(place: Place, script: str, *words: str | Path, **variables: str) -> Outcome:
    """A script that finds enabled names first."""
    path = f"{place.folder / 'bin'}:{os.environ['PATH']}"
    return run(["sh", "-ec", script, "sh", *map(str, words)], cwd=place.folder,
               env=place.environment(PATH=path, **variables))  # fmt: skip


def test_make(place: Place, link: Path) -> None:
    """make itself and what it calls, many at once, from the first start on."""
    enable(Path(tool("make", "make")), place.cache, link.parent, "make")
    targets = " ".join(f"t{number}" for number in range(12))
    (place.folder / "Makefile").write_text(
        f"all: {targets}\n\t@{PARENT.replace('$', '$$')}; true\n{targets}:\n\t@program > $@; true\n"
    )
    for expect in (("image", "plain"), ("image",)):
        result = shell(place, "unset MAKEFLAGS MFLAGS MAKELEVEL; rm -f t*; make -j4; cat t*")
        lines = result.stdout.decode().splitlines()
        assert (result.status, result.stderr, len(lines)) == (0, b"", 13), result
        assert lines[0] == "by an image"
        assert {line.split()[1] for line in lines[1:]} <= set(expect), result
        shell(place, "program")


def test_git_commits_with_hooks(place: Place, link: Path) -> None:
    """A commit with three hooks; the result is what git without Spidl makes of it."""
    enable(Path(tool("git", "git")), place.cache, link.parent, "git")
    script = f"""
git init -q "$1"; cd "$1"; git config user.name me; git config user.email me@here
mkdir -p .git/hooks
for hook in pre-commit prepare-commit-msg post-commit; do
  printf '%s\\n' '#!/bin/sh' '{PARENT}' 'program' > .git/hooks/$hook
  chmod +x .git/hooks/$hook
done
echo text > file; git add file
git commit -q -m message 2>&1; git rev-parse HEAD; git fsck
"""
    dates = {"GIT_AUTHOR_DATE": "1000000000 +0000", "GIT_COMMITTER_DATE": "1000000000 +0000",
             "GIT_CONFIG_NOSYSTEM": "1"}  # fmt: skip
    results = []
    for name in ("one", "two"):
        results.append(shell(place, script, name, **dates))
    shutil.rmtree(link.parent)
    link.parent.mkdir()
    os.symlink(place.main, link)
    oracle = shell(place, script, "three", **dates)
    assert oracle.stdout.count(b"plainly\n") == oracle.stdout.count(b"1 plain\n") == 3, oracle
    expect = oracle.stdout.replace(b"plainly", b"by an image").replace(b"1 plain", b"1 image")
    for result in results:
        assert (result.stdout, result.status) == (expect, 0), result
        assert result.stderr == oracle.stderr


def test_cron(place: Place, link: Path) -> None:
    """HOME and nothing else; and not even that."""
    for home in ([f"HOME={place.folder}"], []):
        shutil.rmtree(place.cache, ignore_errors=True)
        line = ["env", "-i", *home, str(link)]
        for _ in range(2):
            assert run(line, cwd=Path("/")) == told(1, "image")


@pytest.mark.parametrize("first", [True, False])
def test_a_service(place: Place, link: Path, first: bool) -> None:
    """No terminal, a session of its own, closed stdin, a folder that nobody can read."""
    if not first:
        assert place.start() == told(1, "image")
    result = run(["setsid", "--wait", "sh", "-c", 'exec "$0" 0<&-', str(link)],
                 env=place.environment(), cwd=Path("/proc"), stdin=None)  # fmt: skip
    assert result == told(1, "image")


def namespace(place: Place, words: Sequence[str], script: str, link: Path) -> list[str]:
    """The lines of a script's output in new namespaces, where everything went well."""
    env = place.environment(LINK=str(link), CACHE=str(place.cache))
    result = run(["unshare", *words, "sh", "-ec", script], env=env, cwd=Path("/"))
    if result.stderr.startswith((b"unshare:", b"mount:")):
        missing(f"no namespaces here: {result}")
    assert (result.stderr, result.status) == (b"", 0), result
    return result.stdout.decode().splitlines()


@root_only
def test_a_container_without_access_to_the_cache(place: Place, link: Path) -> None:
    """Read-only, so that it cannot be touched; then hidden, then with another program inside."""
    assert place.start() == told(1, "image")
    script = """
mount --bind "$CACHE" "$CACHE"; mount -o remount,bind,ro "$CACHE"; "$LINK"
rm -f "$(dirname "$LINK")/../place/none"; touch "$(dirname "$LINK")/../place/libvalue.so"
"$LINK"; "$LINK"
mount -t tmpfs -o ro none "$CACHE"; "$LINK"
"""
    assert namespace(place, ["-m"], script, link) == ["1 image", "1 plain", "1 plain", "1 plain"]


@root_only
def test_a_read_only_root(place: Place, link: Path) -> None:
    """Nothing at all can be written: plainly, or through the image that is there."""
    script = 'mount -o remount,bind,ro /; "$LINK"; "$LINK"'
    assert namespace(place, ["-m"], script, link) == ["1 plain"] * 2
    assert place.start() == told(1, "image")
    assert namespace(place, ["-m"], script, link) == ["1 image"] * 2


@root_only
@pytest.mark.parametrize("relink", ["", "later"])
def test_the_first_process(place: Place, link: Path, relink: str) -> None:
    """PID 1 of a namespace: with it, all that it has left behind ends."""
    words, how = ["-p", "-f", "--mount-proc"], "plain" if relink else "image"
    script = f'export SPIDL_RELINK={relink}; exec "$LINK"'
    assert namespace(place, words, script, link) == [f"1 {how}"]
    assert run([str(link)], env=place.environment()) == told(1, "image")
    assert namespace(place, words, 'exec "$LINK"', link) == ["1 image"]


@root_only
def test_a_user_namespace(tmp_path: Path) -> None:
    """nobody as root of its own namespace: its cache is its own there, root's is not."""
    place = Place(tmp_path)
    place.launcher = compiled_launcher(tmp_path / "launcher")
    open_to_all(place.lib)
    open_to_all(place.launcher.parent)
    assert place.start() == told(1, "image")
    line = [*place.words("run", str(place.main))]
    nobody = ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups",
              "unshare", "-U", "-r"]  # fmt: skip
    env = place.environment(SPIDL_RELINK="never")
    for path in (place.cache, *place.cache.rglob("*")):
        path.chmod(0o755)
    result = run([*nobody, *line], env=env, cwd=Path("/"))
    if result.stderr.startswith(b"unshare:"):
        missing(f"no user namespaces here: {result}")
    assert result == told(1, "plain")
    assert run(["unshare", "-U", "-r", *line], env=place.environment(), cwd=Path("/")) == told(
        1, "image"
    )


# -- tools -----------------------------------------------------------------------------------------


def tools(folder: Path) -> Mapping[str, list[str]]:
    trace, data = str(folder / "trace"), str(folder / "perf.data")
    # -N: perf would link what it saw into ~/.debug, which changes the libraries' ctime.
    return {
        "strace": [tool("strace", "strace"), "-o", trace],
        "strace -f": [tool("strace", "strace"), "-f", "-o", trace],
        "gdb": [tool("gdb", "gdb"), "-batch", "-nx", "-ex", "run", "--args"],
        "perf record": [tool("perf", "linux-perf"), "record", "-q", "-N", "-o", data, "--"],
        "perf stat": [tool("perf", "linux-perf"), "stat", "-o", data],
    }


@pytest.mark.parametrize("name", ["strace", "strace -f", "gdb", "perf record", "perf stat"])
def test_under_a_tool(place: Place, link: Path, name: str) -> None:
    """At the first start, which links where it is not traced itself, and through the image."""
    line = [*tools(place.folder)[name], str(link)]
    traced = name in ("strace -f", "gdb")
    for ways in ({b"1 image", b"1 plain"} if traced else {b"1 image"}, {b"1 image"}):
        result = run(line, env=place.environment(), cwd=place.folder)
        assert result.status == 0, result
        [answer] = [text for text in result.stdout.splitlines() if text.startswith(b"1 ")]
        assert answer in ways, result
        assert place.start() == told(1, "image")
    if name == "strace":
        calls = (place.folder / "trace").read_text()
        assert calls.count("execve") == 2, "the launcher and the image, nothing else"
