"""Real work under filters that kill: nothing that a program does is stopped.

The oracle is strace: what the program asks for under the system's linker must be allowed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.needs import tool

from .filtered_work import SMALL, Filtered
from .filtering import BY_LINKER, do, stopped

MOST = 250
"""So many calls may be allowed at most: a filter that allows all would pass otherwise."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One folder, so that each library is analysed once."""
    return os.environ.get("SPIDL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("work", SMALL, ids=lambda work: work.name)
def test_nothing_is_stopped(work: Filtered, cache: str, tmp_path: Path) -> None:
    program = Path(os.path.realpath(tool(work.name, work.package)))
    done = do(work, program, tmp_path, {"SPIDL_CACHE": cache})
    for words, before, after in zip(work.commands, done.plain, done.filtered, strict=True):
        assert not stopped(after) or stopped(before), f"{words}: {after}"
        assert (before.stdout, before.status) == (after.stdout, after.status), words
    assert done.beyond == set()
    assert len(done.allowed) <= MOST
    if work.is_traced:
        assert len(done.seen.own - BY_LINKER) > 5, "strace saw the program"
