"""Runs: nothing twice, nothing lost, whatever ends them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl.analyse.summary import VERSION
from spidl.diagnostics import LinkError
from spidl.distribution.pool import Pool
from spidl.distribution.run import Counts, Run
from spidl.distribution.store import Store
from tests.distribution.analysers import QUICK, SLOW, TROUBLED
from tests.distribution.conftest import ROOT, deb, elf

Tree = Callable[..., Path]


def run(
    folder: Path, store: Path, analyser: str = QUICK, *, retry: bool = False, timeout: float = 60
) -> Counts:
    with Store(str(store)) as sink:
        return Run(sink, Pool(2, timeout, analyser), lambda _: None, retry=retry).over(
            [str(folder)]
        )


def rows(store: Path) -> dict[str, tuple[object, ...]]:
    with sqlite3.connect(store) as base:
        return {row[0]: row for row in base.execute("SELECT * FROM objects")}


def test_trees_and_packages_together(tree: Tree, tmp_path: Path) -> None:
    folder = tree(
        "t",
        {
            "usr/lib/liba.so": elf("liba.so"),
            "copy/liba.so": elf("liba.so"),
            "debs/b.deb": deb("b", {"/usr/lib/libb.so": elf("libb.so"), "/x": elf("liba.so")}),
            "debs/bad.deb": deb("c", {"/usr/lib/libc.so": elf("libc.so")})[:-200],
        },
    )
    counts = run(folder, tmp_path / "s.db")
    assert (counts.files, counts.packages, counts.known) == (4, 2, 2)
    assert (counts.analysed, counts.failed) == (2, 1)
    with Store(str(tmp_path / "s.db")) as store:
        found = {(os.path.basename(f.package), os.path.basename(f.path)) for f in store.files()}
        assert found == {("liba.so", "liba.so"), ("b", "libb.so"), ("b", "x")}
        assert [os.path.basename(what) for what, _ in store.failures()] == ["bad.deb"]


def test_a_second_run_has_nothing_to_do(tree: Tree, tmp_path: Path) -> None:
    folder = tree("t", {"a": elf("liba.so"), "b.deb": deb("b", {"/libb.so": elf("libb.so")})})
    run(folder, tmp_path / "s.db")
    before = rows(tmp_path / "s.db")
    counts = run(folder, tmp_path / "s.db", "no.such:analyser")
    assert (counts.analysed, counts.packages_read) == (0, 1)
    assert rows(tmp_path / "s.db") == before


def test_an_update_costs_only_what_is_new(tree: Tree, tmp_path: Path) -> None:
    folder = tree("t", {"liba.so": elf("liba.so"), "libb.so": elf("libb.so")})
    run(folder, tmp_path / "s.db")
    (folder / "libb.so").write_bytes(elf("libb.so", "liba.so"))
    assert run(folder, tmp_path / "s.db").analysed == 1


def test_another_version_of_the_analyser_does_all_again(tree: Tree, tmp_path: Path) -> None:
    folder = tree("t", {"liba.so": elf("liba.so"), "b.deb": deb("b", {"/b": elf("libb.so")})})
    run(folder, tmp_path / "s.db")
    with sqlite3.connect(tmp_path / "s.db") as base:
        base.execute("UPDATE objects SET version = ?", (VERSION - 1,))
    assert run(folder, tmp_path / "s.db").analysed == 2


def test_bad_files_do_not_end_a_run_and_can_be_retried(tree: Tree, tmp_path: Path) -> None:
    names = ["crash", "hang", "fault", "error", "liba.so", "libb.so"]
    folder = tree("t", {name: elf(name) for name in names})
    counts = run(folder, tmp_path / "s.db", TROUBLED, timeout=3)
    assert (counts.analysed, counts.failed) == (6, 4)
    assert run(folder, tmp_path / "s.db").analysed == 0
    again = run(folder, tmp_path / "s.db", retry=True)
    assert (again.analysed, again.failed) == (4, 0)


def test_what_ends_a_run_is_raised_and_what_was_done_is_kept(tree: Tree, tmp_path: Path) -> None:
    folder = tree("t", {f"lib{at}.so": elf(f"lib{at}.so") for at in range(40)})

    def interrupt(counts: Counts) -> None:
        if counts.analysed == 10:
            raise KeyboardInterrupt

    with Store(str(tmp_path / "s.db")) as store, pytest.raises(KeyboardInterrupt):
        Run(store, Pool(2, 60, QUICK), interrupt).over([str(folder)])
    assert len(rows(tmp_path / "s.db")) == 10
    assert run(folder, tmp_path / "s.db").analysed == 30
    with pytest.raises(LinkError) as caught:
        run(tree("u", {"x": elf("x")}), tmp_path / "s.db", "no.such:analyser")
    assert caught.value.code == "distribution/worker"


def test_kill_9_in_the_middle_loses_nothing_and_repeats_nothing(tree: Tree, tmp_path: Path) -> None:
    files = {f"lib{at}.so": elf(f"lib{at}.so") for at in range(30)}
    package = {f"/usr/lib/libp{at}.so": elf(f"libp{at}.so") for at in range(30)}
    folder = tree("t", {**files, "p.deb": deb("p", package)})
    store = tmp_path / "s.db"
    script = (
        "from pathlib import Path\n"
        "from tests.distribution.test_run import run\n"
        f"run(Path({str(folder)!r}), Path({str(store)!r}), {SLOW!r})\n"
    )
    sizes = []
    for goal in (10, 40):
        child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        for _ in range(1200):
            if store.exists() and _count(store) >= goal:
                break
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        sizes.append(_count(store))
    assert 10 <= sizes[0] < sizes[1] < 60
    before = rows(store)
    counts = run(folder, store)
    after = rows(store)
    assert len(after) == 60
    assert counts.analysed == 60 - len(before)
    assert {key: after[key] for key in before} == before, "what was done is not done again"


def _count(store: Path) -> int:
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10) as base:
            return int(base.execute("SELECT count(*) FROM objects").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # it is being made
