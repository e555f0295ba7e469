"""``spidl analyse`` as a person and as a program uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from spidl.analyse import Summary, analyse
from spidl.elf import ElfFile
from tests.analyse.building import build

LIBM = "/lib/x86_64-linux-gnu/libm.so.6"
SOURCE = """
#include <unistd.h>
long known(void) { return syscall(39); }
long any(long n) { return syscall(n); }
"""


def spidl(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spidl", "analyse", *words], capture_output=True, text=True,
        env={**os.environ, "SPIDL_CACHE": str(folder / "cache")}, check=False,
    )  # fmt: skip


def test_text(tmp_path: Path) -> None:
    path = str(build(tmp_path, SOURCE, "-shared", "-fPIC", "-O2"))
    result = spidl(tmp_path, path, LIBM)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert path in lines
    assert LIBM in lines
    assert any(line.startswith("always") for line in lines)
    assert any(line.startswith("any at 0x") for line in lines), "the place that is not known"
    functions = spidl(tmp_path, "--functions", path).stdout
    assert "known " in functions


def test_json_is_the_summary(tmp_path: Path) -> None:
    for _ in range(2):  # made, then kept
        (found,) = json.loads(spidl(tmp_path, "--json", LIBM).stdout)
        made: Summary = analyse(ElfFile.open(LIBM))
        assert found == {"file": LIBM, **json.loads(json.dumps(made.to_json()))}


def test_errors(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no ELF file")
    for words, code in (
        ((str(text),), "parse/not-elf"),
        ((str(tmp_path / "missing"),), "parse/not-found"),
        ((LIBM, "-o", "x"), "cli/usage"),
        (("--embed", LIBM), "cli/usage"),
        (("--embed", LIBM, "-o", str(tmp_path / "no" / "folder")), "cli/cannot-write"),
    ):
        result = spidl(tmp_path, *words)
        assert result.returncode == 2
        assert f"error[{code}]" in result.stderr
