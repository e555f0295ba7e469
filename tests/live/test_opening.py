"""Private libraries that open others: beside glibc, which does it for libraries of its own."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from ctypes import CFUNCTYPE, byref, c_char_p, c_int, c_long, c_void_p
from pathlib import Path
from typing import Any

import pytest

from spidl import live
from spidl.live import process
from tests.live.conftest import Build, Script

NOW, NOLOAD, DEEPBIND, GLOBAL, NODELETE = 2, 4, 8, 0x100, 0x1000
NEXT = 2**64 - 1
BASE, NEW = 0, -1
LMID, ORIGIN = 1, 6


class Opener:
    """opener.c in ctypes' terms; ``function`` is a `live.Library`'s."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.opens = function("opens", c_void_p, [c_char_p, c_int])
        self.opens_by_pointer = function("opens_by_pointer", c_void_p, [c_char_p, c_int])
        self.opens_apart = function("opens_apart", c_void_p, [c_long, c_char_p, c_int])
        self.finds = function("finds", c_void_p, [c_void_p, c_char_p])
        self.finds_version = function("finds_version", c_void_p, [c_void_p, c_char_p, c_char_p])
        self.closes = function("closes", c_int, [c_void_p])
        self.says = function("says", c_char_p, [])
        self.informs = function("informs", c_int, [c_void_p, c_int, c_void_p])
        self.file_of = function("file_of", c_char_p, [c_void_p])
        self.in_threads = function("in_threads", c_long, [c_char_p])

    def call(self, handle: int | None, name: bytes) -> int:
        """A function without arguments that dlsym finds."""
        return int(CFUNCTYPE(c_int)(self.finds(handle, name))())


def _built(build: Build, own: int = 2) -> Path:
    path = build("opener.c", f"-DOWN={own}", name="opener")
    build("plug.c", "-DNUMBER=1", "-lopener", name="plug")
    return path


@pytest.mark.usefixtures("each_way")
def test_what_a_library_opens_comes_into_its_namespace(build: Build, tmp_path: Path) -> None:
    ones = []
    for own in (2, 5):
        (tmp_path / str(own)).mkdir()
        for path in (_built(build, own), tmp_path / "libplug.so"):
            path.rename(tmp_path / str(own) / path.name)
        ones.append(live.load(tmp_path / str(own) / "libopener.so"))
    for library, own in zip(ones, (2, 5), strict=True):
        opener = Opener(library.function)
        handle = opener.opens(b"libplug.so", NOW)  # $ORIGIN of the opener
        assert opener.says() is None
        assert opener.call(handle, b"plug") == 40 + own
        assert [member.name for member in library.namespace.members] == [
            "libopener.so", "libplug.so",
        ]  # fmt: skip
        assert opener.opens_by_pointer(b"libplug.so", NOW) == handle
        assert os.path.samefile(
            opener.file_of(opener.finds(handle, b"plug")),
            Path(library.path).with_name("libplug.so"),
        )
        assert (opener.closes(handle), opener.closes(handle)) == (0, 0)
        library.namespace.sweep()
        assert [member.name for member in library.namespace.members] == ["libopener.so"]
    for library in ones:
        library.close()
        assert library.namespace.members == []


def test_bindings_say_who_answers(build: Build) -> None:
    with live.load(_built(build)) as library:
        (found,) = (item for item in live.libraries() if item.path == library.path)
        by_name = {binding.name: binding for binding in found.bindings}
        for name in ("dlopen", "dlmopen", "dlclose", "dlsym", "dlvsym", "dlinfo"):
            assert (by_name[name].module, by_name[name].provider) == ("live", None)
        assert str(by_name["dlerror"].provider).endswith("libc.so.6")
        finds = Opener(library.function).finds
        assert finds(None, b"dlopen") == by_name["dlopen"].address


