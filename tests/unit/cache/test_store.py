"""The cache folder: written whole, believed only where nobody else could have written."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from keeping import IMAGE, KEY, OTHER, keep, place

from spidl.cache.store import Store, cache_folder
from spidl.diagnostics import LinkError


def test_kept_and_found(store: Store, source: Path) -> None:
    assert store.find(KEY) is None
    kept = keep(store, source)
    assert kept.image is not None
    assert Path(kept.image).read_bytes() == IMAGE
    assert Path(kept.image).name == "program"
    assert store.find(KEY) == kept
    assert store.find(OTHER) is None


def test_a_refusal_is_kept_too(store: Store, source: Path) -> None:
    kept = keep(store, source, None, message="refused[exec/privileged]: no")
    assert store.find(KEY) == kept
    assert (kept.image, kept.kept.message) == (None, "refused[exec/privileged]: no")


def test_everything_is_private(store: Store, source: Path) -> None:
    old = os.umask(0)
    try:
        keep(store, source)
    finally:
        os.umask(old)
    for folder in (Path(store.folder), Path(store.folder) / "images", place(store)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((place(store) / "program").stat().st_mode) == 0o700


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path, source: Path) -> None:
    """It may be the user's home: SPIDL_CACHE says so."""
    tmp_path.chmod(0o755)
    store = Store(str(tmp_path))
    keep(store, source)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert store.find(KEY) is not None


@pytest.mark.parametrize("name", ["entry", "a program", "-rf", "ü"])
def test_any_program_name(store: Store, source: Path, name: str) -> None:
    kept = keep(store, source, name=name)
    assert kept.image is not None
    assert Path(kept.image).read_bytes() == IMAGE
    assert store.find(KEY) == kept


# -- inputs ----------------------------------------------------------------------------------------


def rewritten(path: Path) -> None:
    """Same inode, size and mtime: only the change time tells."""
    before = path.stat()
    with path.open("r+") as file:
        file.write("LINKED")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def replaced(path: Path) -> None:
    new = path.with_name("new")
    new.write_text("linked")
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.rename(path)


@pytest.mark.parametrize("change", [rewritten, replaced, Path.unlink, Path.touch])
def test_changed_input(store: Store, source: Path, change: Callable[[Path], object]) -> None:
    keep(store, source)
    change(source)
    assert store.find(KEY) is None


def test_what_was_absent_appears(store: Store, source: Path, tmp_path: Path) -> None:
    keep(store, source, absent=[str(tmp_path / "first")])
    assert store.find(KEY) is not None
    (tmp_path / "first").mkdir()
    assert store.find(KEY) is None


# -- other users -----------------------------------------------------------------------------------


def refused(store: Store, source: Path) -> str:
    with pytest.raises(LinkError) as caught:
        keep(store, source)
    assert caught.value.diagnostic.help is not None
    assert "SPIDL_CACHE" in caught.value.diagnostic.help
    return caught.value.code


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
@pytest.mark.parametrize("which", ["", "images"])
def test_a_folder_that_others_may_write_to(
    store: Store, source: Path, mode: int, which: str
) -> None:
    keep(store, source)
    (Path(store.folder) / which).chmod(mode)
    assert store.find(KEY) is None
    assert refused(store, source) == "cache/not-private"


@pytest.mark.parametrize("which", ["", "images", f"images/{KEY.name}"])
def test_a_folder_of_another_user(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """This test pretends to be somebody else where it cannot give the folder away."""
    keep(store, source)
    if os.geteuid() == 0:
        os.chown(Path(store.folder) / which, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert store.find(KEY) is None
    if which != f"images/{KEY.name}":
        assert refused(store, source) == "cache/not-private"


def test_links_in_the_folder(store: Store, source: Path, tmp_path: Path) -> None:
    """A link in the entry's place is replaced, and what it leads to is left alone."""
    keep(store, source)
    mine = tmp_path / "mine"
    place(store).rename(mine)
    place(store).symlink_to(mine)
    keep(store, source, b"a new image")
    assert not place(store).is_symlink()
    assert (mine / "program").read_bytes() == IMAGE
    assert [path.name for path in (Path(store.folder) / "images").iterdir()] == [KEY.name]


# -- what can go wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("blocker", ["", "images"])
def test_a_file_in_the_way(store: Store, source: Path, blocker: str) -> None:
    path = Path(store.folder) / blocker
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    assert refused(store, source) in ("cache/cannot-write", "cache/not-private")
    assert path.read_text() == "in the way"


@pytest.mark.parametrize("folder", ["/proc/spidl", "/dev/null/spidl", "/a\0b", "/" + "x" * 300])
def test_folders_that_cannot_be(source: Path, folder: str) -> None:
    store = Store(folder)
    assert store.find(KEY) is None
    assert refused(store, source) == "cache/cannot-write"


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPIDL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LinkError) as caught:
        cache_folder()
    assert caught.value.code == "cache/no-home"


def test_relative_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIDL_CACHE", "here")
    assert cache_folder() == str(tmp_path / "here")


def test_a_failed_write_leaves_nothing(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, source)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spidl.cache.store._write", full)
    assert refused(store, source) == "cache/cannot-write"
    found = store.find(KEY)
    assert found is not None
    assert found.image is not None
    assert Path(found.image).read_bytes() == IMAGE, "the old entry stays"
    assert [path.name for path in (Path(store.folder) / "images").iterdir()] == [KEY.name]


def test_leftovers_of_a_killed_writer(store: Store, source: Path) -> None:
    """An old one is swept away, a young one may still be written to."""
    keep(store, source)
    images = Path(store.folder) / "images"
    for name, age in ((".new-old", 7200), (".new-young", 60)):
        (images / name).mkdir()
        (images / name / "program").write_text("half an im")
        when = (images / name).stat().st_mtime - age
        os.utime(images / name, (when, when))
    keep(store, source)
    assert {path.name for path in images.iterdir()} == {KEY.name, ".new-young"}


def test_concurrent_writers_and_readers(store: Store, source: Path) -> None:
    """From the first writer on, whoever executes the path finds a whole image there."""
    keep(store, source)
    image = place(store) / "program"
    done = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not done.is_set():
            try:
                content = image.read_bytes()
            except OSError as error:
                wrong.append(str(error))
                return
            if content != content[:1] * 100_000 and content != IMAGE:
                wrong.append(f"{len(content)} bytes of {content[:1]!r}")

    def write(letter: bytes) -> None:
        try:
            for _ in range(20):
                keep(store, source, letter * 100_000)
        except LinkError as error:
            wrong.append(str(error))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(4)]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert wrong == []
    assert [path.name for path in (Path(store.folder) / "images").iterdir()] == [KEY.name]
