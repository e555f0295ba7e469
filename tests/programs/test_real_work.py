"""Real programs at real work, in scratch folders, in both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import missing

from .harness import Images, Layout
from .work import ALL, Work


@pytest.mark.parametrize("work", ALL, ids=lambda work: work.name)
def test_real_work(work: Work, layout: Layout, images: Images, tmp_path: Path) -> None:
    if lacking := work.missing():
        missing(f"not installed: {', '.join(lacking)}")
    try:
        work.compare(tmp_path / "scratch", layout, images)
    finally:
        images.trim(50 << 20)
