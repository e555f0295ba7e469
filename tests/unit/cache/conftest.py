"""A store in a folder of the test's own, and the one input of what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from spidl.cache.store import Store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "input"
    path.write_text("linked")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "cache"))
