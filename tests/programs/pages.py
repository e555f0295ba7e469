"""Pages of docs/ that show what they do: files are saved, commands typed, output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .harness import SOURCE

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


def follow(page: str, files: Sequence[str], folder: Path) -> int:
    """Do what docs/``page`` says in ``folder``; gives the number of commands.

    ``files`` are the names under which its blocks of code are saved, in order.
    """
    text = (ROOT / "docs" / page).read_text()
    commands = folder / "bin"
    commands.mkdir()
    for name, module in (("spidl", "-m spidl "), ("python3", "")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        script.chmod(0o755)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))},
        "SPIDL_CACHE": str(folder / "cache"), "NO_COLOR": "1", "PYTHONPATH": str(SOURCE),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PATH": f"{commands}:{os.environ['PATH']}",
    }  # fmt: skip
    names = iter(files)
    typed = 0
    for kind, content in BLOCK.findall(text):
        if kind != "console":
            name = next(names)
            assert f"`{name}`" in text
            (folder / name).write_text(content)
            continue
        for command, expected in steps(content):
            result = subprocess.run(
                command, shell=True, cwd=folder, env=environment, text=True, timeout=120,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            assert fits(expected, result.stdout), f"$ {command}\n{result.stdout}"
            typed += 1
    assert next(names, None) is None
    return typed
