"""docs/capsule.md does what it says: its files are saved, its commands typed, output compared."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

from spidl.launch import command as launcher
from spidl.modules.capsule.settings import Capsule
from tests.test_tutorial import fits, steps

TEXT = (Path(__file__).parents[2] / "docs" / "capsule.md").read_text()
_FILE = re.compile(r"^`([\w.]+)`\n\n```c\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_example(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    script = commands / "spidl"
    words = " ".join(f"'{word}'" for word in launcher())
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))}
    environment |= {"SPIDL_CACHE": str(tmp_path / "cache"), "NO_COLOR": "1",
                    "PATH": f"{commands}:{os.environ['PATH']}"}  # fmt: skip
    files = _FILE.findall(TEXT)
    assert len(files) == 4
    folder = tmp_path / "work"
    folder.mkdir()
    for name, content in files:
        (folder / name).write_text(content)
    ran = 0
    for console in _CONSOLE.findall(TEXT):
        for command, expected in steps(console):
            result = subprocess.run(
                command, shell=True, cwd=folder, env=environment, text=True, timeout=60,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            assert fits(expected, result.stdout), f"$ {command}\n{result.stdout}"
            ran += 1
    assert ran == 12


def test_the_table_has_every_setting() -> None:
    table = re.findall(r"^\| `(\w+)` \| [A-Z]", TEXT, re.MULTILINE)
    known = {field.name for field in fields(Capsule)} - {"name", "links"}
    assert set(table) == known
