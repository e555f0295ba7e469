"""When libraries may be opened from inside, and what then lives how long."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from spidl import live
from tests.live.conftest import Build, Script
from tests.live.test_closing import COUNT, _build
from tests.live.test_opening import Opener

ROOT = str(Path(__file__).parents[2])
REFUSED = "no library can be opened where Python ends"

STEPS = """
import ctypes, random, sys
from pathlib import Path
from spidl import live
from spidl.live import process
from tests.live.test_opening import NOW, NOLOAD, GLOBAL, Opener

folder, way, seed, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
chance = random.Random(seed)
if way == "live":
    library = live.load(folder / "libopener.so")
    opener = Opener(library.function)
else:
    native = ctypes.CDLL(str(folder / "libopener.so"))
    def function(name, restype, argtypes):
        found = native[name]
        found.restype, found.argtypes = restype, argtypes
        return found
    opener = Opener(function)
paths = [str(folder / f"libm{n}.so").encode() for n in range(count)]
opened = []
for _ in range(120):
    if opened and chance.random() < 0.5:
        handle = opened.pop(chance.randrange(len(opened)))
        print("close", opener.closes(handle), flush=True)
    else:
        n = chance.randrange(count)
        handle = opener.opens(paths[n], NOW | chance.choice([0, 0, 0, GLOBAL]))
        print("open", n, opener.call(handle, f"sees_{n}".encode()), flush=True)
        opened.append(handle)
    if way == "live":
        library.namespace.sweep()
    there = [opener.opens(path, NOW | NOLOAD) for path in paths]
    print([bool(handle) for handle in there], flush=True)
    for handle in there:
        if handle:
            opener.closes(handle)
for handle in opened:
    print("close", opener.closes(handle), flush=True)
if way == "live":
    library.namespace.sweep()
    print([m.name for m in library.namespace.members])
else:
    print(["libopener.so"])
"""


@pytest.mark.parametrize("seed", range(2))
def test_what_lives_is_what_dlopen_would_leave(
    build: Build, tmp_path: Path, script: Script, seed: int
) -> None:
    """Destructors write too: they run in the same calls."""
    build("opener.c", "-DOWN=1", name="opener")
    _build(tmp_path, random.Random(seed), log=1)
    privately, natively = (
        script(STEPS, tmp_path, way, seed, COUNT, PYTHONPATH=ROOT) for way in ("live", "native")
    )
    assert _ordered(privately) == _ordered(natively)


def _ordered(printed: str) -> list[str]:
    """Lines, the destructors of one call in any order: no rule says theirs in a cycle."""
    lines = [line.partition("close") for line in printed.splitlines()]
    return ["".join(sorted(ended)) + closed + result for ended, closed, result in lines]


def test_a_constructor_opens_what_needs_its_own_library(build: Build, tmp_path: Path) -> None:
    """It is found half-made, and what it needs is initialised first, as with glibc."""
    for way in ("one", "two"):
        text = tmp_path / f"{way}.c"
        text.write_text("int made; __attribute__((constructor)) static void m(void) { made++; }")
        build(str(text), name=way)
    early = tmp_path / "early.c"
    early.write_text(
        """
        #include <dlfcn.h>
        extern int made; int seen = -1; int ready;
        __attribute__((constructor)) static void open_late(void) {
            ready = 1;
            void *late = dlopen("liblate.so", RTLD_NOW);
            int (*look)(void) = late ? dlsym(late, "look") : 0;
            seen = look ? look() : -2;
        }
        """
    )
    build(str(early), "-lone", name="early")
    late = tmp_path / "late.c"
    late.write_text(
        """
        extern int ready, made; static int own;
        __attribute__((constructor)) static void m(void) { own = 10 * ready + made; }
        int look(void) { return own; }
        """
    )
    build(str(late), "-learly", "-lone", name="late")
    with live.load(tmp_path / "libearly.so") as library:
        names = sorted(member.name for member in library.namespace.members)
        assert names == ["libearly.so", "liblate.so", "libone.so"]
        from ctypes import c_int

        assert library.symbol("seen", c_int).value == 11


@pytest.mark.parametrize("way", ["end", "child", "python's child", "thread"])
def test_where_python_cannot_answer(build: Build, script: Script, way: str) -> None:
    """At the end, in a child that C code forked, and in a thread that is left behind."""
    path = build("opener.c", "-DOWN=2", name="opener")
    build("plug.c", "-DNUMBER=1", "-lopener", name="plug")
    code = """
        import ctypes, os, sys
        from ctypes import c_char_p, c_int
        from spidl import live
        library, way = live.load(sys.argv[1]), sys.argv[2]
        name = b"libplug.so"
        if way == "end":
            library.symbol("at_end", c_char_p).value = name
        elif way == "child":
            print(library.function("in_child", c_int, [c_char_p])(name), flush=True)
        elif way == "thread":
            print(library.function("leaves_a_thread", c_int, [c_char_p])(name), flush=True)
        else:
            if not (child := os.fork()):
                library.symbol("at_end", c_char_p).value = name
                handle = library.function("opens", ctypes.c_void_p, [c_char_p, c_int])(name, 2)
                print(bool(handle), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """
    printed = script(code, path, way).splitlines()
    if way == "python's child":
        assert printed == ["True"]
    elif way == "thread":
        assert printed == ["0"]
    else:
        assert [REFUSED in line for line in printed[:2]] == [True, True]
        assert printed[2:] == (["1"] if way == "child" else [])


def test_a_stub_outlives_its_library(build: Build) -> None:
    """As glibc's dlopen would, for whoever has kept the pointer."""
    library = live.load(build("opener.c", "-DOWN=2", name="opener"))
    namespace = library.namespace
    opener = Opener(library.function)
    kept = opener.finds(None, b"dlopen")
    library.close()
    import ctypes

    again = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)(kept)
    path = str(build("answer.c", "-DANSWER=4")).encode()
    handle = again(path, 2)
    assert [member.name for member in namespace.members] == ["libanswer.so"]
    assert ctypes.CDLL(None, handle=handle).answer() == 4
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle))
    namespace.sweep()
    assert namespace.members == []


