"""Records of objects: what is found in one is what parsing finds, and nothing else is trusted."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from tests.needs import missing

from spidl.cache import records as module
from spidl.cache.objects import Objects
from spidl.diagnostics import LinkError
from spidl.elf import ElfFile
from spidl.elf.build import build_dso
from spidl.elf.record import Record, describe, restore
from spidl.elf.tables import SYM
from spidl.link import objects as linking
from spidl.link.environment import Environment
from spidl.link.link import Link
from spidl.link.objects import Objects as Opened
from spidl.modules.gnu import Gnu
from spidl.modules.gnu.symbols import versions
from spidl.modules.sysv import SystemV
from spidl.modules.sysv.relocate import types_of_jmprel, types_of_rela
from spidl.modules.sysv.symbols import bindable

PROPERTIES = (
    "type", "entry", "phoff", "flags", "loads", "span", "interp", "tls", "relro",
    "stack_executable", "phdr_vaddr", "dynamic_vaddr", "needed", "soname", "rpath", "runpath",
    "flags_dt", "flags_1", "symbolic", "bind_now", "textrel", "init", "fini", "init_array",
    "preinit_array", "verdefs", "verneeds", "versions", "notes", "build_id",
)  # fmt: skip
COLUMNS = (
    "phdrs", "dynamic", "strings", "symbols", "name_hashes", "versym", "rela", "jmprel", "relr",
)  # fmt: skip
DERIVED = (bindable, versions, types_of_rela, types_of_jmprel)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(0o700)
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libf.so"
    path.write_bytes(build_dso("libf.so", {"f": b"\xc3", "g": b"\xc3"}))
    age(path)
    return path


def age(path: Path) -> None:
    """Wait until two writes of a file would not have the same times."""
    os.utime(path, ns=(1, 1))
    while True:
        now = path.parent / "now"
        now.write_bytes(b"")
        if now.stat().st_ctime_ns - path.stat().st_ctime_ns > 30_000_000:
            return


def opened(cache: Path, path: Path) -> tuple[ElfFile, bool]:
    """A file as a link opens and keeps it, and whether it came from its record."""
    store = Opened(Objects(str(cache)))
    file = store.open(str(path))
    known = "derivations" in vars(file)
    for derive in DERIVED:
        file.derived(derive)
    store.keep([file])
    return file, known


def record_of(cache: Path) -> Path:
    (found,) = (cache / "objects").iterdir()
    return found


def assert_same(warm: ElfFile, cold: ElfFile) -> None:
    for name in PROPERTIES:
        assert getattr(warm, name) == getattr(cold, name), (cold.name, name)
    for name in COLUMNS:
        a, b = getattr(warm, name), getattr(cold, name)
        assert (a is None) == (b is None), (cold.name, name)
        if a is not None:
            assert a.dtype == b.dtype, (cold.name, name)
            assert np.array_equal(a, b), (cold.name, name)
    for derive in DERIVED:
        found, expected = warm.derived(derive), derive(cold)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype, (cold.name, name)
            assert np.array_equal(found[name], array), (cold.name, name)
            assert not found[name].flags.writeable


@pytest.mark.parametrize("program", ["ffmpeg", "git", "perl"])
def test_every_library_is_as_if_parsed(program: str, cache: Path) -> None:
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not installed")
    for warm in (False, True):
        link = Link(path, [SystemV(), Gnu()], Environment({}), store=Objects(str(cache)))
        link.collect()
        assert all(("derivations" in vars(dso.file)) == warm for dso in link.objects)
        link.load()
        link.relocate()
    assert len(list((cache / "objects").iterdir())) == len(link.objects) > 3
    for dso in link.objects:
        assert_same(dso.file, ElfFile.open(dso.path))


def test_it_is_used_again(cache: Path, library: Path) -> None:
    assert not opened(cache, library)[1]
    assert opened(cache, library)[1]
    assert stat.S_IMODE(record_of(cache).stat().st_mode) == 0o600
    assert stat.S_IMODE((cache / "objects").stat().st_mode) == 0o700


def test_the_folders_are_made(tmp_path: Path, library: Path) -> None:
    cache = tmp_path / "home" / "cache" / "spidl"
    opened(cache, library)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert opened(cache, library)[1]


def test_a_library_that_was_replaced(cache: Path, library: Path) -> None:
    opened(cache, library)
    new = library.with_name("new")
    new.write_bytes(build_dso("libf.so", {"f": b"\xc3", "h": b"\xc3"}))
    os.replace(new, library)
    age(library)
    file, known = opened(cache, library)
    assert not known
    assert file.symbol_name(2) == "h"
    assert opened(cache, library)[1]


def test_a_library_that_was_rewritten_in_place(cache: Path, library: Path) -> None:
    opened(cache, library)
    times = library.stat()
    library.write_bytes(build_dso("libf.so", {"f": b"\xc3", "h": b"\xc3"}))
    os.utime(library, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert library.stat().st_size == times.st_size
    file, known = opened(cache, library)
    assert not known
    assert file.symbol_name(2) == "h"
    age(library)
    opened(cache, library)
    assert opened(cache, library)[1]
    record_of(cache)  # still one


@pytest.mark.parametrize(("milliseconds", "kept"), [(0, False), (10, False), (30, True)])
def test_a_library_that_has_just_been_written(
    cache: Path, library: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: int, kept: bool
) -> None:
    """It may be written again within one tick of the kernel's clock."""
    now = library.stat().st_ctime_ns + milliseconds * 1_000_000
    monkeypatch.setattr(linking.time, "time_ns", lambda: now)
    opened(cache, library)
    assert opened(cache, library)[1] is kept


