"""Pages of docs/ that show what they do: files are saved, commands typed, output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.test_tutorial import ROOT, fits, steps

from .harness import SOURCE

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(page: str, files: Sequence[str], folder: Path) -> int:
    """Do what docs/``page`` says in ``folder``; gives the number of commands.

    ``files`` are the names under which its blocks of code are saved, in order.
    """
    text = (ROOT / "docs" / page).read_text()
    script = folder / "bin" / "spidl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m spidl "$@"\n')
    script.chmod(0o755)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))},
        "SPIDL_CACHE": str(folder / "cache"), "NO_COLOR": "1", "PYTHONPATH": str(SOURCE),
        "PATH": f"{script.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    names = iter(files)
    typed = 0
    for kind, content in _BLOCK.findall(text):
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
