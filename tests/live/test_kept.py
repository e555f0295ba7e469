"""Loads that are kept: the same words at any address, and never one that no longer holds."""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spidl import live
from spidl.cache.records import Record
from spidl.link.dso import Dso
from spidl.link.module import Module
from spidl.link.pipeline import Pipeline
from spidl.live import kept, loading, members, module, replay
from spidl.live.loading import Loading
from spidl.live.replay import Replay
from spidl.live.store import OpenFiles
from spidl.testing import expect
from tests.live.conftest import Build

LIBRARIES = (
    "libz.so.1", "libsqlite3.so.0", "libcrypto.so.3", "libpq.so.5", "libstdc++.so.6",
    "libLLVM-14.so.1", "libgnutls.so.30",
)  # fmt: skip


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenFiles:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SPIDL_CACHE", str(tmp_path / "cache"))
    own = OpenFiles()
    for user in (kept, loading, module, members):
        monkeypatch.setattr(user, "open_files", lambda: own)
    return own


def _settle() -> None:
    """Let the clock go on: what was written this very moment is not kept."""
    time.sleep(0.05)


def _was_replayed(library: live.Library) -> bool:
    return isinstance(library._loaded, Replay)


def _record(path: str) -> tuple[Loading, Record]:
    made = Loading(path, live.Namespace())
    made.prepare()
    made.lay()
    made.bind()
    return made, kept.describe(made, time.time_ns())


@pytest.mark.parametrize("name", LIBRARIES)
def test_two_loads_at_two_addresses_are_one_record(name: str) -> None:
    """A word that followed another base than the one in the record would have another addend."""
    Loading(name, live.Namespace()).prepare()  # what it opens of the host list is there then
    (one, first), (two, second) = _record(name), _record(name)
    try:
        assert {m.bias for m in one.members}.isdisjoint(m.bias for m in two.members)
        assert first[0] == {**second[0], "opened": first[0]["opened"]}
        assert first[1].keys() == second[1].keys()
        for column in first[1]:
            if not column.startswith("shell"):  # its names have a number in them
                assert np.array_equal(first[1][column], second[1][column]), column
        words = sum(len(first[1][f"{n}.at"]) for n in range(len(first[0]["words"])))
        written = sum(len(write.addresses) for write in one.link.space.writes)  # type: ignore[union-attr, misc]
        assert words + len(first[0]["thread"]) == written
    finally:
        two.undo()
        one.undo()


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_kept_load_is_what_the_load_was(name: str) -> None:
    with live.load(name) as first, live.load(name) as second:
        assert not _was_replayed(first)
        assert _was_replayed(second)
        for old, new in zip(first.namespace.members, second.namespace.members, strict=True):
            assert (old.outline, old.state) == (new.outline, new.state)
            assert [b.name for b in old.bindings] == [b.name for b in new.bindings]
            for before, after in zip(old.bindings, new.bindings, strict=True):
                assert (before.version, before.provider) == (after.version, after.provider)
                inside = old.start <= before.address < old.end
                moved = new.bias - old.bias if inside else after.address - before.address
                assert after.address - before.address == moved
            assert old.relro is None or new.relro is not None
            assert [(p.start - old.bias, p.length) for p in old.parts] == [
                (p.start - new.bias, p.length) for p in new.parts
            ]


def test_another_process_uses_what_one_has_kept(tmp_path: Path, script: Callable[..., str]) -> None:
    code = """
        import zlib
        from ctypes import c_char_p, c_uint, c_ulong
        from spidl import live
        library = live.load("libz.so.1")
        crc32 = library.function("crc32", c_ulong, [c_ulong, c_char_p, c_uint])
        print(type(library._loaded).__name__, crc32(0, b"abc", 3) == zlib.crc32(b"abc"))
    """
    assert script(code) == "Loading True\n"
    assert script(code) == "Replay True\n"


def _answering(build: Build, number: int) -> Path:
    return build("answer.c", f"-DANSWER={number}")


def _answer(library: live.Library) -> object:
    return library.function("answer")()


