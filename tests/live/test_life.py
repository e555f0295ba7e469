"""Loading, closing, forking, threads: nothing leaks and nothing is left over."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import live
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.phases import LOAD, POST_LOAD, POST_PROTECT, POST_RELOCATE
from spidl.link.pipeline import Pipeline
from spidl.link.space import Placement
from spidl.live import process
from spidl.testing import expect

Build = Callable[..., Path]

CYCLES = """
import gc, os, sys, ctypes
from spidl import live

def cycle(times):
    for _ in range(times):
        with live.load(sys.argv[1]) as library:
            assert library.function("next_start")() == 42
            assert library.function("next_zero")() == 1

def state():
    gc.collect()
    with open("/proc/self/maps") as maps:
        lines = len(maps.readlines())
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return lines, len(os.listdir("/proc/self/fd")), pages

cycle(300)
for _ in range(7):
    before = state()
    cycle(int(sys.argv[2]))
    print(*(after - b for after, b in zip(state(), before)))
"""


def test_cycles_leak_nothing(build: Build, script: Callable[..., str]) -> None:
    """Ten thousand are measured in benchmarks/live.py."""
    count = 400
    rounds = [
        tuple(map(int, line.split())) for line in script(CYCLES, build("tls.c"), count).splitlines()
    ]
    maps, descriptors, pages = (sorted(column) for column in zip(*rounds, strict=True))
    assert descriptors == [0] * 7
    assert maps[3] == 0
    # The allocator grows in steps, in a round or two; a leak shows in all of them.
    assert pages[3] * 4096 < count * 100
    assert sum(pages) * 4096 < 2 << 20


def test_a_hundred_threads_use_a_library(build: Build) -> None:
    results: list[int] = []
    with live.load(build("tls.c")) as library:
        function = library.function("next_start")

        def run() -> None:
            results.append([function() for _ in range(1000)][-1])

        threads = [threading.Thread(target=run) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [1041] * 100


def test_threads_load_and_close_at_once(build: Build) -> None:
    path = build("kinds.c")
    results: list[int] = []

    def run() -> None:
        for _ in range(10):
            with live.load(path) as library:
                results.append(library.function("call_pointer")())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 80


def test_a_forked_child_has_the_library_and_may_load_more(
    build: Build, script: Callable[..., str]
) -> None:
    out = script(
        """
        import os, sys
        from spidl import live
        library = live.load(sys.argv[1])
        function = library.function("next_start")
        assert function() == 42
        child = os.fork()
        if not child:
            assert function() == 43
            with live.load(sys.argv[1]) as other:
                assert other.function("next_start")() == 42
            library.close()
            assert live.libraries() == []
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), function())
        """,
        build("tls.c"),
    )
    assert out == "7 43\n"


class Fails(Module):
    """Raises in the phase that the test names."""

    phase: str

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if self.phase == "load":
            if not dso.is_root:
                pipeline.weak(LOAD, self.fail_in_load)
        else:
            phases = {phase.name: phase for phase in (POST_LOAD, POST_RELOCATE, POST_PROTECT)}
            pipeline.weak(phases[self.phase], self.fail)

    def fail(self, link: Link) -> None:
        raise ValueError("the test's own")

    def fail_in_load(self, dso: Dso, link: Link) -> Placement:
        raise ValueError("the test's own")


@pytest.mark.parametrize("phase", ["load", "post-load", "post-relocate", "post-protect"])
def test_a_load_that_fails_leaves_the_process_as_it_was(build: Build, phase: str) -> None:
    provider = build("tls.c")
    user = build("tls_user.c", f"-l:{provider.name}")
    with live.load(user):
        pass  # what one load opens for good (parsed files of the process) is open now
    objects, count = {*process.link_maps()}, len(live.libraries())
    with expect("module/failed"):
        live.load(user, modules=[Fails(phase)])
    assert {*process.link_maps()} == objects
    assert len(live.libraries()) == count
    gc.collect()  # the parsed files
    with open("/proc/self/maps") as maps:
        left = [line for line in maps if str(user) in line or str(provider) in line]
    assert left == []


def test_a_missing_symbol_leaves_the_process_as_it_was(build: Build) -> None:
    user = build("tls_user.c")  # without its provider
    before = {*process.link_maps()}
    with expect("relocate/undefined-symbol") as expected:
        live.load(user)
    assert "shared_counter" in expected.diagnostic.message
    assert {*process.link_maps()} == before


def test_a_library_that_another_is_bound_to_outlives_its_own_closing(build: Build) -> None:
    provider, user = build("tls.c"), build("tls_user.c")  # no DT_NEEDED between them
    namespace = live.Namespace("together")
    first = live.load(provider, namespace=namespace)
    second = live.load(user, namespace=namespace)
    first.close()
    assert second.function("other_shared", ctypes.c_int)() == 8
    assert [item.name for item in live.libraries() if item.namespace == "together"] == [
        provider.name, user.name,
    ]  # fmt: skip
    second.close()
    assert namespace.members == []


def test_a_library_that_asks_to_stay_stays(build: Build, script: Callable[..., str]) -> None:
    out = script(
        """
        import sys
        from spidl import live
        library = live.load(sys.argv[1])
        function = library.function("next_start")
        library.close()
        print([item.name for item in live.libraries()], library.is_closed)
        """,
        build("tls.c", "-Wl,-z,nodelete"),
    )
    assert out == "['libtls.so'] True\n"
