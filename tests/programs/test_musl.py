"""musl programs: libc.so is their dynamic linker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.needs import tool

from .conftest import Same, Workshop
from .harness import run, spidl


@pytest.fixture(autouse=True)
def musl() -> None:
    tool("musl-gcc", "musl-tools")


BEHAVIOURS = {
    "threads": 0,
    "library": 0,
    "objects": 0,
    "memory": 0,
    "process": 0,
    "signals": 0,
    "stack": 6,
}


def make(workshop: Workshop, name: str, flags: tuple[str, ...] = ()) -> Path:
    tls = ("-DPREFIX=gd", "-DSTART=10")
    workshop.library("libtls.so", "tls_lib.c", flags=tls, cc="musl-gcc")
    workshop.library("libcounter.so", "shared_counter.c", cc="musl-gcc")
    plain = ("-DNO_ARGUMENTS",)
    workshop.library("libplugin.so", "plugin.c", "libcounter.so", flags=plain, cc="musl-gcc")
    return workshop.program(
        name, "musl_main.c", "libtls.so", "libcounter.so", flags=flags, cc="musl-gcc"
    )


@pytest.mark.parametrize(("behaviour", "status"), BEHAVIOURS.items())
@pytest.mark.parametrize("kind", ["pie", "fixed"])
def test_musl(same: Same, workshop: Workshop, kind: str, behaviour: str, status: int) -> None:
    program = workshop.folder / f"musl-{kind}"
    if not program.exists():
        make(workshop, program.name, ("-no-pie", "-fno-pie") if kind == "fixed" else ())
    outcome = same([str(program), behaviour], env={**os.environ, "GIVEN": "1"}, status=status)
    assert b"counter constructed\n" in outcome.stdout


def test_musl_without_environment(same: Same, workshop: Workshop) -> None:
    same([str(make(workshop, "musl-bare")), "objects"], env={})


def test_musl_opens_along_the_library_path(workshop: Workshop, tmp_path: Path) -> None:
    """musl keeps a pointer to LD_LIBRARY_PATH in the environment, which no image can hold."""
    program = make(workshop, "musl-path")
    steering = {"LD_LIBRARY_PATH": str(workshop.folder), "SPIDL_CACHE": str(tmp_path)}
    plain = run([str(program), "library"], env=steering)
    assert plain.status == 0
    assert spidl(["run", str(program), "library"], steering=steering) == plain
