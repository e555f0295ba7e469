"""Linking is total: whatever the files hold, a link or a LinkError, in bounded time and memory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutants import Corpus, limited, make_targets
from tests.needs import tool

ROUNDS = int(os.environ.get("SPIDL_FUZZ_ROUNDS", "300"))
PEAK = 1 << 30
"""Bytes of memory that mutants may add to what the test process holds."""


def _memory(field: str) -> int:
    """A line of /proc/self/status, in bytes (proc(5))."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    tool("gcc", "gcc")
    made = Corpus(make_targets(tmp_path_factory.mktemp("targets")))
    with limited():
        yield made


@settings(max_examples=ROUNDS, deadline=None, suppress_health_check=list(HealthCheck))
@given(pick=st.randoms(use_true_random=False))
def test_mutants_are_linked_or_refused(corpus: Corpus, pick: random.Random) -> None:
    """Hypothesis makes every random choice, so it can shrink what it finds."""
    code = corpus.survive(pick)
    assert code == "linked" or "/" in code


def test_seeds_link(corpus: Corpus) -> None:
    """Undamaged, each of them must: else the mutants would only be tests of one error."""
    from mutants import link

    assert [link(t.folder / t.program) for t in corpus.targets] == ["linked"] * len(corpus.targets)


def test_many_kinds_of_damage_are_met(corpus: Corpus) -> None:
    """The same mutants each time: they must get past the parser, and into every phase."""
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # begin anew: other tests ran in this process
    before = _memory("VmRSS")
    codes = {corpus.survive(random.Random(seed)) for seed in range(250)}
    phases = {code.partition("/")[0] for code in codes}
    assert {"linked", "parse", "collect", "relocate"} <= phases, codes
    assert len(codes) > 12, codes
    assert _memory("VmHWM") - before < PEAK
