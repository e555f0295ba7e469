"""What decides a load beside the files: a kept load that was made otherwise is not believed."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from spidl import live
from spidl.live import kept, loading, members, module
from spidl.live.host import HOST_LIST
from spidl.live.replay import Replay
from spidl.live.store import Loads, OpenFiles
from tests.live.conftest import Build, Script


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenFiles:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SPIDL_CACHE", str(tmp_path / "cache"))
    own = OpenFiles()
    for user in (kept, loading, module, members):
        monkeypatch.setattr(user, "open_files", lambda: own)
    return own


def _in_folders(build: Build, tmp_path: Path) -> list[Path]:
    """libanswer.so, which answers 1 or 2, in a folder each."""
    folders = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.move(build("answer.c", f"-DANSWER={number}"), folder)
        folders.append(folder)
    return folders


def _settle() -> None:
    """Let the clock go on: what was written this very moment is not kept."""
    time.sleep(0.05)


def test_the_working_folder_counts_where_a_library_names_it(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = _in_folders(build, tmp_path)
    user = build("answer_user.c", f"-L{folders[0]}", "-lanswer", "-Wl,-rpath,.")
    _settle()
    replayed = []
    for number in (1, 1, 2, 2, 1):
        monkeypatch.chdir(folders[number - 1])
        with live.load(user) as library:
            assert library.function("ask")() == number
            replayed.append(isinstance(library._loaded, Replay))
    assert replayed == [False, True, False, True, False]


def test_the_working_folder_does_not_count_otherwise(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = _in_folders(build, tmp_path)
    _settle()
    for folder, replayed in zip(folders, (False, True), strict=True):
        monkeypatch.chdir(folder)
        with live.load(folders[0] / "libanswer.so") as library:
            assert isinstance(library._loaded, Replay) == replayed


def test_origin_in_the_search_path_is_the_programs_folder(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build("answer.c", "-DANSWER=5")
    deep = tmp_path.joinpath(*"abcdefghijkl")
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    program = os.path.dirname(os.path.realpath(sys.executable))
    up = os.path.relpath(tmp_path, program)
    for origin in ("$ORIGIN", "${ORIGIN}"):
        monkeypatch.setenv("LD_LIBRARY_PATH", f"{origin}/{up}")
        with live.load(path.name) as library:
            assert library.function("answer")() == 5


def test_a_host_list_may_be_any_iterable(build: Build, tmp_path: Path) -> None:
    """One that can be read once names the same record as a tuple, not as an empty list."""
    path = build("answer.c", "-DANSWER=1")
    names = (*HOST_LIST, "libanswer.so")
    once = live.Namespace(shared=iter(names))
    assert kept.key_of(str(path), once) == kept.key_of(str(path), live.Namespace(shared=names))
    assert kept.key_of(str(path), once) != kept.key_of(str(path), live.Namespace())


def test_a_record_of_other_code_is_none(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every package whose code decides what a record holds, this one included."""
    path = build("answer.c", "-DANSWER=1")
    _settle()
    live.load(path).close()
    key = kept.key_of(str(path), live.Namespace())
    assert key is not None
    for package in ("elf", "link", "modules", "live"):
        assert package in Loads.makers
        loads = Loads(str(tmp_path / "cache"))
        assert loads.read(*key) is not None
        others = tuple(name for name in Loads.makers if name != package)
        monkeypatch.setattr(Loads, "makers", others)
        assert Loads(str(tmp_path / "cache")).read(*key) is None
        monkeypatch.undo()


SHARED = """
import ctypes, os, sys
from spidl import live
from spidl.diagnostics import LinkError
from spidl.live.host import HOST_LIST

shared, user, new = sys.argv[1:]
ctypes.CDLL(shared)
names = (*HOST_LIST, os.path.basename(shared))
def load():
    try:
        with live.load(user, namespace=live.Namespace(shared=names)) as library:
            return library.function("ask")()
    except LinkError as error:
        return error.diagnostic.code
print(load())
os.replace(new, shared) if new else os.unlink(shared)
print(load())
"""


@pytest.mark.parametrize("way", ["replaced", "removed"])
def test_what_the_process_runs_is_not_what_is_installed_now(
    build: Build, script: Script, tmp_path: Path, way: str
) -> None:
    """Symbols read from the new file would be called at the old file's addresses; a process that
    runs the new one may have kept a load by then."""
    new = (
        shutil.move(build("answer.c", "-DANSWER=2"), tmp_path / "new") if way == "replaced" else ""
    )
    shared = build("answer.c", "-DANSWER=1")
    user = build("answer_user.c", "-lanswer")
    assert script(SHARED, shared, user, new) == "1\nlive/changed\n"


def test_shared_storage_that_is_not_static_in_this_process(build: Build, script: Script) -> None:
    """Kept by a process where something else has made it static."""
    shared = build("tls.c", name="sharedtls")
    user = build("tls_user.c", "-lsharedtls", "-ftls-model=initial-exec", name="static")
    code = """
        import ctypes, sys
        from spidl import live
        from spidl.diagnostics import LinkError
        from spidl.live.host import HOST_LIST
        opened = [ctypes.CDLL(path) for path in sys.argv[2:]]
        opened[0].next_start()  # now this thread has the storage
        try:
            space = live.Namespace(shared=(*HOST_LIST, "libsharedtls.so"))
            library = live.load(sys.argv[1], namespace=space)
            print(type(library._loaded).__name__, library.function("other_shared")())
        except LinkError as error:
            print(error.diagnostic.code)
    """
    assert script(code, user, shared, user) == "Loading 8\n"
    assert script(code, user, shared, user) == "Replay 8\n"
    assert script(code, user, shared) == "live/static-tls\n"


def test_without_descriptors_a_load_is_refused(build: Build, script: Script) -> None:
    code = """
        import os, resource, sys
        from spidl import live
        from spidl.diagnostics import LinkError
        live.load(sys.argv[1]).close()
        most = len(os.listdir("/proc/self/fd"))
        codes = set()
        for path in sys.argv[1:]:
            for room in range(3):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most - 1 + room, 4096))
                try:
                    live.load(path).close()
                    codes.add("loaded")
                except LinkError as error:
                    codes.add(error.diagnostic.code.split("/")[0])
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
        print("live" in codes, "loaded" in codes)
    """
    path = build("kinds.c")
    assert script(code, build("answer.c", "-DANSWER=1"), path) == "True True\n"
