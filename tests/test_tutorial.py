"""docs/tutorial.md does what it says: its files are saved, its commands typed, output compared."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.programs.pages import BLOCK, ROOT, fits, follow

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
EXAMPLES = ROOT / "examples" / "modules"
FILES = ["hello.py", "count.py", "greet.c", "hooks.c", "hook.py", "spidl.toml", "test_hook.py"]
"""The files of the page, in order."""


def test_the_tutorial(tmp_path: Path) -> None:
    for name in ("no_sockets.py", "refuse.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    assert follow("tutorial.md", FILES, tmp_path) >= 10


def test_the_hook_is_the_example() -> None:
    blocks = [content for kind, content in BLOCK.findall(TEXT) if kind == "python"]
    assert (EXAMPLES / "hook.py").read_text() in blocks


def test_outputs_are_compared() -> None:
    assert fits("a ... c\n...\nz\n", "a  b c\nx\ny\nz\n")
    assert not fits("a\n", "b\n")
    assert not fits("", "b\n")
