"""One child a time: what a file can do to it, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl.analyse.summary import Summary
from spidl.diagnostics import LinkError
from spidl.distribution.files import identity
from spidl.distribution.lane import Lane
from spidl.distribution.pool import Pool
from spidl.distribution.values import Job, Outcome
from spidl.elf import ElfFile
from tests.distribution.analysers import QUICK, TROUBLED
from tests.distribution.conftest import ROOT, elf


def job(folder: Path, soname: str) -> Job:
    path = folder / soname
    path.write_bytes(elf(soname))
    return Job(identity(ElfFile.open(str(path))), str(path), soname)


def code(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error.partition('"code": "')[2].partition('"')[0]


@pytest.fixture
def lane() -> Lane:
    return Lane(2, TROUBLED)


def test_a_summary_comes_back(lane: Lane, tmp_path: Path) -> None:
    outcome = lane.analyse(job(tmp_path, "liba.so"))
    assert outcome.summary is not None
    assert Summary.from_bytes(outcome.summary).soname == "liba.so"
    lane.stop()


@pytest.mark.parametrize(
    ("soname", "expected"),
    [
        ("crash", "distribution/crash"),
        ("hang", "distribution/timeout"),
        ("fault", "internal/fault"),
        ("error", "parse/truncated"),
    ],
)
def test_a_bad_file_is_one_failure_and_the_next_is_fine(
    lane: Lane, tmp_path: Path, soname: str, expected: str
) -> None:
    assert code(lane.analyse(job(tmp_path, soname))) == expected
    assert lane.analyse(job(tmp_path, "liba.so")).summary is not None
    lane.stop()


def test_a_file_that_changed_is_not_taken_for_the_old_one(lane: Lane, tmp_path: Path) -> None:
    wanted = job(tmp_path, "liba.so")
    Path(wanted.path).write_bytes(elf("libb.so"))
    assert code(lane.analyse(wanted)) == "distribution/changed"
    os.unlink(wanted.path)
    assert code(lane.analyse(wanted)) == "parse/not-found"
    lane.stop()


def test_bytes_instead_of_a_path(lane: Lane, tmp_path: Path) -> None:
    wanted = job(tmp_path, "liba.so")
    content = Path(wanted.path).read_bytes()
    os.unlink(wanted.path)
    assert lane.analyse(wanted, content).summary is not None
    lane.stop()


def test_stop_ends_a_wait(tmp_path: Path) -> None:
    lane = Lane(3600, TROUBLED)
    threading.Timer(1, lane.stop).start()
    with pytest.raises(LinkError) as caught:
        lane.analyse(job(tmp_path, "hang"))
    assert caught.value.code == "distribution/stopped"
    with pytest.raises(LinkError):
        lane.analyse(job(tmp_path, "liba.so"))


def test_an_analyser_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        Lane(5, "tests.distribution.nowhere:quick").analyse(job(tmp_path, "a"))
    assert caught.value.code == "distribution/worker"


def test_a_child_ends_with_its_parent_even_if_it_hangs(tmp_path: Path) -> None:
    job(tmp_path, "hang")
    script = (
        "from spidl.distribution.lane import Lane\n"
        "from tests.distribution.test_lane import job\n"
        "from pathlib import Path\n"
        f"Lane(3600, {TROUBLED!r}).analyse(job(Path({str(tmp_path)!r}), 'hang'))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    child = _until(lambda: _child_of(parent.pid))
    _until(lambda: _is_working(child))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _until(lambda: not os.path.exists(f"/proc/{child}"))


def _until(what: Callable[[], int | bool]) -> int:
    for _ in range(600):
        found = what()
        if found:
            return int(found)
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def _child_of(pid: int) -> int:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def _is_working(pid: int) -> bool:
    """Whether the analyser sleeps: the main thread waits in clock_nanosleep."""
    return "nanosleep" in Path(f"/proc/{pid}/task/{pid}/wchan").read_text()


def test_a_pool_gives_every_job_a_child_of_its_own(tmp_path: Path) -> None:
    pool = Pool(2, 60, QUICK)
    jobs = [job(tmp_path, f"lib{at}.so") for at in range(6)]
    assert all(pool.analyse(one).summary is not None for one in jobs)
    pool.stop()
