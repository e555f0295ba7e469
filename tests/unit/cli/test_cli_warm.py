"""`spidl warm`: many links at a time, in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_answers import compile_c

SOURCE = Path(__file__).parents[3] / "src"
WARM = [sys.executable, "-P", "-m", "spidl", "warm"]
SLOW = """
import time
from spidl.api import COLLECT, Module
class Slow(Module):
    def register(self, dso, pipeline):
        if dso.is_root:
            pipeline.weak(COLLECT, self.wait)
    def wait(self, dso, link):
        open(f"{dso.path}.began", "w").close()
        time.sleep(60)
        return []
"""
CRASH = """
import os
from spidl.api import COLLECT, Module
class Crash(Module):
    def register(self, dso, pipeline):
        if dso.is_root and dso.path.endswith("second"):
            pipeline.weak(COLLECT, self.crash)
    def crash(self, dso, link):
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the programs bin/first, bin/second and bin/third, and an empty cache."""
    for name in list(os.environ):
        if name.startswith(("LD_", "SPIDL_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "bin"
    folder.mkdir()
    compile_c(tmp_path, "program", "int main(void) { return 7; }")
    for name in ("first", "second", "third"):
        shutil.copy(tmp_path / "program", folder / name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SPIDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def warm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WARM, *words], capture_output=True, text=True, check=False)


def answer(*words: str | Path) -> dict[str, Any]:
    done = warm("--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def states(found: dict[str, Any]) -> dict[str, str]:
    return {os.path.basename(outcome["program"]): outcome["state"] for outcome in found["programs"]}


def images(place: Path) -> list[str]:
    return sorted(os.listdir(place / "cache" / "images"))


def test_a_folder_is_linked_once(place: Path) -> None:
    folder = place / "bin"
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    (folder / "text").write_text("no program")
    (folder / "damaged").write_bytes((folder / "first").read_bytes()[:40])
    (folder / "damaged").chmod(0o755)
    (folder / "unexecutable").write_bytes((folder / "first").read_bytes())
    shutil.copy("/lib/x86_64-linux-gnu/libc.so.6", folder)
    (folder / "libc.so.6").chmod(0o755)
    compile_c(place, "library", "int f(void) { return 1; }", "-shared", "-fPIC")
    shutil.copy(place / "library", folder / "library")
    compile_c(place, "static", "int main(void) { return 1; }", "-static")
    shutil.copy(place / "static", folder / "static")
    (folder / "below").mkdir()
    shutil.copy(folder / "first", folder / "below" / "deep")
    found = answer("--all", "bin", "--jobs", "2")
    assert states(found) == {"first": "linked", "second": "linked", "third": "linked"}
    assert found["counts"] == {"linked": 3, "already valid": 0, "refused": 0, "failed": 0}
    kept = images(place)
    assert len(kept) == 3
    again = answer("--all", "bin", "./bin/first", folder / "first")
    assert states(again) == dict.fromkeys(("first", "second", "third"), "already valid")
    assert images(place) == kept


def test_a_warm_program_starts_through_its_image(place: Path) -> None:
    answer("bin/first")
    script = "import spidl.launch, sys, os; words = spidl.launch.command('run', *sys.argv[1:]); "
    script += "os.execv(words[0], words)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "bin/first"], capture_output=True, text=True,
        env={**os.environ, "SPIDL_RELINK": "never", "SPIDL_VERBOSE": "1"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (7, "")


def test_refusals_are_no_failures(place: Path) -> None:
    (place / "bin" / "first").chmod(0o4755)
    found = answer("bin/first", "bin/second")
    assert states(found) == {"first": "refused", "second": "linked"}
    assert [o["code"] for o in found["programs"]] == ["exec/privileged", None]
    text = warm("bin/first", "bin/second")
    assert "exec/privileged (1): first" in text.stdout
    assert "already valid" in text.stdout
    assert text.stderr == "", "a progress bar is for terminals"


def test_one_failure_is_told_and_the_others_are_linked(place: Path) -> None:
    script = place / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    done = warm("--json", "./script", "no-such-program", "bin/first")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert states(found) == {"script": "failed", "no-such-program": "failed", "first": "linked"}
    codes = {outcome["code"] for outcome in found["programs"]}
    assert codes == {"parse/not-elf", "collect/no-program", None}


def test_a_crash_takes_no_other_link_with_it(place: Path) -> None:
    (place / "crash.py").write_text(CRASH)
    done = warm("--json", "--with=./crash.py", "--jobs=2", "--all=bin")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert states(found) == {"first": "linked", "second": "failed", "third": "linked"}
    [message] = [o["message"] for o in found["programs"] if o["code"] == "internal/crash"]
    assert "signal 9" in message


def test_a_pipeline_that_cannot_be_is_one_error(place: Path) -> None:
    done = warm("--with=no-such-module", "--all=bin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("error[register/unknown-module]") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "cli/usage"),
        (["--jobs=0", "bin/first"], "cli/usage"),
        (["--all", "no-such-folder"], "warm/no-folder"),
        (["--all", "bin/first"], "warm/no-folder"),
    ],
)
def test_bad_requests(place: Path, words: list[str], code: str) -> None:
    done = warm(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count(f"error[{code}]") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_half_done(place: Path, number: signal.Signals) -> None:
    (place / "slow.py").write_text(SLOW)
    answer("bin/third")
    kept = images(place)
    process = subprocess.Popen([*WARM, "--with=./slow.py", "--jobs=2", "--all=bin"],
                               start_new_session=True)  # fmt: skip
    while len(list(place.glob("bin/*.began"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    assert process.wait(30) == 130
    assert images(place) == kept
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_terminal_sees_how_far_it_is(place: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*WARM, "--jobs=1", "--all=bin"], stdout=subprocess.DEVNULL, stderr=child
    )
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 4096)
        except OSError:  # what a pseudo-terminal says at its end
            break
        if not piece:
            break
        shown += piece
    os.close(parent)
    assert process.wait(30) == 0
    assert b"0/3 first" in shown
    assert b"2/3 third" in shown
    assert shown.endswith(b"\r\x1b[K")
