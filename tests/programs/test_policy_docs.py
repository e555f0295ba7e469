"""docs/authorise.md does what it says: its files are saved, its commands typed, output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spidl.modules.authorise.interfaces import glibc
from tests.test_tutorial import fits, steps

TEXT = (Path(__file__).parents[2] / "docs" / "authorise.md").read_text()
_FILE = re.compile(r"^`([\w.]+)`\n\n```c\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_example(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    script = commands / "spidl"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m spidl "$@"\n')
    script.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))}
    environment |= {"SPIDL_CACHE": str(tmp_path / "cache"), "NO_COLOR": "1",
                    "PATH": f"{commands}:{os.environ['PATH']}"}  # fmt: skip
    files = _FILE.findall(TEXT)
    assert len(files) == 3
    for name, content in files:
        (tmp_path / name).write_text(content)
    ran = 0
    for console in _CONSOLE.findall(TEXT):
        for command, expected in steps(console):
            result = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, text=True, timeout=60,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            assert fits(expected, result.stdout), f"$ {command}\n{result.stdout}"
            ran += 1
    assert ran == 9


@pytest.mark.parametrize("name", [
    "memory", "files.open", "files.change", "network.sockets", "processes.start",
    "executable-memory", "dynamic-linking.open", "system-calls", "dynamic-linking.look",
])  # fmt: skip
def test_the_interfaces_that_it_names_exist(name: str) -> None:
    assert f"`{name}`" in TEXT
    assert name in glibc().interfaces.names
