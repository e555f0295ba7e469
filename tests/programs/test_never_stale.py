"""What a kept link was made of has changed: the next start shows the change, at once.

Each test first sees the image in use, so that it fails where the check that it is about is gone:
the image would go on and bring the old library.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from spidl import keeping
from spidl.cache.entry import Input, Kept
from spidl.cache.identity import identity
from spidl.cache.store import first_change

from .attack import library, program
from .harness import SOURCE, Outcome, run
from .starts import TELLS, Place, told, value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def in_use(place: Place, env: Mapping[str, str] | None = None) -> None:
    """Linked, and unchanged: the image runs."""
    assert place.start(env) == told(1, "image")
    assert place.never(env) == told(1, "image")


def follows(place: Place, number: int, env: Mapping[str, str] | None = None) -> None:
    """Changed: plainly where nothing may be linked, otherwise through a new image."""
    assert place.never(env) == told(number, "plain")
    assert place.start(env) == told(number, "image")
    assert place.never(env) == told(number, "image")


# -- a file that is another one --------------------------------------------------------------------


def renamed(place: Place, new: Path) -> None:
    os.rename(new, place.lib / "libvalue.so")


def renamed_with_old_times(place: Place, new: Path) -> None:
    """Times that go back: a backup that was put in place, a clock that was set."""
    before = (place.lib / "libvalue.so").stat()
    os.utime(new, ns=(before.st_mtime_ns - 10**18, before.st_mtime_ns - 10**18))
    os.rename(new, place.lib / "libvalue.so")


def renamed_with_the_same_times(place: Place, new: Path) -> None:
    before = (place.lib / "libvalue.so").stat()
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(new, place.lib / "libvalue.so")


def rewritten(place: Place, new: Path) -> None:
    """In place; inode, size and mtime stay, only the change time tells."""
    old = place.lib / "libvalue.so"
    before = old.stat()
    assert new.stat().st_size == before.st_size
    with old.open("r+b") as file:
        file.write(new.read_bytes())
    os.utime(old, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = old.stat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def linked_to(place: Place, new: Path) -> None:
    (place.lib / "libvalue.so").unlink()
    (place.lib / "libvalue.so").symlink_to(new)


@pytest.mark.parametrize(
    "change",
    [renamed, renamed_with_old_times, renamed_with_the_same_times, rewritten, linked_to],
)
def test_another_library(place: Place, change: Callable[[Place, Path], None]) -> None:
    new = value(place.folder / "new", 2)
    in_use(place)
    change(place, new)
    follows(place, 2)


def test_a_library_from_the_future(place: Place) -> None:
    """Its times lie ahead of the clock and stay so: not their order counts."""
    lib, new = place.lib / "libvalue.so", value(place.folder / "new", 2)
    for file in (lib, new):
        os.utime(file, ns=(4 * 10**18, 4 * 10**18))
    in_use(place)
    os.rename(new, lib)
    assert lib.stat().st_mtime_ns == 4 * 10**18
    follows(place, 2)


def test_the_same_library_again(place: Place) -> None:
    """A copy under another inode could be written to behind the old one's back."""
    lib = place.lib / "libvalue.so"
    in_use(place)
    shutil.copy2(lib, place.folder / "copy")
    os.rename(place.folder / "copy", lib)
    follows(place, 1)


@pytest.mark.parametrize("what", ["library's folder", "program"])
def test_a_link_on_the_way_leads_elsewhere(place: Place, what: str) -> None:
    """What an upgrade does that keeps versions side by side."""
    (place.folder / "other").mkdir()
    other = Place(place.folder / "other")
    value(other.lib, 2)
    current = place.folder / "current"
    current.symlink_to(place.lib)
    if what == "program":
        place.main = current / "program"
    else:
        place.main = program(place.lib / "far", TELLS, place.lib / "libvalue.so",
                             f"-Wl,-rpath,{current}")  # fmt: skip
    in_use(place)
    (place.folder / "next").symlink_to(other.lib)
    os.rename(place.folder / "next", current)
    follows(place, 2)


# -- a file that was not there ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rpath", "folder", "there"),
    [
        ("$ORIGIN/first:$ORIGIN", "first", True),
        ("$ORIGIN/first:$ORIGIN", "first", False),
        ("$ORIGIN/a/b/c:$ORIGIN", "a/b/c", False),
        ("$ORIGIN", "glibc-hwcaps/x86-64-v2", False),
    ],
)
def test_a_library_appears_earlier(tmp_path: Path, rpath: str, folder: str, there: bool) -> None:
    """In a folder of RUNPATH that was empty, or not there; and in glibc's own subfolders."""
    place = Place(tmp_path, rpath)
    if there:
        (place.lib / folder).mkdir(parents=True)
    in_use(place)
    value(place.lib / folder, 2)
    follows(place, 2)


