"""Threads: stacks under several limits, locks, cancellation, restartable sequences."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from .conftest import Same, Workshop

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture(scope="module")
def program(workshop: Workshop) -> Path:
    return workshop.program("threads", "threads_main.c", flags=("-pthread",))


@pytest.mark.parametrize(
    "behaviour",
    ["default-stack", "main-stack", "locks", "cancel", "keys", "main-leaves", "rseq", "identity",
     "robust"],
)  # fmt: skip
def test_threads(same: Same, program: Path, behaviour: str) -> None:
    same([str(program), behaviour])


@pytest.mark.parametrize("behaviour", ["default-stack", "main-stack"])
@pytest.mark.parametrize("kb", [256, 1000, 2048, 16384, 100_001])
def test_stack_limits(same: Same, program: Path, behaviour: str, kb: int) -> None:
    """glibc takes the default thread stack from the limit at start, not that of the link."""
    outcome = same(
        [str(program), behaviour], limits={resource.RLIMIT_STACK: (kb * 1024, UNLIMITED)}
    )
    if behaviour == "default-stack":
        assert outcome.stdout.startswith(b"default %d," % (-(-kb // 4) * 4096))


@pytest.mark.parametrize("behaviour", ["default-stack", "main-stack"])
def test_unlimited_stack_takes_the_plain_way(same: Same, program: Path, behaviour: str) -> None:
    """The kernel lays memory out bottom-up then, and glibc has another default."""
    limits = {resource.RLIMIT_STACK: (UNLIMITED, UNLIMITED)}
    same([str(program), behaviour], limits=limits, image_is_used=False)


def test_threads_of_a_fixed_program(same: Same, workshop: Workshop) -> None:
    flags = ("-pthread", "-no-pie", "-fno-pie")
    fixed = workshop.program("threads-fixed", "threads_main.c", flags=flags)
    for behaviour in ("default-stack", "locks", "cancel", "rseq"):
        same([str(fixed), behaviour])