def test_a_destructor_closes_what_a_constructor_opened(build: Build, tmp_path: Path) -> None:
    """It runs where glibc's lock is held: what it has closed is given back afterwards."""
    build("answer.c", "-DANSWER=4", name="needed")
    build("answer_user.c", "-lneeded", "-L" + str(tmp_path), name="answer")  # it needs another
    source = tmp_path / "holds.c"
    source.write_text(
        """
        #include <dlfcn.h>
        static void *handle;
        __attribute__((constructor)) static void open_it(void) {
            handle = dlopen("libanswer.so", RTLD_NOW);
        }
        __attribute__((destructor)) static void close_it(void) { dlclose(handle); }
        """
    )
    path = build(str(source), name="holds")
    for _ in range(260):  # more than are noted at once
        library = live.load(path)
        names = {member.name for member in library.namespace.members}
        assert names == {"libholds.so", "libanswer.so", "libneeded.so"}
        library.close()
        assert library.namespace.members == []
    assert library.namespace.opened == {}


def test_everybody_at_once(build: Build, script: Script) -> None:
    """Threads of C's that open and close, threads of Python's that load, and imports."""
    path = build("opener.c", "-DOWN=2", name="opener")
    build("plug.c", "-DNUMBER=1", "-lopener", name="plug")
    code = """
        import importlib, sys, threading
        from ctypes import c_char_p, c_long
        from spidl import live
        library = live.load(sys.argv[1])
        wrong = []
        def inside():
            wrong.append(library.function("in_threads", c_long, [c_char_p])(b"libplug.so"))
        def outside():
            for _ in range(20):
                with live.load(sys.argv[1]) as other:
                    wrong.append(other.function("answer")() - 2)
        threads = [threading.Thread(target=work) for work in (inside, outside, inside)]
        for thread in threads:
            thread.start()
        for name in "_lzma _bz2 _sqlite3 _decimal _curses _ssl _dbm readline".split():
            try:
                importlib.import_module(name)
            except ImportError:
                pass
        for thread in threads:
            thread.join()
        library.namespace.sweep()
        print(len(wrong), sum(wrong), len(library.namespace.members), len(live.libraries()))
    """
    assert script(code, path) == "22 0 1 1\n"
