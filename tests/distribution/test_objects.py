"""The shared store: any file system of fsspec, whole objects only, collected into one file."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from spidl.diagnostics import Diagnostic, LinkError
from spidl.distribution.objects import Objects
from spidl.distribution.store import Store
from spidl.distribution.values import Outcome, Unit
from tests.distribution.test_store import content


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://folder"
    return f"file://{tmp_path}/shared"


OUTCOMES = [
    Outcome("aa", 1, b"sum\nmary", 1.5),
    Outcome("sha256:bb", 1, b"x", 0.5),
    Outcome.failed("cc", 1, Diagnostic("distribution/crash", "it crashed")),
]
UNIT = Unit("p", "/usr/bin/a", "aa", "", ("b",), True, ("$ORIGIN",), "/tmp/a", 9)


def test_what_workers_put_is_known_and_collected(url: str, tmp_path: Path) -> None:
    for outcome in OUTCOMES:
        Objects(url).put(outcome)
    objects = Objects(url)
    assert objects.known(1) == {"aa", "sha256:bb", "cc"}
    assert objects.known(1, failures=False) == {"aa", "sha256:bb"}
    assert objects.known(2) == set()
    objects.add("/usr", [UNIT])
    objects.settle("/usr", set())
    direct = tmp_path / "direct.db"
    with Store(str(direct)) as store:
        for outcome in OUTCOMES:
            store.put(outcome)
        store.add("/usr", [UNIT])
    collected = tmp_path / "collected.db"
    with Store(str(collected)) as store:
        for _ in range(2):
            assert objects.collect(store) == []
    assert content(collected) == content(direct)


def test_damaged_objects_are_left_out_and_named(url: str, tmp_path: Path) -> None:
    objects = Objects(url)
    for outcome in OUTCOMES:
        objects.put(outcome)
    objects.settle("/usr", set())
    system, folder = fsspec.core.url_to_fs(url)
    whole = system.cat_file(f"{folder}/objects/v1/aa.summary")
    system.pipe_file(f"{folder}/objects/v1/aa.summary", whole[:-1])
    system.pipe_file(f"{folder}/objects/v1/dd.summary", b"{}")
    system.pipe_file(f"{folder}/files/x.json", b'[["a"]]')
    with Store(str(tmp_path / "s.db")) as store:
        damaged = objects.collect(store)
        assert [Path(path).name for path in damaged] == ["aa.summary", "dd.summary", "x.json"]
        assert store.known(1) == {"sha256:bb", "cc"}


def test_half_written_files_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "objects" / "v1"
    folder.mkdir(parents=True)
    (folder / ".0123.summary").write_bytes(b"half")
    objects = Objects(f"file://{tmp_path}")
    assert objects.known(1) == set()
    objects.put(OUTCOMES[0])
    assert sorted(path.name for path in folder.iterdir()) == [".0123.summary", "aa.summary"]


@pytest.mark.parametrize("wrong", ["nonsense://x", "file:///proc/no/such"])
def test_stores_that_cannot_be_used(wrong: str) -> None:
    with pytest.raises(LinkError) as caught:
        Objects(wrong).put(OUTCOMES[0])
    assert caught.value.code == "distribution/url"
