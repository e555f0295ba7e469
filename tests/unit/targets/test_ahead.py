"""Runs that a second process makes: the same as one's own, and nothing is left of them."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from capturing import HELLO, children, compile_c, plan, static

import spidl
from spidl.diagnostics import LinkError, Refusal
from spidl.targets.exec import ahead as module
from spidl.targets.exec.ahead import Ahead
from spidl.targets.exec.capture import CapturePlan, Snapshot, capture


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_c(tmp_path_factory.mktemp("hello") / "hello", HELLO)


def ahead_of(*plans: CapturePlan) -> Ahead:
    ahead = Ahead()
    assert ahead.start(list(plans)), "the test's own process has no second processor"
    return ahead


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under xdist there is a second thread, which holds no lock that the worker wants."""
    monkeypatch.setattr(module, "_may_fork", lambda: True)


def content(snapshot: Snapshot) -> list[tuple[int, int]]:
    return [(region.address, region.end) for region in snapshot.regions]


def test_the_same_as_ones_own(hello: str) -> None:
    made = plan(hello)
    others = children()
    before = set(os.listdir("/proc/self/fd"))
    with ahead_of(made, made) as ahead:
        assert ahead.fits([made, made])
        found = ahead.results()
        assert found is not None
        assert not ahead.fits([made, made]), "results are given once"
    own = capture(made)
    for snapshot in found:
        assert snapshot.plan is made
        assert content(snapshot) == content(own)
        assert [v.path for v in snapshot.files] == [v.path for v in own.files]
        assert set(snapshot.files) <= set(snapshot.vmas)
        assert [record.call for record in snapshot.calls] == [record.call for record in own.calls]
        assert snapshot.anchors.auxv_values.keys() == own.anchors.auxv_values.keys()
        assert snapshot.vdso == own.vdso
        same = [
            np.array_equal(a.content, b.content)
            for a, b in zip(snapshot.regions, own.regions, strict=True)
        ]
        assert same.count(True) >= len(same) // 2
        writable = [region.content for region in snapshot.regions if region.content.flags.writeable]
        assert np.array_equal(np.concatenate(writable), snapshot.own)
    del found, snapshot, writable, same
    assert set(os.listdir("/proc/self/fd")) <= before
    assert children() <= others


def test_only_what_was_begun_fits(hello: str) -> None:
    made = plan(hello)
    with ahead_of(made) as ahead:
        assert ahead.fits([dataclasses.replace(made)])
        assert not ahead.fits([dataclasses.replace(made, stack_limit=1 << 24)])
        assert not ahead.fits([made, made])


@pytest.mark.parametrize("kind", [LinkError, Refusal])
def test_an_error_waits_until_somebody_asks(hello: str, tmp_path: Path, kind: type) -> None:
    made = plan(hello)
    bad = dataclasses.replace(made, stop=0xFFFF_FFFF_8000_0000)
    if kind is LinkError:
        bad = plan(static(tmp_path / "illegal", "ud2"), libraries=(), stop=64)
    with pytest.raises(kind) as expected:
        capture(bad)
    with ahead_of(made, bad) as ahead, pytest.raises(kind) as caught:
        ahead.results()
    assert type(caught.value) is type(expected.value)
    assert caught.value.diagnostic == expected.value.diagnostic


def test_a_worker_that_is_lost(hello: str) -> None:
    with ahead_of(plan(hello)) as ahead:
        os.kill(ahead._worker, signal.SIGKILL)
        assert ahead.results() is None


def test_leaving_ends_the_worker_and_its_program(tmp_path: Path) -> None:
    forever = static(tmp_path / "forever", "1: jmp 1b")
    script = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from capturing import plan
from spidl.targets.exec.ahead import Ahead
made = plan(sys.argv[1], libraries=(), stop=64, timeout=60)
def running():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += [pid] if os.readlink(f"/proc/{pid}/exe") == sys.argv[1] else []
        except OSError:
            pass
    return found
with Ahead() as ahead:
    assert ahead.start([made])
    while not running():
        time.sleep(0.01)
    if len(sys.argv) > 3:
        os._exit(0)
for _ in range(1000):
    if not running():
        print("gone")
        break
    time.sleep(0.01)
"""
    here = str(Path(__file__).parent)
    source = str(Path(spidl.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, forever, here],
        env={**os.environ, "PYTHONPATH": source, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "gone\n"


def test_a_link_makes_one_run_itself(hello: str, tmp_path: Path) -> None:
    """The two others are ahead: what load told is what adoption wants."""
    script = """
import sys
import spidl.session as session
request = session.Request(sys.argv[1])
session.make_link(request)  # imports numpy without threads
from spidl.targets.exec import adopt
made, original = [], adopt.capture
def count(plan, **options):
    made.append(options)
    return original(plan, **options)
adopt.capture = count
content, link = session.build(request)
from spidl.link.runtime import EXPECTED_RUNTIME, RUNTIME
assert link.facts[EXPECTED_RUNTIME] == link.facts[RUNTIME]
print(made, len(content) > 4096)
"""
    source = str(Path(spidl.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, hello],
        env={**os.environ, "PYTHONPATH": source, "SPIDL_CACHE": str(tmp_path / "cache")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[{'beside': True}] True\n"