def test_a_changed_library_is_loaded_anew(build: Build) -> None:
    path = _answering(build, 1)
    _settle()
    for replayed in (False, True):
        with live.load(path) as library:
            assert (_answer(library), _was_replayed(library)) == (1, replayed)
    _answering(build, 2)
    with live.load(path) as library:
        assert (_answer(library), _was_replayed(library)) == (2, False)


def test_what_is_found_first_now_is_taken(build: Build, tmp_path: Path) -> None:
    """A library that appears earlier in the search path."""
    _answering(build, 1)
    folders = [tmp_path / "early", tmp_path / "late"]
    for folder in folders:
        folder.mkdir()
    shutil.move(tmp_path / "libanswer.so", folders[1])
    user = build("answer_user.c", f"-L{folders[1]}", "-lanswer",
                 *(f"-Wl,-rpath,{folder}" for folder in folders))  # fmt: skip
    _settle()
    for replayed in (False, True):
        with live.load(user) as library:
            assert library.function("ask")() == 1
            assert library.symbol("begun", ctypes.c_int).value == 1
            assert _was_replayed(library) == replayed
    _answering(build, 2)
    shutil.move(tmp_path / "libanswer.so", folders[0])
    with live.load(user) as library:
        assert (library.function("ask")(), _was_replayed(library)) == (2, False)


def test_the_search_path_of_the_moment_counts(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.move(_answering(build, number), folder)
    _settle()
    for number in (1, 2, 1, 2):
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / str(number)))
        with live.load("libanswer.so") as library:
            assert _answer(library) == number
    monkeypatch.setenv("LD_LIBRARY_PATH", ".")
    for number in (1, 2):
        monkeypatch.chdir(tmp_path / str(number))
        with live.load("libanswer.so") as library:
            assert _answer(library) == number


def test_a_library_that_is_replaced_at_the_last_moment(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all has been compared, before it is mapped."""
    path = _answering(build, 1)
    _settle()
    live.load(path).close()
    holds = replay.still_holds

    def held(*arguments: object) -> object:
        found = holds(*arguments)  # type: ignore[arg-type]
        assert found is not None
        _answering(build, 2)
        return found

    monkeypatch.setattr(replay, "still_holds", held)
    with live.load(path) as library:
        assert (_answer(library), _was_replayed(library)) == (2, False)


@pytest.mark.parametrize("damage", ["short", "flipped", "empty", "others"])
def test_a_damaged_record_is_none(build: Build, tmp_path: Path, damage: str) -> None:
    path = _answering(build, 1)
    _settle()
    live.load(path).close()
    (record,) = (tmp_path / "cache" / "objects").glob("load-*")
    content = bytearray(record.read_bytes())
    if damage == "short":
        record.write_bytes(content[:-8])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        record.write_bytes(content)
    elif damage == "empty":
        record.write_bytes(b"")
    else:
        record.chmod(0o622)
    with live.load(path) as library:
        assert (_answer(library), _was_replayed(library)) == (1, False)


def test_what_is_not_kept(build: Build, files: OpenFiles, tmp_path: Path) -> None:
    """Other modules, another tree, a namespace that has something: each may bind otherwise."""
    path = _answering(build, 1)
    _settle()
    namespace = live.Namespace()
    options: dict[str, Any]
    for options in ({"modules": [_Nothing()]}, {"root": "/"}, {"namespace": namespace}) * 2:
        library = live.load(path, **options)
        assert _answer(library) == 1
        assert not _was_replayed(library) or options == {"namespace": namespace}


def test_without_a_home_every_load_is_the_first(build: Build, files: OpenFiles) -> None:
    files.loads = None
    path = _answering(build, 1)
    _settle()
    for _ in range(2):
        with live.load(path) as library:
            assert (_answer(library), _was_replayed(library)) == (1, False)


def test_names_of_a_kept_load_come_from_the_file_as_it_was(build: Build) -> None:
    path = build("kinds.c")
    _settle()
    live.load(path).close()
    with live.load(path) as library:
        assert _was_replayed(library)
        (found,) = library.namespace.members
        os.utime(path)
        with expect("live/changed"):
            found.bindings  # noqa: B018  reading it is what fails


class _Nothing(Module):
    """Another module, which could bind anything."""

    name = "nothing"

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        """Nothing."""