STEPS = """
import ctypes, os, sys
from ctypes import CFUNCTYPE, c_char_p, c_int, c_long, c_void_p
from spidl import live
from tests.live.test_opening import *

folder, way = Path(sys.argv[1]), sys.argv[2]
os.chdir(folder)
if way == "live":
    library = live.load(folder / "libopener.so")
    function = library.function
else:
    native = ctypes.CDLL(str(folder / "libopener.so"))
    def function(name, restype, argtypes):
        found = native[name]
        found.restype, found.argtypes = restype, argtypes
        return found
opener = Opener(function)

def opened(name, mode=NOW):
    handle = opener.opens(name, mode)
    print(name, mode, bool(handle), (opener.says() is None) == bool(handle))
    return handle

def number(handle, name):
    print(name, opener.call(handle, name))

def there(*names):
    print(*(bool(opener.opens(n, NOW | NOLOAD) and opener.says() is None) for n in names))

def found(handle, *names):
    print(*(bool(opener.finds(handle, n)) for n in names))
    opener.says()

one = opened(b"libone.so")
two = opened(b"libtwo.so")
for handle in (one, two):  # RTLD_LOCAL: each sees its own
    number(handle, b"common"), number(handle, b"sees")
found(None, b"common", b"answer", b"puts", b"nobody")
found(NEXT, b"common", b"answer", b"puts")
print(opener.closes(two))
there(b"libone.so", b"libtwo.so", b"libthree.so")
opened(b"libone.so", NOW | GLOBAL)
found(None, b"common"), found(NEXT, b"common")
two = opened(b"libtwo.so")
number(two, b"sees")  # the global one's comes first
print(opener.closes(two))
three = opened(b"libthree.so", NOW | DEEPBIND)
number(three, b"sees")
number(opener.opens(None, NOW), b"answer") if way == "live" else print(b"answer", 2)
opened(b""), opened(b"libtwo.so", 0), opened(b"libnobody.so"), opened(b"./libthree.so")
opened(b"$ORIGIN/libthree.so"), opened(b"${ORIGIN}/../nowhere.so")
opened(b"/nowhere/$ORIGIN/x"), opened(bytes(range(1, 256)) * 20), opened(b"damaged.so")
opened(b"lacks.so"), opened(b"libneeds.so")
libc = opened(b"libc.so.6")
found(libc, b"puts", b"nobody")
print(libc == ctypes.CDLL("libc.so.6")._handle)
version = opener.finds_version
print(bool(version(libc, b"memcpy", b"GLIBC_2.14")), version(libc, b"memcpy", b"GLIBC_2.13"))
print(bool(version(None, b"memcpy", b"GLIBC_2.14")), version(None, b"memcpy", b"X"))
kept = opened(b"libfour.so", NOW | NODELETE)
print(opener.closes(kept))
there(b"libfour.so")
"""


def test_every_mode_does_what_it_does_for_a_library_of_glibcs(
    build: Build, script: Script, tmp_path: Path
) -> None:
    build("opener.c", "-DOWN=2", name="opener")
    for number, name in enumerate(("one", "two", "three", "four"), 1):
        build("plug.c", f"-DNUMBER={number}", "-lopener", name=name)
    (tmp_path / "damaged.so").write_bytes((tmp_path / "libone.so").read_bytes()[:300])
    build("plug.c", "-DNUMBER=1", "-Dplug=nobody_else(void);int plug", "-lopener", name="lacks")
    (tmp_path / "liblacks.so").rename(tmp_path / "lacks.so")
    build("plug.c", "-DNUMBER=1", "-lfour", "-lopener", name="needs")
    variables = {"PYTHONPATH": str(Path(__file__).parents[2])}
    privately, natively = (script(STEPS, tmp_path, way, **variables) for way in ("live", "native"))
    assert privately == natively


