"""docs/capsule.md does what it says: its files are saved, its commands typed, output compared."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from spidl.modules.capsule.settings import Capsule

from .pages import follow

TEXT = (Path(__file__).parents[2] / "docs" / "capsule.md").read_text()


def test_the_example(tmp_path: Path) -> None:
    assert follow("capsule.md", ["old.c", "new.c", "greet.c", "main.c"], tmp_path) == 12


def test_the_table_has_every_setting() -> None:
    table = re.findall(r"^\| `(\w+)` \| [A-Z]", TEXT, re.MULTILINE)
    known = {field.name for field in fields(Capsule)} - {"name", "links"}
    assert set(table) == known
