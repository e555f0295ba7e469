"""``spidl analyse --all`` from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl.cli.main import main
from tests.distribution.conftest import deb, elf

Tree = Callable[..., Path]


def spidl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spidl", "analyse", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_folder_its_report_and_the_run_that_follows(tree: Tree, tmp_path: Path) -> None:
    folder = tree("t", {"liba.so": elf("liba.so"), "b.deb": deb("b", {"/libb.so": elf("libb.so")})})
    store, page = str(tmp_path / "s.db"), tmp_path / "page.html"
    first = spidl("--all", str(folder), "--store", store, "--jobs", "1", "--report", str(page))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("2 files analysed in ")
    assert page.read_text().startswith("<!DOCTYPE html>")
    again = spidl("--all", str(folder), "--store", store, "--json")
    told = json.loads(again.stdout)
    assert told["run"]["analysed"] == 0
    assert told["objects"] == 2


def test_stores_are_merged_a_shared_folder_too(tree: Tree, tmp_path: Path) -> None:
    folders = [tree(name, {f"lib{name}.so": elf(f"lib{name}.so")}) for name in "ab"]
    shared = f"file://{tmp_path}/shared"
    stores = [str(tmp_path / "a.db"), shared]
    for folder, store in zip(folders, stores, strict=True):
        assert spidl("--all", str(folder), "--store", store, "--jobs", "1").returncode == 0
    merge = [word for store in stores for word in ("--merge", store)]
    done = spidl(*merge, "--store", str(tmp_path / "all.db"), "--json")
    assert json.loads(done.stdout)["objects"] == 2


def test_a_failed_file_is_counted_and_the_status_says_so(tree: Tree, tmp_path: Path) -> None:
    folder = tree("t", {"liba.so": elf("liba.so"), "bad.so": elf("bad.so")[:300]})
    done = spidl("--all", str(folder), "--store", str(tmp_path / "s.db"), "--jobs", "1")
    assert done.returncode == 2
    assert "1 failed" in done.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--all", "/nowhere"], "distribution/no-folder"),
        (["--report", "page.html"], "distribution/store"),
        (["--all", ".", "--jobs", "0"], "cli/usage"),
        (["--all", ".", "--timeout", "-1"], "cli/usage"),
        (["--all", ".", "file"], "cli/usage"),
        (["--all", ".", "--store", "memory://x", "--report", "p.html"], "cli/usage"),
        (["--all", ".", "--store", "nonsense://x"], "distribution/url"),
        ([], "cli/usage"),
    ],
)
def test_wrong_words(
    words: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["analyse", *words]) == 2
    signal.signal(signal.SIGTERM, before)
    assert f"error[{code}]" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    tree: Tree, tmp_path: Path, number: signal.Signals
) -> None:
    libc = Path(os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6")).read_bytes()
    folder = tree("t", {"p.deb": deb("p", {"/a.so": elf("a.so"), "/libc.so.6": libc})})
    store = tmp_path / "s.db"
    words = ["--all", str(folder), "--store", str(store), "--jobs", "1"]
    running = subprocess.Popen(
        [sys.executable, "-m", "spidl", "analyse", *words], stderr=subprocess.PIPE, text=True
    )
    while not store.exists():
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(number)
    _, told = running.communicate()
    if running.returncode != 0:  # else it was through already
        assert running.returncode == 130
        assert "the same command goes on" in told
    assert spidl(*words).returncode == 0
    assert json.loads(spidl(*words, "--json").stdout)["objects"] == 2
