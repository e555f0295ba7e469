"""A small program with two libraries, and a way to run one command in this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_answers import Answer, Command, compile_c

from spidl.cli.main import main

MAIN = """
#include <stdio.h>
int first(void), second(void);
extern int shared_number;
int main(void) { printf("%d\\n", first() + second() + shared_number); return 0; }
"""
FIRST = """
int second(void);
__attribute__((weak)) int nobody(void);
int first(void) { return nobody ? nobody() : second(); }
int twice(void) { return 1; }
"""
SECOND = "int shared_number = 3; int second(void) { return 2; } int twice(void) { return 2; }"


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """``command("tree", path)``, without the user's own settings and steering variables."""
    for name in list(os.environ):
        if name.startswith(("LD_", "SPIDL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*argv: str | Path) -> Answer:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in argv])
        except SystemExit as end:  # --help
            status = int(str(end.code or 0))
        out, err = capfd.readouterr()
        return Answer(status, out, err)

    return run


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the program; the tests that break something copy it."""
    folder = tmp_path_factory.mktemp("program")
    shared = ("-shared", "-fPIC")
    compile_c(folder, "libsecond.so", SECOND, *shared, "-Wl,-h,libsecond.so")
    compile_c(folder, "libfirst.so", FIRST, *shared, "-Wl,-h,libfirst.so", "-lsecond",
              "-Wl,-rpath,$ORIGIN")  # fmt: skip
    compile_c(folder, "program", MAIN, "-no-pie", "-fno-pie", "-lfirst", "-lsecond",
              "-Wl,-rpath,$ORIGIN", "-Wl,-z,now", "-Wl,-z,relro")  # fmt: skip
    return folder


@pytest.fixture
def program(original: Path) -> Path:
    return original / "program"
