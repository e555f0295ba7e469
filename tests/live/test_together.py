"""What is bound together goes together, and what a process has only once is the process's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from spidl import live
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.phases import RELOCATE
from spidl.link.pipeline import Pipeline
from spidl.testing import expect
from tests.live.conftest import Build, Script


def _hooks(build: Build) -> tuple[Path, Path, Path]:
    second = build("hook.c", "-DPART=2", name="second")
    first = build("hook.c", "-DPART=1", "-lsecond", name="first")
    return first, second, build("hook.c", "-DPART=3", "-lsecond", name="third")


@pytest.mark.parametrize("loads", [1, 2])
def test_destructors_run_before_anything_is_unmapped(
    build: Build, script: Script, loads: int
) -> None:
    """The needed library's destructor calls into the one that needs it, as under dlclose."""
    first, _, _ = _hooks(build)
    code = """
        import _ctypes, ctypes, sys
        from spidl import live
        if sys.argv[2] == "0":
            library = ctypes.CDLL(sys.argv[1])
            library.call()
            _ctypes.dlclose(library._handle)
        for _ in range(int(sys.argv[2])):
            with live.load(sys.argv[1]) as library:
                library.function("call")()
    """
    expected = script(code, first, 0, error=True)
    assert expected == "first\nfirst\n"
    assert script(code, first, loads, error=True) == expected * loads


def test_what_an_earlier_library_is_bound_to_stays_for_a_later_user(build: Build) -> None:
    first, second, third = _hooks(build)
    namespace = live.Namespace()
    one = live.load(first, namespace=namespace)
    two = live.load(second, namespace=namespace)
    three = live.load(third, namespace=namespace)
    use, ask = two.function("use"), three.function("third")
    one.close()
    assert (use(), ask()) == (1, 1)
    two.close()
    assert ask() == 1
    states = {
        item.name: item.state for item in live.libraries() if item.namespace == namespace.name
    }
    assert states == dict.fromkeys(("libfirst.so", "libsecond.so", "libthird.so"), "initialised")
    three.close()
    assert namespace.members == []


def test_libraries_that_need_each_other_are_closed(build: Build, script: Script) -> None:
    build("order.c", "-DNAME=f_b", '-DSTRING="b"', "-nostartfiles", name="b")
    build("order.c", "-DNAME=f_a", '-DSTRING="a"', "-nostartfiles", "-DNEED=f_b", "-lb", name="a")
    b = build("order.c", "-DNAME=f_b", '-DSTRING="b"', "-nostartfiles", "-Wl,--no-as-needed",
              "-la", name="b")  # fmt: skip
    code = """
        import sys
        from spidl import live
        with live.load(sys.argv[1]) as library:
            pass
        print(library.namespace.members)
    """
    assert script(code, b) == "[]\n"


def test_a_library_with_a_unique_symbol_stays(build: Build, script: Script) -> None:
    code = """
        import sys, time
        from spidl import live
        with live.load(sys.argv[1]) as library:
            library.function("start", None)()
        time.sleep(0.1)
        print([member.state for member in library.namespace.members])
    """
    assert script(code, build("stays.cc", "-pthread")) == "['initialised']\n"


def test_one_allocator_for_what_libc_gives(build: Build) -> None:
    build("heap.c", "-DPART=1", name="heap")
    with live.load(build("heap.c", "-DPART=2", "-lheap", name="user")) as library:
        assert library.function("work")() == 42
        (found,) = [item for item in live.libraries() if item.name == "libuser.so"]
        providers = {b.name: os.path.basename(b.provider or "") for b in found.bindings}
        assert (providers["malloc"], providers["free"]) == ("libc.so.6", "libc.so.6")
        assert providers["allocator"] == "libheap.so"


def test_two_copies_of_the_package_in_one_process(build: Build, script: Script) -> None:
    code = """
        import sys
        from spidl import live
        first = live.load(sys.argv[1])
        for name in [name for name in sys.modules if name.split(".")[0] == "spidl"]:
            del sys.modules[name]
        from spidl import live as again
        second = again.load(sys.argv[2])
        print(first.handle != second.handle, first.function("next_start")(),
              second.function("chosen")())
    """
    assert script(code, build("tls.c"), build("kinds.c")) == "True 42 1\n"


def test_the_hosts_libraries_by_path(tmp_path: Path) -> None:
    copy = tmp_path / "other.so"
    (libc,) = {r.path for r in live.Namespace().process.residents() if "libc.so.6" in r.names}
    copy.write_bytes(Path(libc).read_bytes())
    with expect("live/host-library"):
        live.load(copy)


def test_preloads_are_those_that_the_process_was_started_with(script: Script) -> None:
    code = """
        import os, zlib
        from spidl import live
        os.environ["LD_PRELOAD"] = "libz.so.1"
        with live.load("libz.so.1") as library:
            print(len(library.namespace.members))
    """
    assert script(code) == "1\n"


def test_links_that_lead_nowhere_do_not_lead_out_of_a_tree(build: Build, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "lib").mkdir(parents=True)
    build("kinds.c").rename(tmp_path / "libkinds.so")
    for number in range(41):
        (tree / "lib" / f"{number}").symlink_to(f"{number + 1}" if number < 40 else tmp_path)
    with expect("collect/link-loop"):
        live.load("/lib/0/libkinds.so", root=str(tree))


class _Writer(Module):
    """Leaves a word to an IFUNC resolver that is not the library's."""

    name = "writer"
    address: int = 0

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.name.startswith("libkinds"):
            pipeline.weak(RELOCATE, self.write)

    def write(self, dso: Dso, link: Link) -> None:
        place = np.array([self.address], np.uint64)
        link.space.defer(place, place, link.by, "a test")


def test_a_module_cannot_have_other_memory_written(build: Build) -> None:
    victim = (ctypes.c_uint64 * 2)(1, 2)
    with expect("relocate/outside"):
        live.load(build("kinds.c"), modules=[_Writer(address=ctypes.addressof(victim))])
    assert list(victim) == [1, 2]


def test_a_reference_without_version_takes_the_oldest(tmp_path: Path) -> None:
    """pow@GLIBC_2.2.5, not the default pow@@GLIBC_2.29: glibc's rule for old objects."""
    source, library = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text("double pow(double, double); double f(double a) { return pow(a, 2); }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-fno-builtin", "-o", library, source], check=True)
    libm = ctypes.CDLL("libm.so.6")
    find = ctypes.CDLL(None).dlvsym
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p] + [ctypes.c_char_p] * 2
    with live.load(library):
        (found,) = [item for item in live.libraries() if item.path == str(library)]
        (pow_,) = [b for b in found.bindings if b.name == "pow"]
        assert pow_.address == find(libm._handle, b"pow", b"GLIBC_2.2.5")
        assert pow_.address != find(libm._handle, b"pow", b"GLIBC_2.29")