@pytest.mark.parametrize("there", [True, False])
def test_a_library_appears_in_the_library_path(place: Place, there: bool) -> None:
    first = place.folder / "first"
    if there:
        first.mkdir()
    in_use(place, {"LD_LIBRARY_PATH": str(first)})
    value(first, 2)
    follows(place, 2, {"LD_LIBRARY_PATH": str(first)})


def test_a_preload_that_was_missing(place: Place) -> None:
    """ld.so only warns about it; so does the image, until it is there."""
    path = place.folder / "libearly.so"
    oracle = place.start({"LD_PRELOAD": str(path)})
    assert b"cannot be preloaded" in oracle.stderr
    library(path, "int value(void) { return 3; }")
    assert place.never({"LD_PRELOAD": str(path)}) == told(3, "plain")
    assert place.start({"LD_PRELOAD": str(path)}) == told(3, "image")


# -- variables and the working folder --------------------------------------------------------------


def test_variables_that_steer_the_linker(place: Place) -> None:
    """Set, unset, set to something else: each start is as under ld.so, each link is kept apart."""
    preloaded = library(place.folder / "libearly.so", "int value(void) { return 3; }")
    value(place.folder / "one", 4)
    path, preload = {"LD_LIBRARY_PATH": str(place.folder / "one")}, {"LD_PRELOAD": str(preloaded)}
    worlds: list[tuple[dict[str, str], int]] = [({}, 1), (preload, 3), (path, 4),
                                                ({**path, **preload}, 3)]  # fmt: skip
    for variables, number in worlds:
        assert place.never(variables) == told(number, "plain")
        assert place.start(variables) == told(number, "image")
    for variables, number in worlds * 2:
        assert place.never(variables) == told(number, "image")
    os.rename(value(place.folder / "new", 5), place.folder / "one/libvalue.so")
    answers = ("1 image", "3 image", "5 plain", "3 plain")
    for (variables, _), answer in zip(worlds, answers, strict=True):
        assert place.never(variables).stdout == f"{answer}\n".encode()


@pytest.mark.parametrize("variable", ["LD_LIBRARY_PATH", "LD_PRELOAD", "RUNPATH"])
def test_another_working_folder(place: Place, variable: str) -> None:
    """A relative path means another library there, and the old one back home."""
    texts = {"LD_LIBRARY_PATH": "none:lib", "LD_PRELOAD": "lib/libvalue.so"}
    variables = {variable: texts[variable]} if variable in texts else {}
    if not variables:
        place.main = program(place.lib / "relative", TELLS, place.lib / "libvalue.so",
                             "-Wl,-rpath,none:lib")  # fmt: skip
    folders = [place.folder / name for name in ("two", "three")]
    for number, folder in enumerate(folders, 2):
        value(folder / "lib", number)
    for number, folder in enumerate(folders * 2, 2):
        # The image of a program with such a RUNPATH serves the folder that it was linked in.
        how = "image" if variables or number % 2 == 0 else "plain"
        assert place.start(variables, cwd=folder) == told(2 + number % 2, how)


# -- Spidl's own part ------------------------------------------------------------------------------


EARLY = """
from spidl.api import COLLECT, Module, Need

class Early(Module):
    def register(self, dso, pipeline):
        if dso.is_root:
            pipeline.weak(COLLECT, self.early)

    def early(self, dso, link):
        return [Need("libearly.so", {path!r}, "a test")]
"""


def early(place: Place, module: Path, number: int) -> None:
    """A module file under which the program's value is ``number``."""
    path = library(
        place.folder / f"{number}/libearly.so", f"int value(void) {{ return {number}; }}"
    )
    module.write_text(EARLY.format(path=str(path)))


def linked_again(place: Place, option: str) -> bool:
    """Whether a start makes another image: where a policy is possible, it always waits for one."""
    before = place.images()[-1].stat().st_ino
    place.start(options=(option,))
    return place.images()[-1].stat().st_ino != before


def test_a_module_is_edited(place: Place) -> None:
    module = place.folder / "early.py"
    early(place, module, 3)
    option = f"--with={module}"
    assert place.start(options=(option,)) == told(3, "image")
    assert not linked_again(place, option)
    early(place, module, 4)
    assert place.start(options=(option,)) == told(4, "image")
    assert not linked_again(place, option)


