"""Libraries opened and closed in any order: beside dlopen and dlclose, which do the same."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from spidl import live
from spidl.elf.build import build_dso
from tests.live.conftest import Build, Script
from tests.needs import tool

COUNT = 5
SOURCE = """
#include <unistd.h>
int own_%(n)d(void) { return %(n)d; }
int common(void) { return %(n)d; }
%(declared)s
int sees_%(n)d(void) { int seen = common() << 8; %(used)s return seen; }
__attribute__((destructor)) static void end(void) { write(%(log)d, "%(n)d", 1); }
"""
LOG = 77
"""The descriptor that destructors write to."""
STEPS = """
import _ctypes, ctypes, os, random, sys
from pathlib import Path
from spidl import live
from spidl.live import process

folder, chance, count, log = Path(sys.argv[1]), random.Random(sys.argv[2]), *map(int, sys.argv[3:])
reader, writer = os.pipe()
os.dup2(writer, log)
os.set_blocking(reader, False)

def ended():
    try:
        return sorted(os.read(reader, 100))
    except BlockingIOError:
        return []

def theirs():
    names = {name: address for address, name in process.link_maps().items()}
    paths = {n: str(folder / f"libm{n}.so") for n in range(count)}
    return {n: names[path] for n, path in paths.items() if path in names}

def call(handle, name):
    found = process.symbol_in(handle, name)
    return ctypes.CFUNCTYPE(ctypes.c_int)(found)()

both, others = [], []
space, another = live.Namespace(), live.Namespace()
for _ in range(60):
    path = str(folder / f"libm{chance.randrange(count)}.so")
    if chance.random() < 0.2:  # what happens in other namespaces must make no difference
        if others and chance.random() < 0.5:
            others.pop(chance.randrange(len(others))).close()
        else:
            others.append(live.load(path, namespace=chance.choice([another, None])))
        ended()
        continue
    if both and chance.random() < 0.5:
        library, handle = both.pop(chance.randrange(len(both)))
        library.close()
        here = ended()
        _ctypes.dlclose(handle)
        assert here == ended(), path
    else:
        handle = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_GLOBAL)._handle
        both.append((live.load(path, namespace=space), handle))
    mine, there = {int(member.name[4]): member for member in space.members}, theirs()
    assert mine.keys() == there.keys(), (sorted(mine), sorted(there))
    for n, member in mine.items():
        again = ctypes.CDLL(str(folder / f"libm{n}.so"), mode=os.RTLD_NOW | os.RTLD_NOLOAD)._handle
        assert call(member.shell.handle, f"sees_{n}") == call(again, f"sees_{n}")
        _ctypes.dlclose(again)
for library, handle in both:
    library.close()
    _ctypes.dlclose(handle)
for library in others:
    library.close()