def test_two_namespaces_with_the_same_names(build: Build, tmp_path: Path) -> None:
    folders = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        build("opener.c", f"-DOWN={number}", name="opener")
        build("plug.c", f"-DNUMBER={number}", "-lopener", name="plug")
        for name in ("libopener.so", "libplug.so"):
            (tmp_path / name).rename(folder / name)
        folders.append(folder)
    libraries = [live.load(folder / "libopener.so") for folder in folders]
    openers = [Opener(library.function) for library in libraries]
    handles = [opener.opens(b"libplug.so", NOW | GLOBAL) for opener in openers]
    assert len(set(handles)) == 2
    for number, opener, handle in zip((1, 2), openers, handles, strict=True):
        assert opener.call(handle, b"plug") == 40 + number
        assert opener.call(None, b"common") == number
        assert opener.call(opener.opens(None, NOW), b"sees") == number
    assert not hasattr(ctypes.CDLL(None), "common")  # RTLD_GLOBAL means: in the namespace
    for library in libraries:
        library.close()


def test_in_a_tree_every_path_is_inside(build: Build, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr" / "lib").mkdir(parents=True)
    (root / "opt").mkdir()
    _built(build)
    (tmp_path / "libopener.so").rename(root / "usr" / "lib" / "libopener.so")
    (tmp_path / "libplug.so").rename(root / "opt" / "libplug.so")
    outside = build("plug.c", "-DNUMBER=7", "-L" + str(root / "usr" / "lib"), "-lopener")
    with live.load("libopener.so", root=str(root)) as library:
        opener = Opener(library.function)
        handle = opener.opens(b"/opt/libplug.so", NOW)
        assert opener.call(handle, b"plug") == 42
        shown = opener.file_of(opener.finds(handle, b"plug"))
        assert os.path.samefile(shown, root / "opt" / "libplug.so")
        again = opener.opens(shown, NOW)
        assert (again, opener.says()) == (handle, None)  # what dladdr says leads back to it
        assert opener.opens(os.fsencode(outside), NOW) is None
        assert str(outside).encode() in opener.says()
        libc = opener.opens(b"/lib/x86_64-linux-gnu/libc.so.6", NOW)
        assert libc == ctypes.CDLL("libc.so.6")._handle


def test_namespaces_that_a_library_makes(build: Build) -> None:
    with live.load(_built(build)) as library:
        opener = Opener(library.function)
        here = opener.opens_apart(BASE, b"libplug.so", NOW)
        assert here == opener.opens(b"libplug.so", NOW)
        path = os.fsencode(Path(library.path).with_name("libplug.so"))
        apart = opener.opens_apart(NEW, path, NOW)
        assert apart not in (None, here)
        assert opener.call(apart, b"plug") == 42  # with an opener of its own
        number = c_long(-7)
        assert opener.informs(here, LMID, byref(number)) == 0
        assert number.value == BASE
        assert opener.informs(apart, LMID, byref(number)) == 0
        assert opener.opens_apart(number.value, b"libplug.so", NOW) == apart
        assert opener.opens_apart(number.value + 999, b"libplug.so", NOW) is None
        assert b"namespace" in opener.says()
        folder = ctypes.create_string_buffer(4096)
        assert opener.informs(here, ORIGIN, folder) == 0
        assert folder.value == os.fsencode(Path(library.path).parent)
        for _ in range(2):
            assert opener.closes(apart) == opener.closes(here) == 0
        assert live.libraries()[-1].namespace == library.namespace.name


def test_opened_a_thousand_times(build: Build) -> None:
    with live.load(_built(build)) as library:
        opener = Opener(library.function)

        def state() -> tuple[int, int]:
            gc.collect()
            library.namespace.sweep()
            return len(os.listdir("/proc/self/fd")), len(process.link_maps())

        opener.closes(opener.opens(b"libplug.so", NOW))
        before = state()
        for _ in range(60):
            handle = opener.opens(b"libplug.so", NOW)
            assert opener.call(handle, b"plug") == 42
            assert opener.closes(handle) == 0
        assert state() == before
        handles = {opener.opens(b"libplug.so", NOW) for _ in range(1000)}
        assert len(handles) == 1
        for _ in range(999):
            opener.closes(*handles)
        assert opener.call(*handles, b"plug") == 42
        opener.closes(*handles)
        assert state() == before


def test_threads_that_python_does_not_know(build: Build) -> None:
    with live.load(_built(build)) as library:
        assert Opener(library.function).in_threads(b"libplug.so") == 0