def test_the_user_s_configuration_appears_and_goes(place: Place) -> None:
    """~/.config/spidl/spidl.toml: absent at first, then there, edited, and away again."""
    config = place.folder / "home/.config/spidl/spidl.toml"
    module = place.folder / "early.py"
    early(place, module, 3)
    in_use(place)
    config.parent.mkdir(parents=True)
    config.write_text(f'pipeline = ["preload", "sysv", "gnu", "musl", "{module}"]\n')
    for _ in range(2):
        assert place.start() == told(3, "image")
    image = place.images()[-1].stat().st_ino
    place.start()
    assert place.images()[-1].stat().st_ino == image
    config.write_text('pipeline = ["preload", "sysv", "gnu", "musl"]\n')
    assert place.start() == told(1, "image")
    config.unlink()
    follows(place, 1)


def test_a_configuration_that_is_named(place: Place) -> None:
    config, module = place.folder / "mine.toml", place.folder / "early.py"
    early(place, module, 3)
    option = f"--config={config}"
    config.write_text('pipeline = ["preload", "sysv", "gnu", "musl"]\n')
    assert place.start(options=(option,)) == told(1, "image")
    assert not linked_again(place, option)
    config.write_text(f'pipeline = ["preload", "sysv", "gnu", "musl", "{module}"]\n')
    assert place.start(options=(option,)) == told(3, "image")
    config.unlink()
    gone = place.start(options=(option,))
    assert (gone.stdout, gone.status) == (b"", 2), gone
    assert b"spidl: error[config/" in gone.stderr, gone


@pytest.mark.parametrize(
    ("installed", "file"),
    [(True, "__init__.py"), (True, "targets/exec/boot.elf"), (False, "modules/gnu/search.py")],
)  # fmt: skip
def test_spidl_is_upgraded(place: Place, installed: bool, file: str) -> None:
    """By an installer, which writes every file anew, or by hand in a source tree."""
    tree = place.folder / "spidl/src"
    shutil.copytree(SOURCE / "spidl", tree / "spidl", ignore=shutil.ignore_patterns("__pycache__"))
    if not installed:
        (tree.parent / "pyproject.toml").touch()
    place.launcher = tree / "spidl/bin/spidl"
    code = (
        f"import sys; sys.path.insert(0, {str(tree)!r}); from spidl.cli.main import entry; entry()"
    )
    place.python = [sys.executable, "-P", "-c", code]
    in_use(place)
    own = tree / "spidl" / file
    shutil.copy(own, place.folder / "new")
    os.rename(place.folder / "new", own)
    if not installed:  # there the next link of whatever program takes notice
        place.start({"LD_LIBRARY_PATH": "/nowhere"})
    follows(place, 1)


# -- clocks ----------------------------------------------------------------------------------------


def test_a_file_of_the_same_tick_is_linked_again(place: Place) -> None:
    """What was written just now could be written to again and keep its times."""
    driver = """
import sys, os
from spidl import keeping, session
once, count, touches = keeping._link_once, 0, int(sys.argv[2])
def touched(request, choice, store):
    global count
    count += 1
    if count <= touches:
        os.utime(sys.argv[3])
    return once(request, choice, store)
keeping._link_once = touched
try:
    keeping.kept_link(session.Request(sys.argv[1]))
    print(count)
except session.LinkError as error:
    print(error.code)
"""
    for touches, answer in ((0, "1"), (1, "2"), (9, "cache/unsteady")):
        shutil.rmtree(place.cache, ignore_errors=True)
        lib = place.lib / "libvalue.so"
        done = run([sys.executable, "-c", driver, str(place.main), str(touches), str(lib)],
                   env=place.environment())  # fmt: skip
        assert done == Outcome(f"{answer}\n".encode(), b"", 0)


def kept_with(changed: int) -> Kept:
    found = (1, 2, 3, 4, changed)
    return Kept(b"", (), (Input("/lib/one", found), Input("/lib/none", None)), None)


def test_what_is_too_young_to_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the kernel's clock may give the same time again."""
    began, tick = 10**18, 20_000_000
    monkeypatch.setattr("spidl.keeping.time.time_ns", lambda: began + 10**9)
    for changed, racy in (
        (began - 2 * tick, False), (began - tick // 2, True), (began, True),
        (began + 10**9, True), (began + 10**9 + tick // 2, True), (began + 10**10, False),
        (0, False),
    ):  # fmt: skip
        assert keeping._is_racy(kept_with(changed), began) == racy


def test_a_clock_that_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equality decides, not order: an input is changed whichever way its times moved."""
    path = tmp_path / "file"
    path.touch()
    now = identity(str(path))
    assert now is not None
    for by in (-(10**18), -1, 1, 10**18):
        for place in (0, 1):
            device, inode, size, *times = now
            times[place] += by
            found = (device, inode, size, times[0], times[1])
            kept = Kept(b"", (), (Input(str(path), found),), None)
            assert first_change(kept) == str(path)
    assert first_change(Kept(b"", (), (Input(str(path), now),), None)) is None
