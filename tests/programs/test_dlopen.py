"""What ld.so does for a running program: dlopen and what can be asked about objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Same, Workshop
from .harness import spidl


@pytest.fixture(scope="module")
def libraries(workshop: Workshop) -> Workshop:
    workshop.library("libcounter.so", "shared_counter.c")
    workshop.library("libplugin.so", "plugin.c", "libcounter.so")
    workshop.library("libprovider.so", "provider.c")
    workshop.library("libopener.so", "opens_in_constructor.c")
    workshop.library("libnext.so", "next_lib.c")
    return workshop


@pytest.fixture(scope="module")
def opener(libraries: Workshop) -> Path:
    return libraries.program("opener", "dlopen_main.c", "libopener.so", "libcounter.so")


@pytest.fixture(scope="module")
def introspect(libraries: Workshop) -> Path:
    return libraries.program(
        "introspect", "introspect_main.c", "libnext.so", "libcounter.so", flags=("-rdynamic",)
    )


@pytest.mark.parametrize(
    "behaviour",
    [
        "plugin",
        "noload",
        "global",
        "lifetime",
        "namespace",
        "constructor",
        "errors",
        "symbols",
        "threads",
        "paths",
    ],
)
def test_dlopen(same: Same, opener: Path, behaviour: str) -> None:
    outcome = same([str(opener), behaviour])
    assert b"constructor opened a library: 99\n" in outcome.stdout


@pytest.mark.parametrize(
    "behaviour", ["iterate", "dladdr", "next", "auxv", "backtrace", "unwind", "debug-chain"]
)
def test_introspection(same: Same, introspect: Path, behaviour: str) -> None:
    same([str(introspect), behaviour])


def test_next_is_the_original(same: Same, introspect: Path) -> None:
    outcome = same([str(introspect), "next"])
    assert b"interposed 11\n" in outcome.stdout
    assert b"wrapped libc function 1234\ncalls 1\n" in outcome.stdout


def test_origin_without_rpath(same: Same, libraries: Workshop) -> None:
    """ld.so learns the program's origin late: at the first "$ORIGIN" that the program opens."""
    program = libraries.program(
        "no-rpath",
        "dlopen_main.c",
        "libopener.so",
        "libcounter.so",
        flags=("-Wl,-rpath-link,.",),
    )
    here = str(program.parent)
    outcome = same([str(program), "origin"], env={"LD_LIBRARY_PATH": here, "PATH": "/usr/bin:/bin"})
    assert b"$ORIGIN: 1\n${ORIGIN}: 1\n" in outcome.stdout


def test_addresses_of_a_fixed_program(same: Same, libraries: Workshop) -> None:
    fixed = libraries.program(
        "introspect-fixed",
        "introspect_main.c",
        "libnext.so",
        "libcounter.so",
        flags=("-rdynamic", "-no-pie", "-fno-pie"),
    )
    same([str(fixed), "dladdr"])
    same([str(fixed), "iterate"])
    same([str(fixed), "auxv"])


def test_a_plug_in_hears_of_the_program(same: Same, libraries: Workshop) -> None:
    """A launcher's library finds its files through /proc/self/exe, bound when it is opened."""
    plug_in = libraries.library("libasks.so", "asks.c")
    launcher = libraries.program("launcher", "asks_main.c")
    outcome = same([str(launcher), str(plug_in)])
    for kind in ("readlink", "by number", "readlinkat", "realpath"):
        assert f"{kind}: {launcher}\n".encode() in outcome.stdout


RAW = """
#define _GNU_SOURCE
#include <stdio.h>
char name[] = "/proc/self/exe";
const char *const path = "/proc/self/exe";
int main(void) {
  char found[400];
  long length;
  __asm__ volatile("syscall" : "=a"(length) : "0"(89L), "D"(path), "S"(found), "d"(sizeof found)
                   : "rcx", "r11", "memory");
  printf("%.*s\\n", (int)length, found);
  return 0;
}
"""


def test_who_asks_the_kernel_itself_is_left_alone(workshop: Workshop, tmp_path: Path) -> None:
    """As Go and Free Pascal do: no function is called that could answer."""
    program = workshop.program("raw", str(workshop.text("raw.c", RAW)))
    built = spidl(["build", str(program), "-o", str(tmp_path / "image")])
    assert b"refused[exec/own-path]" in built.stderr
    cache = {"SPIDL_CACHE": str(tmp_path / "cache")}
    result = spidl(["run", str(program)], steering=cache)
    assert (result.stdout, result.stderr) == (f"{program}\n".encode(), b"")
