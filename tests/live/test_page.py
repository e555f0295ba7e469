"""docs/live.md does what it says: each Python block is run and its output compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "live.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page(script: Callable[..., str]) -> None:
    blocks = _BLOCK.findall(PAGE.read_text())
    assert len(blocks) == 4
    for code, expected in blocks:
        pattern = re.escape(expected).replace(r"\.\.\.", ".*")
        output = script(code)
        assert re.fullmatch(pattern, output), output


def test_it_names_real_things() -> None:
    from spidl import live

    text = PAGE.read_text()
    for name in re.findall(r"`(?:Library|live)\.(\w+)", text):
        assert hasattr(live, name) or hasattr(live.Library, name), name
