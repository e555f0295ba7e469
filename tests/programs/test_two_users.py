"""Nobody executes an image that another user wrote, and the program starts all the same.

What is planted is a perfect entry but for its owner, its permissions or a link on the way: in the
place of the image is a program that says ``attacked``, and `test_the_forgery_is_perfect` sees it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from spidl.cache.entry import decode, encode
from spidl.cache.identity import identity

from .attack import NOBODY, listing, open_to_all, program
from .harness import Outcome, run
from .starts import Place, compiled_launcher, enable, root_only, told

pytestmark = root_only
ATTACKED = Outcome(b"attacked\n", b"", 0)
LEVELS = ("cache", "images", "key", "entry", "image")


@dataclass
class Planted:
    """A place whose cache has another program in the image's place, and the parts of that."""

    place: Place
    template: Path
    evil: Path

    def __post_init__(self) -> None:
        self.path = {"cache": self.place.cache, "images": self.place.cache / "images"}
        [self.path["image"]] = self.place.images()
        self.path["key"] = self.path["image"].parent
        self.path["entry"] = self.path["key"] / "entry"

    def plant(self, user: int = 0) -> None:
        """The forgery, whole, with everything private to ``user``."""
        shutil.rmtree(self.place.cache, ignore_errors=True)
        shutil.copytree(self.template, self.place.cache)
        shutil.copy(self.evil, self.path["image"])
        for path in (self.path["image"], self.path["entry"]):
            os.chown(path, user, user)
            path.chmod(0o700)
        self.forge()
        for level in ("key", "images", "cache"):
            os.chown(self.path[level], user, user)
            self.path[level].chmod(0o700)

    def forge(self) -> None:
        """Say in the entry that the image is as it was written."""
        kept = decode(self.path["entry"].read_bytes())
        with self.path["entry"].open("r+b") as file:
            file.write(encode(replace(kept, written=identity(str(self.path["image"])))))

    def start(self, user: int = 0, more: Mapping[str, str] | None = None) -> Outcome:
        line = self.place.words("run", str(self.place.main))
        env = self.place.environment(SPIDL_RELINK="never", **(more or {}))
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *line]
        return run(command if user else line, env=env, cwd=Path("/"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("planted")
    place = Place(folder)
    place.launcher = compiled_launcher(folder / "launcher")
    assert place.start() == told(1, "image")
    template = folder / "template"
    shutil.copytree(place.cache, template)
    evil = program(folder / "evil", '#include <stdio.h>\nint main(void) { puts("attacked"); }')
    open_to_all(place.lib)
    open_to_all(place.launcher.parent)
    return Planted(place, template, evil)


def test_the_forgery_is_perfect(planted: Planted) -> None:
    """Whoever owns all of it executes it: what the other tests change is what decides."""
    planted.plant()
    assert planted.start() == ATTACKED
    planted.plant(NOBODY.pw_uid)
    assert planted.start(NOBODY.pw_uid) == ATTACKED


@pytest.mark.parametrize("level", [*LEVELS, "all"])
@pytest.mark.parametrize("user", [0, NOBODY.pw_uid], ids=["root", "nobody"])
def test_another_owner(planted: Planted, user: int, level: str) -> None:
    """Of one part, or of all of it."""
    planted.plant(user)
    for name in LEVELS if level == "all" else (level,):
        os.chown(planted.path[name], NOBODY.pw_uid - user, -1)
        planted.path[name].chmod(0o755)  # it can be reached: only its owner tells
    planted.forge()
    assert planted.start(user) == told(1, "plain")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
@pytest.mark.parametrize("level", LEVELS)
def test_others_may_write(planted: Planted, level: str, mode: int) -> None:
    planted.plant()
    planted.path[level].chmod(mode)
    planted.forge()
    assert planted.start() == told(1, "plain")


@pytest.mark.parametrize("level", LEVELS)
def test_a_planted_link(planted: Planted, level: str) -> None:
    """To another user's; and below the two folders, even to something of one's own."""
    for user, believed in ((NOBODY.pw_uid, False), (0, level in ("cache", "images"))):
        planted.plant()
        path, aside = planted.path[level], planted.place.folder / "aside"
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        os.rename(path, aside)
        path.symlink_to(aside)
        os.chown(aside, user, -1)
        os.lchown(path, user, user)
        planted.forge()
        assert planted.start() == (ATTACKED if believed else told(1, "plain"))
        path.unlink()


def test_sudo_with_another_user_s_home(planted: Planted) -> None:
    """Root with nobody's HOME and nobody's cache in it, at the place where its own would be."""
    home = planted.place.folder / "nobodys"
    (home / ".cache").mkdir(parents=True)
    planted.plant(NOBODY.pw_uid)
    shutil.copytree(planted.place.cache, home / ".cache/spidl")
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    paths = dict(planted.path)
    planted.path = {k: home / ".cache/spidl" / p.relative_to(planted.place.cache)
                    for k, p in paths.items()}  # fmt: skip
    planted.forge()
    planted.path = paths
    # A key of the same name: it says where spidl.toml would be.
    variables = {"HOME": str(home), "SPIDL_CACHE": "",
                 "XDG_CONFIG_HOME": str(planted.place.folder / "home/.config")}  # fmt: skip
    assert planted.start(NOBODY.pw_uid, variables) == ATTACKED
    assert planted.start(more=variables) == told(1, "plain")
    env = planted.place.environment(**variables)
    line = planted.place.words("run", str(planted.place.main))
    result = run(line, env=env)
    assert result.stdout == b"1 plain\n", result
    assert result.stderr.startswith(b"spidl: warning[cache/not-private]"), result


@pytest.mark.parametrize("below", ["", ".cache"])
def test_sudo_leaves_nothing_in_another_user_s_home(planted: Planted, below: str) -> None:
    """A cache of root's own there would lie in folders that its owner can exchange."""
    place, home = planted.place, planted.place.folder / f"empty{below}"
    (home / below).mkdir(parents=True)
    for path in (home, home / below):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    before = listing(home)
    env = place.environment(HOME=str(home), SPIDL_CACHE="")
    result = run(place.words("run", str(place.main)), env=env)
    assert (result.stdout, result.status) == (b"1 plain\n", 0), result
    assert result.stderr.startswith(b"spidl: warning[cache/not-private]"), result
    link = enable(place.main, home / ".cache/spidl", place.folder / "sudo-bin", "program")
    del env["SPIDL_CACHE"]
    assert run([str(link)], env=env) == told(1, "plain")
    assert b"cannot be written to" in run([str(link)], env={**env, "SPIDL_VERBOSE": "1"}).stderr
    assert listing(home) == before


def test_a_link_in_another_user_s_home_is_not_followed(planted: Planted) -> None:
    """~/.cache/spidl leads root to a folder of its own: nothing is written there."""
    place, home = planted.place, planted.place.folder / "leading"
    (home / ".cache").mkdir(parents=True)
    target = place.folder / "target"
    target.mkdir(mode=0o700)
    (home / ".cache/spidl").symlink_to(target)
    for path in (home, home / ".cache", home / ".cache/spidl"):
        os.lchown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    env = place.environment(HOME=str(home), SPIDL_CACHE="")
    result = run(place.words("run", str(place.main)), env=env)
    assert result.stdout == b"1 plain\n", result
    assert list(target.iterdir()) == []


SWAPS = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
  if (argc != 3 || setuid(65534)) return 1;
  for (;;) if (renameat2(AT_FDCWD, argv[1], AT_FDCWD, argv[2], RENAME_EXCHANGE)) return 2;
}"""


@contextmanager
def swapping(one: Path, other: Path, tool: Path) -> Iterator[None]:
    process = subprocess.Popen([tool, one, other])
    try:
        yield
        assert process.poll() is None, "it swapped all the time"
    finally:
        process.kill()
        process.wait()


def test_what_was_checked_is_what_is_executed(planted: Planted) -> None:
    """Nobody exchanges two folders all the time: root's own cache, and a forgery."""
    shared = planted.place.folder / "shared"
    shared.mkdir()
    os.chown(shared, NOBODY.pw_uid, NOBODY.pw_gid)
    own, evil = shared / "own", shared / "evil"
    planted.plant(NOBODY.pw_uid)
    shutil.copytree(planted.place.cache, evil)
    shutil.copytree(planted.template, own)
    for path in (evil, *evil.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    [image] = own.glob("images/*/program")
    entry = image.parent / "entry"
    kept = decode(entry.read_bytes())
    entry.write_bytes(encode(replace(kept, written=identity(str(image)))))
    tool = program(planted.place.folder / "swaps", SWAPS)
    assert planted.start(more={"SPIDL_CACHE": str(own)}) == told(1, "image")
    with swapping(own, evil, tool):
        results = [planted.start(more={"SPIDL_CACHE": str(own)}) for _ in range(400)]
    assert {r.stdout for r in results} <= {b"1 image\n", b"1 plain\n"}
    assert b"1 image\n" in {r.stdout for r in results}


# -- enabled names ---------------------------------------------------------------------------------


@pytest.fixture
def enabled(planted: Planted, tmp_path: Path) -> Path:
    """A name that is enabled for the program that says ``attacked``."""
    open_to_all(tmp_path)
    return enable(planted.evil, tmp_path / "none", tmp_path / "bin", "program")


def by_name(planted: Planted, link: Path, user: int = 0, **variables: str) -> Outcome:
    """Start it as a shell does that finds it first in PATH, and the real program behind it."""
    env: Mapping[str, str] = planted.place.environment(
        SPIDL_RELINK="never", PATH=f"{link.parent}:{planted.place.lib}:/usr/bin", **variables
    )
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", link.name]
    return run(command if user else [link.name], env=env, cwd=Path("/"))


def as_reachable(planted: Planted, link: Path) -> None:
    link.unlink()
    link.symlink_to(planted.place.launcher.parent / "program-launcher")
    target = planted.place.launcher.parent / "program-launcher"
    if not target.exists():
        os.link(planted.place.launcher, target)


@pytest.mark.parametrize("level", ["folder", "file", "link to the file"])
def test_an_enabled_name_that_others_may_have_written(
    planted: Planted, enabled: Path, level: str
) -> None:
    """The next of its name in PATH is started, as if the name were not there."""
    as_reachable(planted, enabled)
    assert by_name(planted, enabled) == ATTACKED
    folder = enabled.parent / ".spidl"
    path = folder if level == "folder" else folder / "program"
    if level == "link to the file":
        os.rename(path, enabled.parent / "aside")
        path.symlink_to(enabled.parent / "aside")
    else:
        for mode in (0o720, 0o702):
            path.chmod(mode)
            assert by_name(planted, enabled) == told(1, "plain")
        path.chmod(0o700)
        assert by_name(planted, enabled) == ATTACKED
        os.chown(path, NOBODY.pw_uid, -1)
    assert by_name(planted, enabled) == told(1, "plain")


def test_enabled_by_another_user(planted: Planted, enabled: Path) -> None:
    """Root's names in nobody's PATH, and nobody's in root's (sudo with PATH kept)."""
    as_reachable(planted, enabled)
    for mode in (0o700, 0o755):
        (enabled.parent / ".spidl").chmod(mode)
        assert by_name(planted, enabled, NOBODY.pw_uid) == told(1, "plain")
    for path in (enabled.parent, *enabled.parent.rglob("*")):
        os.lchown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    assert by_name(planted, enabled, NOBODY.pw_uid) == ATTACKED
    assert by_name(planted, enabled) == told(1, "plain")


def test_two_installations_in_one_path(planted: Planted, tmp_path: Path) -> None:
    """Names that nobody here enabled, of two launchers: they do not start each other for ever."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        compiled_launcher(folder)
        os.rename(folder / "spidl", folder / "program")
    path = f"{folders[0]}:{folders[1]}:{planted.place.lib}"
    env = planted.place.environment(PATH=path, SPIDL_RELINK="never")
    for argv in (["program"], [str(folders[1] / "program")]):
        result = run(argv, executable=folders[1] / "program", env=env, timeout=10)
        assert result == told(1, "plain")
