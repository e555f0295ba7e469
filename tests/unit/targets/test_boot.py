"""Boot in real processes: each check, and what happens when one fails."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
from pathlib import Path

import pytest
from tinyimage import FREE, PROGRAM, Tiny, identity, write_data

from spidl.link.actions import (
    Action,
    Call,
    CheckAbsent,
    CheckAuxv,
    CheckCpuid,
    CheckEnvironment,
    CheckFile,
    CheckStackLimit,
    CheckVdso,
    FileIdentity,
    MapFile,
    Protection,
    Segment,
    TableFlag,
)
from spidl.targets.exec.boot import BootCode

SOURCES = Path(__file__).parents[3] / "boot"
READ = Protection.READ


def starts(tiny: Tiny, *actions: Action) -> None:
    done = tiny.run(tiny.image(*actions))
    assert (done.returncode, done.stdout, done.stderr) == (7, b"ok", b"")


def takes_plain_way(tiny: Tiny, *actions: Action, reason: str) -> None:
    path = tiny.image(*actions)
    done = tiny.run(path)
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    assert done.stderr.decode() == f"spidl: plain way: {reason}\n"
    assert tiny.run(path, verbose=False).stderr == b""


def test_boot_is_small_and_whole_pages(boot: BootCode) -> None:
    assert len(boot.code) == boot.table <= 3 * 4096
    assert 0 <= boot.entry < boot.table


def test_an_image_without_checks_starts(tiny: Tiny) -> None:
    starts(tiny)


# --- checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("linked", "now", "reason"),
    [
        ((), {"LD": "1", "LD0_A": "1", "MALLOC": "1", "GLIBC_TUNABLES_X": "1"}, None),
        ((b"LD_BIND_NOW=1",), {"LD_BIND_NOW": "1"}, None),
        ((b"MALLOC_A=", b"LD_B=2"), {"A": "1", "LD_B": "2", "MALLOC_A": ""}, None),
        ((), {"LD_X": "1"}, "environment variable not set when linked: LD_X=1"),
        ((), {"MALLOC_X": "1"}, "environment variable not set when linked: MALLOC_X=1"),
        (
            (),
            {"GLIBC_TUNABLES": "a"},
            "environment variable not set when linked: GLIBC_TUNABLES=a",
        ),
        ((b"LD_X=1",), {}, "environment variable set when linked: LD_X=1"),
        ((b"LD_X=1",), {"LD_X": "12"}, "environment variable not set when linked: LD_X=12"),
        ((b"LD_X=12",), {"LD_X": "1"}, "environment variable not set when linked: LD_X=1"),
        (
            (b"LD_X=1", b"LD_Y=1"),
            {"LD_X": "1"},
            "environment variable set when linked: LD_Y=1",
        ),
    ],
)
def test_environment(
    tiny: Tiny, linked: tuple[bytes, ...], now: dict[str, str], reason: str | None
) -> None:
    tiny.environment = now
    if reason is None:
        starts(tiny, CheckEnvironment(linked))
    else:
        takes_plain_way(tiny, CheckEnvironment(linked), reason=reason)


def auxv() -> dict[int, int]:
    return dict(struct.iter_unpack("<QQ", Path("/proc/self/auxv").read_bytes()))


def vdso() -> bytes:
    base = auxv()[33]
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(base)
        return memory.read(4096)


def test_auxv(tiny: Tiny) -> None:
    page_size, absent = 6, 9999
    starts(tiny, CheckAuxv(page_size, 4096), CheckAuxv(absent, 0), CheckAuxv(16, auxv()[16]))
    for wrong in (CheckAuxv(page_size, 4097), CheckAuxv(absent, 1)):
        takes_plain_way(tiny, wrong, reason="another auxiliary vector")


def test_cpuid(tiny: Tiny) -> None:
    """Leaf 0 spells the vendor in ebx, edx, ecx."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    vendor = cpuinfo.split("vendor_id")[1].split("\n")[0].split(": ")[1].encode()
    ebx, edx, ecx = struct.unpack("<III", vendor)
    full = 0xFFFFFFFF
    starts(tiny, CheckCpuid(0, 0, (0, full, full, full), (1, ebx, ecx, edx)))
    for masks in ((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)):
        wrong = CheckCpuid(0, 0, masks, (0, ebx ^ 1, ecx ^ 1, edx ^ 1))
        takes_plain_way(tiny, wrong, reason="another processor")


def test_vdso(tiny: Tiny) -> None:
    content = vdso()
    starts(tiny, CheckVdso(0, content), CheckVdso(0x10, content[0x10:0x20]))
    wrong = content[:-1] + bytes((content[-1] ^ 1,))
    takes_plain_way(tiny, CheckVdso(0, wrong), reason="another kernel: vDSO differs")
    takes_plain_way(tiny, CheckVdso(0, b""), reason="another kernel: vDSO present")


def test_stack_limit(tiny: Tiny) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    soft &= (1 << 64) - 1
    starts(tiny, CheckStackLimit(soft, soft))
    for low, high in ((soft + 1, (1 << 64) - 1), (0, soft - 1)):
        takes_plain_way(tiny, CheckStackLimit(low, high), reason="another stack limit")


