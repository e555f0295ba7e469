"""Debuggers and profilers see a running image as they see the program itself."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import tool

from .conftest import Workshop
from .harness import Images, Layout, run


@pytest.fixture
def debugger() -> None:
    tool("gdb", "gdb")


needs_gdb = pytest.mark.usefixtures("debugger")


@pytest.fixture(scope="module")
def program(workshop: Workshop) -> Path:
    workshop.library("libdebugged.so", "debugged_lib.c", flags=("-O0",))
    return workshop.program("debugged", "debugged.c", "libdebugged.so", flags=("-O0",))


@contextlib.contextmanager
def running(program: Path, executable: Path, *arguments: str) -> Iterator[int]:
    """The process id of the program once it has said that it is ready."""
    process = subprocess.Popen(
        [str(program), *arguments], executable=executable, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def gdb(*arguments: str) -> str:
    outcome = run(["gdb", "-nx", "-q", "-batch", *arguments], timeout=60)
    assert outcome.status == 0, outcome
    return outcome.stdout.decode()


def commands(*lines: str) -> list[str]:
    return [part for line in lines for part in ("-ex", line)]


def libraries(text: str) -> dict[str, str]:
    """``info sharedlibrary``: name to whether symbols were read, and how."""
    found = re.findall(r"^0x\w+ +0x\w+ +(Yes(?: \(\*\))?|No) +(\S+)$", text, re.M)
    return {os.path.basename(name): symbols for symbols, name in found}


def functions(text: str) -> list[str]:
    return re.findall(r"^#\d+ +(?:0x\w+ in )?([\w.@]+) \(", text, re.M)


@needs_gdb
@pytest.mark.parametrize("named", [False, True], ids=["by-pid", "with-program"])
def test_gdb_attaches(program: Path, layout: Layout, images: Images, named: bool) -> None:
    """All libraries with their symbols; a breakpoint by name is hit; the frames have names."""
    image = images.get(program, layout, os.environ)
    seen = []
    for executable in (program, image):
        with running(program, executable) as pid:
            text = gdb(
                *([str(program)] if named else []),
                "-p",
                str(pid),
                *commands(
                    "info sharedlibrary",
                    "break library_step",
                    "continue",
                    "backtrace",
                    "print value == value",
                    "print state != 0",
                    "detach",
                ),
            )
        seen.append((libraries(text), functions(text), text))
    (oracle_libraries, oracle_frames, oracle), (image_libraries, frames, text) = seen
    assert oracle_libraries.get("libdebugged.so") == "Yes", oracle
    assert "library_work" in oracle_frames, oracle
    assert image_libraries == oracle_libraries, text
    assert "Breakpoint 1, library_step (value=" in text
    stop = oracle_frames.index("library_work") + 1
    assert frames[: stop - oracle_frames.index("library_step")][-1] == "library_work", text
    if named:
        assert frames == oracle_frames, text
    assert text.count("= 1") == oracle.count("= 1") == 2, text


@needs_gdb
def test_gdb_reads_a_core(program: Path, images: Images, tmp_path: Path) -> None:
    """A core made from a running image names the libraries and the frames."""
    image = images.get(program, "shared", os.environ)
    core = tmp_path / "core"
    with running(program, image) as pid:
        gdb("-p", str(pid), *commands("break library_step", "continue", f"gcore {core}", "detach"))
    text = gdb(str(program), str(core), *commands("info sharedlibrary", "backtrace"))
    assert libraries(text).get("libdebugged.so") == "Yes", text
    assert functions(text)[-3:] == ["library_work", "program_work", "main"], text


@pytest.mark.parametrize("layout", ["shared"])  # a copied image holds the text itself
def test_perf_names_libraries(
    program: Path, layout: Layout, images: Images, tmp_path: Path
) -> None:
    """Samples belong to the library's own file and symbol, not to the image."""
    tool("perf", "linux-perf")
    image = images.get(program, layout, os.environ)
    for executable in (program, image):
        data = tmp_path / "data"
        with running(program, executable, "5", "busy") as pid:
            record = run(
                ["perf", "record", "-q", "-e", "cpu-clock", "-F", "500", "-o", str(data), "-p",
                 str(pid), "--", "sleep", "1"]
            )  # fmt: skip
        assert record.status == 0, record
        report = run(
            ["perf", "report", "-i", str(data), "--stdio", "--sort", "dso,symbol", "-q"]
        ).stdout.decode()
        top = report.strip().splitlines()[0]
        assert "libdebugged.so" in top, report
        assert "library_" in top, report


def test_maps_name_the_files(program: Path, images: Images) -> None:
    """With shared text, /proc/PID/maps names the code's files: tools that only read it work."""
    image = images.get(program, "shared", os.environ)
    seen = []
    for executable in (program, image):
        with running(program, executable) as pid:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        seen.append({line.split()[-1] for line in lines if line.split()[1] == "r-xp"})
    oracle, names = seen
    assert str(program.parent / "libdebugged.so") in oracle
    assert oracle - names == set()


def test_signal_from_outside_ends_it(program: Path, layout: Layout, images: Images) -> None:
    image = images.get(program, layout, os.environ)
    for executable in (program, image):
        with running(program, executable) as pid:
            os.kill(pid, signal.SIGTERM)
            assert os.waitpid(pid, 0)[1] == signal.SIGTERM
