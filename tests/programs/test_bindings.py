"""What explain says binds where is what ld.so says binds where, symbol by symbol.

The oracle is LD_DEBUG=bindings of the system's ld.so with LD_BIND_NOW=1.  It prints a line for each
look-up that found something.  What one side cannot show is left out by rule, never by a list:

- Only lines before the first constructor count: later ones are dlsym's and dlopen's.
- The vDSO is no object of the link; ld.so looks its functions up for itself.
- A reference to a local or hidden symbol stays in its object, and a weak one that nothing answers
  is 0: nothing is printed for either.
- ld.so takes the process's malloc for its own use, with look-ups in the name of the program
  (elf/dl-minimal.c, __rtld_malloc_init_real), for which the program has no relocation.  They count
  only if they bind as somebody's reference to that name and version does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import Workshop

SOURCE = Path(__file__).resolve().parents[2] / "src"

PROGRAMS = {
    "git": ("git", "--version"),
    "coreutils": ("ls", "--version"),
    "python3.11": ("/usr/bin/python3.11", "--version"),
    "linux-perf": ("perf", "--version"),
    "gdb": ("gdb", "--version"),
    "clang": ("clang", "--version"),
    "ffmpeg": ("ffmpeg", "-version"),
}
"""By Debian package: a program, and arguments with which it does little and ends."""

_LINE = re.compile(
    r"\s*\d+:\tbinding file (?P<asker>.+) \[0\] to (?P<provider>.+) \[0\]: "
    r"(?:normal|protected) symbol `(?P<symbol>.+)'(?: \[(?P<version>.+)\])?$"
)
_VDSO = "linux-vdso.so.1"
_OWN_MALLOC = {"malloc", "calloc", "free", "realloc"}


@dataclass(frozen=True, order=True)
class Bound:
    """Who asks for what under which version, and who answers; objects by real path."""

    asker: str
    symbol: str
    version: str
    provider: str


def environment() -> dict[str, str]:
    """Without what steers linking: both sides must see the same."""
    steering = ("LD_", "GLIBC_TUNABLES", "MALLOC_")
    return {k: v for k, v in os.environ.items() if not k.startswith(steering)}


def asked_of_linker(program: str, arguments: Iterable[str], folder: Path) -> set[Bound]:
    """ld.so's own account, of a run of the program."""
    log = folder / "log"
    result = subprocess.run(
        [program, *arguments],
        env=environment() | {
            "LD_DEBUG": "bindings,files", "LD_BIND_NOW": "1", "LD_DEBUG_OUTPUT": str(log),
        },
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    # The program may start others; its own account is the one that begins with its process.
    logs = sorted(folder.glob("log.*"), key=lambda path: int(path.suffix[1:]))
    found = set()
    started = False
    for line in logs[0].read_text(errors="surrogateescape").splitlines():
        if "\tcalling init: " in line or "\tinitialize program: " in line:
            started = True
            break
        match = _LINE.match(line)
        if match is None:
            assert "binding file" not in line, f"a line that this test does not understand: {line}"
        elif match["asker"] != _VDSO:
            # The program is named as it was called, every other object by the path it came from.
            asker, provider = (
                os.path.realpath(name) for name in (match["asker"], match["provider"])
            )
            found.add(Bound(asker, match["symbol"], match["version"] or "", provider))
    assert started, "ld.so's account has no first constructor"
    return found


def asked_of_spidl(program: str) -> set[Bound]:
    """Spidl's account, of the program's files only."""
    result = subprocess.run(
        [sys.executable, "-m", "spidl", "explain", "--json", program],
        env=environment() | {"PYTHONPATH": str(SOURCE)},
        capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    return {
        Bound(os.path.realpath(b["asker"]), b["symbol"], b["version"] or "",
              os.path.realpath(b["provider"]))
        for b in json.loads(result.stdout)["bindings"]
        if b["lookup"] != "local" and b["provider"] is not None
    }  # fmt: skip


def linkers_own(only_linker: set[Bound], ours: set[Bound], program: str) -> set[Bound]:
    """The look-ups that ld.so makes for its own malloc, in the program's name.

    They must bind as any object's reference of that name does: a wrong one stays a difference.
    """
    asker = os.path.realpath(program)
    answers = {(b.symbol, b.version, b.provider) for b in ours}
    return {
        b for b in only_linker
        if b.asker == asker and b.symbol in _OWN_MALLOC
        and (b.symbol, b.version, b.provider) in answers
    }  # fmt: skip


def compare(program: str, arguments: Iterable[str], folder: Path) -> set[Bound]:
    """Insist that both accounts are the same; gives the account."""
    theirs = asked_of_linker(program, arguments, folder)
    ours = asked_of_spidl(program)
    missing = theirs - ours
    missing -= linkers_own(missing, ours, program)
    extra = ours - theirs
    report = [
        f"{sign} {b.asker} asks {b.provider} for {b.symbol} [{b.version}]"
        for sign, bound in (("ld.so only:", missing), ("spidl only:", extra))
        for b in sorted(bound)[:20]
    ]
    assert not missing, f"{len(missing)} missing, {len(extra)} extra\n" + "\n".join(report)
    assert not extra, f"{len(extra)} extra\n" + "\n".join(report)
    return ours


@pytest.mark.parametrize("package", PROGRAMS)
def test_real_programs(package: str, tmp_path: Path) -> None:
    name, *arguments = PROGRAMS[package]
    program = shutil.which(name)
    assert program is not None, f"{name} is not installed: apt-get install {package}"
    bound = compare(program, arguments, tmp_path)
    askers = Counter(b.asker for b in bound)
    assert askers[os.path.realpath(program)] > 10, "the program itself asks for symbols"
    assert len(askers) > 1


@pytest.mark.parametrize("library", ["default", "-Wl,-Bsymbolic", "-Wl,--hash-style=sysv"])
@pytest.mark.parametrize(
    "program", ["-fPIE", "-no-pie -fno-pie", "-fPIC -Wl,-z,nocopyreloc", "-fPIE -DOWN_MALLOC"]
)
def test_every_kind(workshop: Workshop, library: str, program: str, tmp_path: Path) -> None:
    """IFUNC, COPY, protected, DT_SYMBOLIC, weak, interposed; canonical PLT entries without PIE."""
    folder = re.sub(r"\W+", "", f"{library}{program}")
    name = f"{folder}/libbinding.so"
    flags = () if library == "default" else (library,)
    workshop.library(name, "binding_lib.c", flags=("-Wl,-h,libbinding.so", *flags))
    path = workshop.program(f"{folder}/binding", "binding_main.c", name, flags=(*program.split(),))
    bound = compare(str(path), ["visibility"], tmp_path)
    inside = {b.symbol for b in bound if b.asker == b.provider and "libbinding" in b.asker}
    assert "overridable" not in inside or library == "-Wl,-Bsymbolic"
    assert any(b.symbol == "copied_address" for b in bound)