def test_another_build_id_under_the_same_identity(cache: Path, tmp_path: Path) -> None:
    """As on file systems that use inode numbers and times again."""
    libraries = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("lib*.so.?"))
    path = next(p for p in libraries if ElfFile.open(str(p)).build_id)
    copy = tmp_path / "lib.so"
    shutil.copyfile(path, copy)
    age(copy)
    opened(cache, copy)
    file, known = opened(cache, copy)
    assert known
    build_id, status = file.build_id, file.stat
    assert build_id is not None
    assert status is not None
    content = copy.read_bytes().replace(build_id, bytes(len(build_id)))
    found = Objects(str(cache)).find(status)
    assert found is not None
    data = np.frombuffer(content, np.uint8)
    assert restore(data, str(copy), status, found) is None


def test_a_truncated_record(cache: Path, library: Path) -> None:
    opened(cache, library)
    record = record_of(cache)
    whole = record.read_bytes()
    for size in {0, 1, 8, 60, 79, 80, 81, 100, len(whole) // 2, len(whole) - 1}:
        record.write_bytes(whole[:size])
        file, known = opened(cache, library)
        assert not known, size
        assert_same(file, ElfFile.open(str(library)))
        assert record.read_bytes() == whole, "it is made again"


def test_a_record_with_a_changed_bit(cache: Path, library: Path) -> None:
    opened(cache, library)
    record = record_of(cache)
    whole = record.read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        record.write_bytes(damaged)
        assert Objects(str(cache)).find(library.stat()) is None, at
    assert not opened(cache, library)[1]
    assert record.read_bytes() == whole


def test_a_record_with_something_missing(cache: Path, library: Path) -> None:
    """With a good checksum, as of a Spidl that kept less."""
    record = describe(ElfFile.open(str(library)), ())
    assert record is not None
    values, arrays = record
    less: list[Record] = [
        ({k: v for k, v in values.items() if k != name}, arrays) for name in values
    ]
    less += [(values, {k: v for k, v in arrays.items() if k != name}) for name in arrays]
    for part in less:
        Objects(str(cache)).keep(library.stat(), part)
        file, known = opened(cache, library)
        assert not known
        assert_same(file, ElfFile.open(str(library)))
    assert opened(cache, library)[1]


def test_another_version_of_the_code(
    cache: Path, library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened(cache, library)
    source = tmp_path / "code.py"
    source.write_text("")
    monkeypatch.setattr(module.Records, "_sources", lambda _: iter([str(source)]))
    assert not opened(cache, library)[1]
    assert opened(cache, library)[1]
    source.write_text("# changed")
    assert not opened(cache, library)[1]


@pytest.mark.parametrize("place", ["", "objects", "record"])
@pytest.mark.parametrize("how", ["mode", "owner"])
def test_what_others_may_write(cache: Path, library: Path, place: str, how: str) -> None:
    if how == "owner" and os.geteuid() != 0:
        missing("only root can give files away")
    opened(cache, library)
    path = {"": cache, "objects": cache / "objects", "record": record_of(cache)}[place]
    mode = stat.S_IMODE(path.stat().st_mode)
    if how == "mode":
        path.chmod(mode | 0o020)
    else:
        os.chown(path, 12345, -1)
    assert Objects(str(cache)).find(library.stat()) is None
    path.chmod(mode)
    os.chown(path, os.geteuid(), -1)
    assert Objects(str(cache)).find(library.stat()) is not None


@pytest.mark.parametrize("place", ["objects", "record"])
def test_a_link_in_the_place_of_something(cache: Path, library: Path, place: str) -> None:
    opened(cache, library)
    path = {"objects": cache / "objects", "record": record_of(cache)}[place]
    moved = path.rename(path.with_name("moved"))
    path.symlink_to(moved)
    assert Objects(str(cache)).find(library.stat()) is None


def test_where_nothing_can_be_written(cache: Path, library: Path) -> None:
    """Nothing is kept, and nothing goes wrong; (root may write anywhere but into a file)."""
    (cache / "objects").write_bytes(b"")
    assert not opened(cache, library)[1]
    assert not opened(cache, library)[1]
    assert not opened(library, library)[1]
    assert not opened(Path("/proc/spidl"), library)[1]


def test_a_full_disk(cache: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", full)
        assert not opened(cache, library)[1]
    assert list((cache / "objects").iterdir()) == []
    assert not opened(cache, library)[1]
    assert opened(cache, library)[1]


def test_a_damaged_library_fails_each_time(cache: Path, library: Path) -> None:
    content = bytearray(library.read_bytes())
    file = ElfFile.open(str(library))
    at = file.symbols.ctypes.data - file.data.ctypes.data + SYM.itemsize
    content[at : at + 4] = b"\xff" * 4  # st_name
    library.write_bytes(content)
    age(library)
    for _ in range(2):
        store = Opened(Objects(str(cache)))
        damaged = store.open(str(library))
        with pytest.raises(LinkError) as caught:
            damaged.name_hashes  # noqa: B018  (read for its error)
        assert caught.value.code == "parse/bad-string"
        store.keep([damaged])
    assert list(cache.glob("objects/*")) == []


def test_what_modules_derive_is_not_kept(cache: Path, library: Path) -> None:
    """Nobody knows whether a user's code is still the same."""
    for _ in range(2):
        store = Opened(Objects(str(cache)))
        file = store.open(str(library))
        calls = []

        def count(file: ElfFile, calls: list[int] = calls) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
            calls.append(1)
            return {"count": np.array([len(file.symbols)])}

        assert file.derived(count)["count"].tolist() == [3]
        assert file.derived(count)["count"].tolist() == [3]
        assert calls == [1]
        store.keep([file])


def test_upkeep(cache: Path, library: Path) -> None:
    objects = Objects(str(cache))
    assert list(objects.entries()) == []
    opened(cache, library)
    ((path, size, used),) = objects.entries()
    assert path == str(record_of(cache))
    assert size >= os.stat(path).st_size // 2
    os.utime(path, (used - 3 * 86_400,) * 2)
    assert Objects(str(cache)).find(library.stat()) is not None
    ((_, _, again),) = objects.entries()
    assert again >= used - 3600
    Objects(str(cache)).find(library.stat())
    assert [entry[2] for entry in objects.entries()] == [again], "once a day is enough"
    objects.remove(path)
    objects.remove(path)
    assert list(objects.entries()) == []
