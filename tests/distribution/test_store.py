"""The store: what is kept is kept, stores merge in any order, damage has a name."""

from __future__ import annotations

import sqlite3
from itertools import permutations
from pathlib import Path

import pytest

from spidl.diagnostics import Diagnostic, LinkError
from spidl.distribution import store as module
from spidl.distribution.store import Store
from spidl.distribution.values import Outcome, Unit


def unit(path: str, build_id: str, package: str = "p") -> Unit:
    return Unit(package, path, build_id, "", (), True, ("$ORIGIN",), path, 1)


def failed(build_id: str, version: int = 1) -> Outcome:
    return Outcome.failed(build_id, version, Diagnostic("distribution/crash", "it crashed"))


def content(path: Path) -> list[tuple[object, ...]]:
    """Everything that two equal stores have in common: not when a row was made."""
    with sqlite3.connect(path) as base:
        return [
            *base.execute("SELECT build_id, version, summary, error FROM objects ORDER BY 1"),
            *base.execute("SELECT package, path, build_id, origin FROM files ORDER BY 1, 2"),
        ]


def test_outcomes_and_files_come_back(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s.db")) as store:
        store.put(Outcome("aa", 1, b"summary"))
        store.put(failed("bb"))
        store.add("/usr", [unit("/usr/bin/\udcff", "aa")])
        assert store.known(1) == {"aa", "bb"}
        assert store.known(1, failures=False) == {"aa"}
        assert store.known(2) == set()
    with Store(str(tmp_path / "s.db"), create=False) as store:
        assert store.summary("aa") == b"summary"
        assert store.summary("bb") is None
        assert [(f.path, f.runpath) for f in store.files()] == [("/usr/bin/\\xff", ("$ORIGIN",))]
        assert [what for what, _ in store.failures()] == ["bb"]


def test_an_outcome_is_there_for_others_at_once(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s.db")) as one, Store(str(tmp_path / "s.db")) as other:
        one.put(Outcome("aa", 1, b"x"))
        assert other.known(1) == {"aa"}
        other.put(Outcome("bb", 1, b"y"))
        assert one.known(1) == {"aa", "bb"}


def test_merging_gives_the_same_in_any_order_and_however_often(tmp_path: Path) -> None:
    rows = {
        "a": [Outcome("1", 1, b"old"), Outcome("2", 2, b"new"), failed("3")],
        "b": [Outcome("1", 2, b"new"), Outcome("2", 1, b"old"), Outcome("3", 1, b"x")],
        "c": [failed("2", 2), failed("3", 1), Outcome("4", 1, b"y")],
    }
    for name, outcomes in rows.items():
        with Store(str(tmp_path / name)) as store:
            for outcome in outcomes:
                store.put(outcome)
            store.add(f"/{name}", [unit("/same", name), unit(f"/{name}", "1")])
    found = []
    for at, order in enumerate(permutations([*rows, "b"])):
        path = tmp_path / f"merged{at}"
        with Store(str(path)) as store:
            for name in order:
                store.merge(str(tmp_path / name))
        found.append(content(path))
    assert all(one == found[0] for one in found)
    objects = {row[0]: row[2] for row in found[0][:4]}
    assert objects == {"1": b"new", "2": b"new", "3": b"x", "4": b"y"}
    assert ("p", "/same", "c", "/c") in found[0], "the latest wins"


def test_a_folder_read_to_the_end_forgets_what_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    with Store(path) as store:
        store.add("/usr", [unit("/usr/a", "1"), unit("/usr/b", "2")])
        store.add("/opt", [unit("/opt/c", "3")])
        store.add_archive("/usr/x.deb", 1, 2, [unit("/d", "4", "x")], None)
    with Store(path) as store:
        store.add("/usr", [unit("/usr/a", "1")])
        store.settle("/usr", set())
        assert [file.path for file in store.files()] == ["/opt/c", "/usr/a"]


def test_an_unchanged_package_is_known_once_its_files_are_done(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s.db")) as store:
        store.add_archive("/x.deb", 10, 20, [unit("/d", "4", "x")], None)
        assert not store.has_archive("/x.deb", 10, 20, 1)
        store.put(Outcome("4", 1, b"x"))
        assert store.has_archive("/x.deb", 10, 20, 1)
        assert not store.has_archive("/x.deb", 10, 21, 1)
        assert not store.has_archive("/x.deb", 10, 20, 2)
        store.add_archive("/x.deb", 10, 20, [], Diagnostic("distribution/package", "damaged"))
        assert not store.has_archive("/x.deb", 10, 20, 1)


@pytest.mark.parametrize("data", [b"no database at all" * 100, b""])
def test_damaged_and_foreign_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(data)
    if not data:
        with sqlite3.connect(path) as base:
            base.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(LinkError) as caught:
        Store(str(path))
    assert caught.value.code == "distribution/store"
    assert caught.value.diagnostic.help is not None
    assert path.read_bytes() == before


def test_damage_that_shows_later(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store(str(path)) as store:
        for at in range(500):
            store.put(Outcome(f"{at:040}", 1, b"x" * 500))
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(LinkError) as caught, Store(str(path)) as store:
        list(store.outcomes())
    assert caught.value.code == "distribution/store"


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none.db", tmp_path / "no" / "folder.db"):
        with pytest.raises(LinkError) as caught:
            Store(str(wrong), create=False)
        assert caught.value.code == "distribution/store"
        assert not wrong.exists()
    with Store(str(tmp_path / "s.db")) as store, pytest.raises(LinkError):
        store.merge(str(tmp_path / "none.db"))


def test_a_writer_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "s.db")
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LinkError) as caught:
            store.put(Outcome("aa", 1, b"x"))
        assert caught.value.code == "distribution/locked"
        other.execute("ROLLBACK")
        store.put(Outcome("aa", 1, b"x"))
        other.close()
