"""docs/authorise.md does what it says: its files are saved, its commands typed, output compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from spidl.modules.authorise.interfaces import glibc

from .pages import follow

TEXT = (Path(__file__).parents[2] / "docs" / "authorise.md").read_text()


def test_the_example(tmp_path: Path) -> None:
    assert follow("authorise.md", ["greet.c", "main.c", "greet2.c"], tmp_path) == 9


@pytest.mark.parametrize("name", [
    "memory", "files.open", "files.change", "network.sockets", "processes.start",
    "executable-memory", "dynamic-linking.open", "system-calls", "dynamic-linking.look",
])  # fmt: skip
def test_the_interfaces_that_it_names_exist(name: str) -> None:
    assert f"`{name}`" in TEXT
    assert name in glibc().interfaces.names