print(live.libraries(), theirs())
"""


def _build(folder: Path, chance: random.Random, log: int = LOG) -> None:
    """Libraries that need and see one another at random; what they only see may be absent."""
    for n in range(COUNT):
        (folder / f"libm{n}.so").write_bytes(build_dso(f"libm{n}.so"))
    for n in range(COUNT):
        rest = [k for k in range(COUNT) if k != n]
        needed = chance.sample(rest, chance.choice([0, 0, 0, 1, 1, 2]))
        seen = chance.sample(rest, chance.choice([0, 1, 2, 3]))
        (folder / "source.c").write_text(
            SOURCE
            % {
                "n": n,
                "log": log,
                "declared": "\n".join(f"int own_{k}(void) __attribute__((weak));" for k in seen),
                "used": " ".join(f"if (own_{k}) seen |= 1 << own_{k}();" for k in seen),
            }
        )
        subprocess.run(
            [tool("gcc", "gcc"), "-w", "-shared", "-fPIC", "-nostartfiles", "-O1",
             "-o", folder / f"new{n}.so", folder / "source.c", f"-Wl,-soname,libm{n}.so",
             "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", f"-L{folder}",
             *(f"-lm{k}" for k in needed)],
            check=True,
        )  # fmt: skip
    for n in range(COUNT):
        (folder / f"new{n}.so").replace(folder / f"libm{n}.so")


@pytest.mark.parametrize("seed", range(4))
def test_what_lives_is_what_dlopen_would_leave(tmp_path: Path, script: Script, seed: int) -> None:
    _build(tmp_path, random.Random(seed))
    assert script(STEPS, tmp_path, seed, COUNT, LOG) == "[] {}\n"


def test_a_library_that_dlclose_has_unmapped_is_forgotten(build: Build, script: Script) -> None:
    code = """
        import _ctypes, ctypes, sys
        from spidl import live
        namespace = live.Namespace()
        library = live.load(sys.argv[1], namespace=namespace)
        handle = ctypes.CDLL(library.shown)._handle
        library.close()
        print([member.state for member in namespace.members])
        _ctypes.dlclose(handle)
        with live.load(sys.argv[1], namespace=namespace) as again:
            print(len(namespace.members), again.function("answer")())
    """
    path = build("answer.c", "-DANSWER=3")
    assert script(code, path) == "['initialised']\n1 3\n"


def test_a_closed_library_is_not_taken_for_a_later_one_with_its_handle(build: Build) -> None:
    """glibc uses the memory of a handle again, and the shown name is free again too."""
    with live.load(build("answer.c", "-DANSWER=3")) as library:
        (member,) = library.namespace.members
        assert member.state == "initialised"
        later = replace(member.shell)
        assert (member.state, later.is_latest) == ("closed", True)


def test_a_later_library_pins_an_earlier_one(tmp_path: Path, script: Script) -> None:
    """Its reference binds a symbol that there is only once (STB_GNU_UNIQUE)."""
    sources = {
        "first": ".type u, @gnu_unique_object\n.globl u\n.data\nu: .quad 5\n.size u, 8\n",
        "second": ".data\n.globl p\np: .quad u\n.size p, 8\n.type p, @object\n",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.s").write_text(source + '.section .note.GNU-stack,"",@progbits\n')
        subprocess.run(
            [tool("gcc", "gcc"), "-shared", "-nostdlib", "-o", tmp_path / f"{name}.so",
             tmp_path / f"{name}.s", f"-Wl,-soname,{name}.so"],
            check=True,
        )  # fmt: skip
    code = """
        import sys
        from spidl import live
        namespace = live.Namespace()
        first, second = (live.load(path, namespace=namespace) for path in sys.argv[1:])
        second.close()
        print([(member.name, member.state) for member in namespace.members])
        first.close()
        print([(member.name, member.state) for member in namespace.members])
    """
    left = "[('first.so', 'initialised')]\n"
    assert script(code, *(tmp_path / f"{name}.so" for name in sources)) == left * 2


def test_an_extension_that_fails_keeps_what_it_is_bound_to(tmp_path: Path, build: Build) -> None:
    """CPython keeps what it has opened, and its code may run again, at exit for instance."""
    source, path = tmp_path / "fails.c", tmp_path / "fails.so"
    source.write_text("""
        extern void *PyExc_OSError;
        void *PyErr_Format(void *, const char *, ...);
        int answer(void);
        void *PyInit_fails(void) { return PyErr_Format(PyExc_OSError, "answer %d", answer()); }
    """)
    subprocess.run([tool("gcc", "gcc"), "-shared", "-fPIC", "-o", path, source], check=True)
    namespace = live.Namespace()
    provider = live.load(build("answer.c", "-DANSWER=3"), namespace=namespace)
    with pytest.raises(OSError, match="answer 3"):
        live.import_extension("fails", path, namespace=namespace)
    provider.close()
    assert [member.state for member in namespace.members] == ["initialised"] * 2


def test_an_interrupted_load_leaves_nothing(build: Build, script: Script) -> None:
    """At any place where the load asks the C library for something."""
    build("hook.c", "-DPART=2", name="second")
    first = build("hook.c", "-DPART=1", "-lsecond", name="first")
    code = """
        import sys, time
        from spidl import live
        from spidl.live import process

        def maps():
            return {*process.link_maps()}

        time.sleep(0.05)
        for _ in range(2):
            live.load(sys.argv[1]).close()
        before, ends = maps(), set()
        for name in ("open_object", "close_object", "write_word", "protect", "map_file"):
            whole = getattr(process, name)
            for left in range(100):
                calls = iter([False] * left + [True])

                def interrupted(*arguments):
                    if next(calls, False):
                        if name == "close_object":  # it must not be lost, nor come twice
                            whole(*arguments)
                        raise KeyboardInterrupt
                    return whole(*arguments)

                setattr(process, name, interrupted)
                try:
                    library = live.load(sys.argv[1])
                except KeyboardInterrupt:
                    ends.add(name)
                    setattr(process, name, whole)
                    assert maps() == before, (name, left)
                else:
                    setattr(process, name, whole)
                    library.close()
                    break
        print(len(ends), maps() == before)
    """
    assert script(code, first) == "5 True\n"
