"""docs/tutorial.md does what it says: its files are saved, its commands typed, output compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
EXAMPLES = ROOT / "examples" / "modules"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = ["hello.py", "count.py", "greet.c", "hooks.c", "hook.py", "spidl.toml", "test_hook.py"]
"""The files of the page, in order."""


def steps(console: str) -> list[tuple[str, str]]:
    """(command, output) of a console block."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def fits(expected: str, output: str) -> bool:
    """``...`` alone stands for any lines, within a line for any text; runs of blanks are one."""
    pattern = ""
    for line in expected.splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*"
        else:
            words = [re.escape(word).replace(r"\.\.\.", r".*") for word in line.split()]
            pattern += r"[ ]*" + r"[ ]+".join(words) + r"[ ]*\n"
    return re.fullmatch(pattern, output) is not None


def test_the_tutorial(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("spidl", "-m spidl "), ("python3", "")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        script.chmod(0o755)
    for name in ("no_sockets.py", "refuse.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))}
    environment |= {"SPIDL_CACHE": str(tmp_path / "cache"), "PYTEST_ADDOPTS": "-p no:cacheprovider",
                    "PATH": f"{commands}:{os.environ['PATH']}", "NO_COLOR": "1"}  # fmt: skip
    files = iter(FILES)
    ran = 0
    for kind, content in _BLOCK.findall(TEXT):
        if kind != "console":
            name = next(files)
            assert f"`{name}`" in TEXT
            (tmp_path / name).write_text(content)
            continue
        for command, expected in steps(content):
            result = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, text=True, timeout=60,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            assert fits(expected, result.stdout), f"$ {command}\n{result.stdout}"
            ran += 1
    assert next(files, None) is None
    assert ran >= 10


def test_the_hook_is_the_example() -> None:
    blocks = [content for kind, content in _BLOCK.findall(TEXT) if kind == "python"]
    assert (EXAMPLES / "hook.py").read_text() in blocks


def test_outputs_are_compared() -> None:
    assert fits("a ... c\n...\nz\n", "a  b c\nx\ny\nz\n")
    assert not fits("a\n", "b\n")
    assert not fits("", "b\n")
