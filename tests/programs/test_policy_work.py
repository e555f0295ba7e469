"""Real work under the policy that was learned of each program: nothing that it does is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from .filtered_work import Filtered
from .policy_work import SMALL, check


@pytest.mark.parametrize("work", SMALL, ids=lambda work: work.name)
def test_nothing_is_refused(work: Filtered, tmp_path: Path) -> None:
    check(work, tmp_path)