def test_absent(tiny: Tiny) -> None:
    there = tiny.folder / "there"
    there.write_bytes(b"")
    absent = [there.parent / "not there", there / "a file is no folder"]
    starts(tiny, *(CheckAbsent(bytes(path)) for path in absent))
    takes_plain_way(tiny, CheckAbsent(bytes(there)), reason=f"file absent when linked: {there}")
    link = tiny.folder / "dangling"
    link.symlink_to("nowhere")
    starts(tiny, CheckAbsent(bytes(link)))


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime", "ctime", "ns"])
def test_every_part_of_a_files_identity(tiny: Tiny, field: str) -> None:
    path = tiny.folder / "library"
    path.write_bytes(b"content")
    now = identity(path)
    parts = {name: getattr(now, name) for name in FileIdentity.__slots__}
    if field == "ns":
        parts["ctime"] = (now.ctime[0], now.ctime[1] ^ 1)
    elif field in ("mtime", "ctime"):
        parts[field] = (parts[field][0] - 1, parts[field][1])
    else:
        parts[field] += 1
    starts(tiny, CheckFile(bytes(path), now))
    wrong = FileIdentity(**parts)
    reason = f"file changed: {path}"
    takes_plain_way(tiny, CheckFile(bytes(path), wrong), reason=reason)
    takes_plain_way(tiny, MapFile(bytes(path), wrong, ()), reason=reason)


def touch(path: Path) -> None:
    os.utime(path)


def rewrite_in_place(path: Path) -> None:
    """The same size and mtime: only ctime tells."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"CONTENT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [touch, rewrite_in_place, replace, make_fifo, Path.unlink])
def test_a_file_that_changed_after_the_link(tiny: Tiny, change: object) -> None:
    path = tiny.folder / "library"
    path.write_bytes(b"content".ljust(5000, b"."))
    segment = Segment(FREE, 5000, 0, READ)
    actions = (MapFile(bytes(path), identity(path), (segment,)),)
    check = (CheckFile(bytes(path), identity(path)),)
    mapped = tiny.run(tiny.image(*actions, code=write_data(7, FREE)))
    assert (mapped.returncode, mapped.stdout) == (7, b"content")
    assert callable(change)
    change(path)
    gone = change is Path.unlink
    reason = f"cannot open: {path} (errno 2)" if gone else f"file changed: {path}"
    takes_plain_way(tiny, *actions, reason=reason)
    takes_plain_way(tiny, *check, reason=reason)


# --- what happens when a check fails --------------------------------------------------------------

DIFFERS = CheckAuxv(6, 1)


def test_a_policy_is_never_left_out(tiny: Tiny) -> None:
    done = tiny.run(tiny.image(DIFFERS, flags=TableFlag.POLICY))
    assert (done.returncode, done.stdout) == (126, b"")
    assert done.stderr == b"spidl: error[start/policy]: another auxiliary vector\n"


def test_the_plain_way_keeps_argv_and_environment(tiny: Tiny) -> None:
    path = tiny.image(DIFFERS, program=b"/proc/self/../../bin/sh")
    command = ["my name", "-c", 'echo "$0 $1 $A"', "zero", "one"]
    done = subprocess.run(
        command, executable=path, env={"A": "b", "PATH": "/bin:/usr/bin"}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.split(b"\n")[0] == b"zero one b"
    assert done.stderr == b""


def test_no_descriptor_leaks(tiny: Tiny) -> None:
    """Files that were mapped before the failed check, and the one that failed."""
    library = tiny.folder / "library"
    library.write_bytes(b"content")
    good = MapFile(bytes(library), identity(library), (Segment(FREE, 7, 0, READ),))
    clash = MapFile(bytes(library), identity(library), (Segment(PROGRAM, 7, 0, READ),))
    path = tiny.image(good, clash, program=b"/bin/ls")
    done = subprocess.run([path, "/proc/self/fd"], capture_output=True, check=False)
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"], done
    takes_plain_way(tiny, clash, reason=f"cannot map: {library} (errno 17)")


def test_a_program_that_cannot_be_executed(tiny: Tiny) -> None:
    done = tiny.run(tiny.image(DIFFERS, program=b"/no/program"), verbose=False)
    assert done.returncode == 127
    message = b"cannot execute the program: /no/program (errno 2)"
    assert done.stderr == b"spidl: error[start/exec]: %b\n" % message


def test_an_image_at_its_programs_path_does_not_start_itself_for_ever(tiny: Tiny) -> None:
    done = tiny.run(tiny.image(DIFFERS, program=bytes(tiny.folder / "image")), verbose=False)
    assert done.returncode == 127
    assert done.stderr == b"spidl: error[start/loop]: another auxiliary vector\n"


def test_a_program_that_has_begun_is_not_started_again(tiny: Tiny) -> None:
    path = tiny.image(Call(PROGRAM + 0x100), DIFFERS, code=".org 0x100\nret")
    done = tiny.run(path)
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr == b"spidl: error[start/late]: another auxiliary vector\n"
