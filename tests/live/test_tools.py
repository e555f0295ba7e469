"""What the tools of the system see: the dynamic linker's own functions, gdb, perf, /proc."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from spidl import live
from spidl.live import process
from tests.needs import tool

Build = Callable[..., Path]


class DlInfo(ctypes.Structure):
    _fields_ = (
        ("fname", ctypes.c_char_p),
        ("fbase", ctypes.c_void_p),
        ("sname", ctypes.c_char_p),
        ("saddr", ctypes.c_void_p),
    )


class PhdrInfo(ctypes.Structure):
    _fields_ = (
        ("addr", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("phdr", ctypes.c_void_p),
        ("phnum", ctypes.c_uint16),
    )


def test_dladdr_and_dlsym_know_the_library(build: Build) -> None:
    path = build("kinds.c")
    process = ctypes.CDLL(None)
    with live.load(path) as kinds:
        info = DlInfo()
        address = kinds.address("name")
        assert process.dladdr(ctypes.c_void_p(address + 2), ctypes.byref(info))
        assert info.sname == b"name"
        assert info.saddr == address
        assert os.path.samefile(info.fname, path)
        handle = ctypes.CDLL(kinds.shown)._handle  # a reference like any other
        assert handle == kinds.handle
        assert ctypes.cast(ctypes.CDLL(None, handle=handle).name, ctypes.c_void_p).value == address
        process.dlclose(ctypes.c_void_p(handle))


def test_versioned_symbols_are_found_through_the_handle() -> None:
    with live.load("libcrypto.so.3") as crypto:
        dlvsym = ctypes.CDLL(None).dlvsym
        dlvsym.restype = ctypes.c_void_p
        dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        found = dlvsym(crypto.handle, b"OPENSSL_init_crypto", b"OPENSSL_3.0.0")
        assert found == crypto.address("OPENSSL_init_crypto")
        assert dlvsym(crypto.handle, b"OPENSSL_init_crypto", b"OPENSSL_1.1.0") is None


def test_dl_iterate_phdr_shows_the_librarys_own_headers(build: Build) -> None:
    found: dict[bytes, tuple[int, int]] = {}
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(PhdrInfo), ctypes.c_size_t,
                                ctypes.c_void_p)  # fmt: skip

    def each(info: ctypes._Pointer[PhdrInfo], size: int, data: object) -> int:
        rows = ctypes.string_at(info.contents.phdr, info.contents.phnum * 56)
        executable = [
            info.contents.addr + int.from_bytes(rows[at + 16 : at + 24], "little")
            for at in range(0, len(rows), 56)
            if rows[at] == 1 and rows[at + 4] & 1
        ]
        found[info.contents.name] = info.contents.addr, (executable or [0])[0]
        return 0

    with live.load(build("kinds.c")) as kinds:
        ctypes.CDLL(None).dl_iterate_phdr(callback(each), None)
        bias, text = found[os.fsencode(kinds.shown)]
        assert bias == kinds.namespace.members[0].bias
        assert bias < text <= kinds.address("name") < text + 4096


def test_text_is_mapped_from_the_file_and_never_writable(build: Build) -> None:
    path = build("kinds.c")
    with live.load(path) as kinds, open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if line.rstrip().endswith(str(path))]
        text = [line for line in lines if line[1] == "r-xp"]
        assert len(text) == 1
        start, end = (int(part, 16) for part in text[0][0].split("-"))
        assert start <= kinds.address("name") < end
        assert int(text[0][4]) == path.stat().st_ino
        assert not any("w" in line[1] and "x" in line[1] for line in lines)


def test_what_holds_a_load_together_has_no_name_to_open(build: Build) -> None:
    """Debuggers and unwinders open the files of all objects; a descriptor's number may be that of
    a pipe by then, and what they read from it would be lost."""
    build("hook.c", "-DPART=2", name="second")
    with live.load(build("hook.c", "-DPART=1", "-lsecond", name="first")) as library:
        names = [*process.link_maps().values()]
        assert [name for name in names if name.startswith("/proc/")] == []
        assert names.count("") > 1
        assert library.shown in names
        programs = [r for r in library.namespace.process.residents() if not r.map.name]
        assert [r.path for r in programs] == [os.path.realpath("/proc/self/exe")]


WAIT = """
import sys
from spidl import live
library = live.load(sys.argv[1])
library.function("call_pointer")()
"""


def test_gdb_stops_at_a_source_line(build: Build) -> None:
    result = subprocess.run(
        [tool("gdb", "gdb"), "-nx", "-q", "-batch", "-ex", "set breakpoint pending on",
         "-ex", "break kinds.c:call_pointer", "-ex", "run", "-ex", "bt 1",
         "-ex", "info symbol chosen", "--args", sys.executable, "-c", WAIT, build("kinds.c")],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        env={**os.environ, "DEBUGINFOD_URLS": ""},
    )  # fmt: skip
    source = (Path(__file__).parent / "src" / "kinds.c").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(source) if "int call_pointer" in text)
    assert re.search(rf"#0 .*call_pointer \(\) at .*kinds\.c:{line}", result.stdout), result.stdout
    assert "libkinds.so" in result.stdout.splitlines()[-1]


SPIN = """
import ctypes, sys
from spidl import live
library = live.load("libz.so.1")
crc32 = library.function("crc32", ctypes.c_ulong, [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_uint])
data = bytes(1 << 20)
for _ in range(300):
    crc32(0, data, len(data))
"""


def test_perf_names_the_library(tmp_path: Path) -> None:
    perf, data = tool("perf", "linux-perf"), tmp_path / "perf.data"
    subprocess.run(
        [perf, "record", "-q", "-e", "cpu-clock:u", "-o", data, sys.executable, "-c", SPIN],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    report = subprocess.run(
        [perf, "report", "-i", data, "--stdio", "--sort", "dso,symbol"],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    lines = [line for line in report.splitlines() if "%" in line]
    assert any("libz.so.1" in line for line in lines[:3]), report
