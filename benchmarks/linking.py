"""How long a link takes: whole `spidl build` commands, over symbols, relocations and programs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.figures import Link, spread
from benchmarks.measure import progress
from benchmarks.workspace import Workspace
from spidl.session import Request, make_link

SYMBOLS = (1_000, 10_000, 50_000, 200_000)
RELOCATIONS = (1_000, 10_000, 100_000, 500_000)
_BOUND_SYMBOLS = 1_000
"""Symbols that the relocations of a generated library take turns to refer to."""
_QUICK = ("true", "ffmpeg")
_RUNS = 4


def measure_links(space: Workspace) -> list[Link]:
    """The programs of the machine; in the order in which they were found."""
    return [
        _link(space, name=program.name, path=path)
        for program, path in space.programs(_QUICK if space.quick else ())
    ]


def measure_symbols(space: Workspace) -> list[Link]:
    """A library with more and more symbols, of which the program uses one."""
    counts = SYMBOLS[:2] if space.quick else SYMBOLS
    return [
        _link(space, name=f"{count} symbols", path=_generate(space, symbols=count, relocations=0))
        for count in counts
    ]


def measure_relocations(space: Workspace) -> list[Link]:
    """A library with more and more R_X86_64_64, each a symbol that a scope is searched for."""
    counts = RELOCATIONS[:2] if space.quick else RELOCATIONS
    return [
        _link(space, name=f"{count} relocations",
              path=_generate(space, symbols=_BOUND_SYMBOLS, relocations=count))
        for count in counts
    ]  # fmt: skip


def _link(space: Workspace, *, name: str, path: str) -> Link:
    """Cold: nothing is kept of any earlier link.  Warm: the same link a second time.

    An untimed link comes first: the files are in the page cache in both.
    """
    progress(f"linking {name}")
    cold, warm = [], []
    output = str(space.new_folder("link") / "image")
    _timed_build(space, path, output, str(space.new_folder("cache")))
    for _ in range(1 if space.quick else _RUNS):
        cache = str(space.new_folder("cache"))
        cold.append(_timed_build(space, path, output, cache))
        warm.append(_timed_build(space, path, output, cache))
    objects, symbols, relocations = count_tables(path)
    return {
        "program": name, "objects": objects, "symbols": symbols, "relocations": relocations,
        "cold": spread(cold), "warm": spread(warm),
    }  # fmt: skip


def _timed_build(space: Workspace, path: str, output: str, cache: str) -> float:
    began = time.perf_counter()
    space.spidl("build", path, "-o", output, SPIDL_CACHE=cache)
    return time.perf_counter() - began


def count_tables(path: str) -> tuple[int, int, int]:
    """(objects, dynamic symbols, relocations) of a program and its libraries."""
    link = make_link(Request(path))
    link.run()
    files = [dso.file for dso in link.objects]
    return (
        len(files),
        sum(len(file.symbols) for file in files),
        sum(len(file.rela) + len(file.jmprel) + len(file.relr) for file in files),
    )


def _generate(space: Workspace, *, symbols: int, relocations: int) -> str:
    """A program that needs a library with these tables.

    The symbols are functions of one byte; the relocations fill an array of pointers to them.
    """
    folder = space.new_folder("generated")
    lines = [".text"]
    for i in range(symbols):
        name = _name(i)
        lines += [f".globl {name}", f".type {name}, @function", f"{name}: ret"]
    lines.append(".data")
    lines += [f".quad {_name(i % symbols)}" for i in range(relocations)]
    lines.append('.section .note.GNU-stack,"",@progbits')
    _compile(folder, "libgenerated.so", ".s", "\n".join(lines) + "\n", "-shared", "-nostdlib")
    return _compile(
        folder, "program", ".c", f"void {_name(0)}(void); int main(void) {{ {_name(0)}(); }}\n",
        f"-L{folder}", "-lgenerated", f"-Wl,-rpath,{folder}",
    )  # fmt: skip


def _name(number: int) -> str:
    return f"generated_function_{number:06}"


def _compile(folder: Path, output: str, suffix: str, source: str, *flags: str) -> str:
    path = folder / f"{output}{suffix}"
    path.write_text(source, encoding="ascii")
    made = os.path.join(folder, output)
    subprocess.run(["gcc", "-o", made, str(path), *flags], check=True)
    return made
