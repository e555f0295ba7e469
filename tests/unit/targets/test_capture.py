"""Capture runs of real programs: where things are, and what is recorded."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from capturing import ENVIRONMENT, HELLO, PAGE, compile_c, needed, plan, static, word, words
from tests.needs import missing, tool

from spidl.diagnostics import LinkError
from spidl.link.actions import Protection, ThreadCall
from spidl.targets.exec import entry
from spidl.targets.exec.capture import Snapshot, capture

CONSTRUCTOR = """
#include <fcntl.h>
#include <stdlib.h>
__attribute__((constructor)) static void made(void) { creat(getenv("MARK"), 0600); }
int main(void) { return 0; }
"""
ADDR_NO_RANDOMIZE = 0x40000
ARCH_SET_FS = 0x1002


def assert_in_place(snapshot: Snapshot) -> None:
    """Every object is where the plan wants it, and is the right file."""
    made = snapshot.plan
    for placement in made.placements:
        own = [v for v in snapshot.vmas if placement.start <= v.start < placement.end]
        assert own[0].start == placement.start
        assert own[-1].end == placement.end
        assert (own[0].device, own[0].inode) == (placement.device, placement.inode)
        assert any(vma.start == placement.start for vma in snapshot.files)
    files, regions = snapshot.files, snapshot.regions
    assert not any(vma.protection & Protection.WRITE for vma in files)
    covered = 0
    for vma in snapshot.vmas:
        inside = [r for r in regions if vma.start <= r.address and r.end <= vma.end]
        assert sum(len(r.content) for r in inside) in (0, vma.end - vma.start)
        covered += len(inside)
    assert covered == len(regions)
    assert not {vma.start for vma in files} & {region.address for region in regions}
    assert snapshot.unexpected == ()
    assert snapshot.registers["rip"] == made.stop


def assert_consistent(snapshot: Snapshot) -> None:
    """The anchors agree with each other, the plan, and what ld.so made of them (glibc)."""
    made, anchors = snapshot.plan, snapshot.anchors
    assert anchors.argc == len(made.arguments)
    assert anchors.argv == anchors.stack + 8
    assert anchors.envp == anchors.argv + 8 * (anchors.argc + 1)
    assert anchors.auxv == anchors.envp + 8 * (len(made.environment) + 1)
    values = anchors.auxv_values
    assert (values[3], values[9], values[7]) == (made.phdr, made.entry, made.base)
    assert snapshot.registers["rsp"] == anchors.stack
    assert snapshot.registers["rax"] == made.entry
    assert snapshot.vdso.startswith(b"\x7fELF")
    assert len(snapshot.vdso) == anchors.vdso_end - anchors.vdso
    # tcbhead_t: the stack protector's canary and the pointer guard, sysdeps/x86_64/nptl/tls.h.
    thread = snapshot.registers["fs_base"]
    canary = int.from_bytes(anchors.random[:8], "little") & ~0xFF
    assert word(snapshot, thread + 0x28) == canary
    assert word(snapshot, thread + 0x30) == int.from_bytes(anchors.random[8:], "little")
    assert made.interpreter is not None
    known = words(snapshot, made.interpreter)
    for value in (anchors.auxv, anchors.envp, anchors.brk, anchors.platform, anchors.vdso):
        assert value in known


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_c(tmp_path_factory.mktemp("hello") / "hello", HELLO)


@pytest.mark.parametrize("program", ["git", "bash", "hello", "python3"])
def test_twice_at_different_addresses(program: str, hello: str) -> None:
    path = hello if program == "hello" else shutil.which(program, path="/usr/bin")
    if path is None or not Path(path).read_bytes().startswith(b"\x7fELF"):
        missing(f"{program} is not installed")
    first = capture(plan(path, base=0x70_0000_0000))
    second = capture(plan(path, "one", "two", base=0x123_4560_0000))
    for snapshot in (first, second):
        assert_in_place(snapshot)
        assert_consistent(snapshot)
    assert first.anchors.random != second.anchors.random
    assert len(first.regions) == len(second.regions)


def test_fixed_address_program(tmp_path: Path) -> None:
    snapshot = capture(plan(compile_c(tmp_path / "fixed", HELLO, "-no-pie")))
    assert snapshot.plan.main.bias == 0
    assert_in_place(snapshot)
    assert_consistent(snapshot)


def test_thread_calls_in_order(hello: str) -> None:
    snapshot = capture(plan(hello))
    calls = [record.call for record in snapshot.calls]
    assert calls[:3] == [
        ThreadCall.ARCH_PRCTL,
        ThreadCall.SET_TID_ADDRESS,
        ThreadCall.SET_ROBUST_LIST,
    ]
    thread = snapshot.registers["fs_base"]
    assert snapshot.calls[0].arguments[:2] == (ARCH_SET_FS, thread)
    assert snapshot.plan.arena <= thread < snapshot.arena_end
    assert thread < snapshot.calls[1].arguments[0] < thread + PAGE
    assert word(snapshot, snapshot.calls[1].arguments[0]) & 0xFFFFFFFF == snapshot.anchors.thread


def test_stops_before_constructors(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = compile_c(tmp_path / "program", CONSTRUCTOR)
    environment = {**ENVIRONMENT, "MARK": str(mark)}
    capture(plan(program, environment=environment))
    assert not mark.exists()
    subprocess.run([program], env=environment, check=True)
    assert mark.exists()


def test_stack_limit(hello: str) -> None:
    limit = 24 << 20
    snapshot = capture(plan(hello, stack_limit=limit))
    assert snapshot.anchors.stack_limit == limit
    # __pthread_initialize_minimal's __default_pthread_attr.
    assert limit in words(snapshot, snapshot.plan.libraries[0])


def test_random_addresses_even_where_switched_off(hello: str) -> None:
    libc = ctypes.CDLL(None)
    before = libc.personality(0xFFFFFFFF)
    libc.personality(before | ADDR_NO_RANDOMIZE)
    try:
        stacks = {capture(plan(hello)).anchors.stack for _ in range(3)}
    finally:
        libc.personality(before)
    if Path("/proc/sys/kernel/randomize_va_space").read_text().strip() == "0":
        pytest.skip("this machine randomises nothing")
    assert len(stacks) > 1


def test_musl_stops_at_entry(tmp_path: Path) -> None:
    tool("musl-gcc", "musl-tools")
    program = compile_c(tmp_path / "musl", HELLO, compiler="musl-gcc")
    snapshot = capture(plan(program, libraries=(), stop=0, deny_brk=True))
    assert_in_place(snapshot)
    assert not any(vma.path == "[heap]" for vma in snapshot.vmas)
    calls = [record.call for record in snapshot.calls]
    assert calls == [ThreadCall.ARCH_PRCTL, ThreadCall.SET_TID_ADDRESS]
    assert snapshot.anchors.brk > 0
    assert snapshot.plan.arena < snapshot.arena_end


def test_over_aligned_library_between_neighbours(tmp_path: Path) -> None:
    """Its linker reserves 2 MiB more than there is room for, and unmaps that again.

    The library behind it in memory is mapped before it, and must survive.
    """
    options = ("-shared", "-fPIC")
    names = ("before", "big", "after")
    for name in names:
        wide = ("-Wl,-z,max-page-size=0x200000",) if name == "big" else ()
        source = f"int {name}[3000]; int get_{name}(void) {{ return {name}[1]; }}"
        compile_c(tmp_path / f"lib{name}.so", source, *options, *wide)
    calls = " + ".join(f"get_{name}()" for name in names)
    source = "".join(f"int get_{name}(void);" for name in names)
    program = compile_c(
        tmp_path / "program",
        f"{source} int main(void) {{ return {calls}; }}",
        *(str(tmp_path / f"lib{name}.so") for name in names),
    )
    before, big_path, *others = needed(program)
    snapshot = capture(plan(program, libraries=(big_path, before, *others)))
    big, neighbour, *_ = snapshot.plan.libraries
    assert (big.align, neighbour.start) == (0x200000, big.end)
    assert_in_place(snapshot)
    crooked = dataclasses.replace(big, start=big.start + PAGE)
    moved = tuple(crooked if item is big else item for item in snapshot.plan.libraries)
    with pytest.raises(LinkError) as caught:
        capture(dataclasses.replace(snapshot.plan, libraries=moved))
    assert caught.value.code == "adopt/misplaced"


def test_unexpected_library(hello: str) -> None:
    full = plan(hello)
    snapshot = capture(dataclasses.replace(full, libraries=()))
    assert [os.path.realpath(path) for path in snapshot.unexpected] == [
        os.path.realpath(library.path) for library in full.libraries
    ]


def test_without_vdso(hello: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system calls then go through ld.so's own text, while that is being moved."""
    original = entry._find_syscall

    def without(child: object, vmas: object, vdso: bytes, base: int) -> int:
        return original(child, vmas, b"", 0)  # type: ignore[arg-type]

    monkeypatch.setattr(entry, "_find_syscall", without)
    snapshot = capture(plan(hello))
    assert_in_place(snapshot)
    assert_consistent(snapshot)


def test_records_only_calls_that_succeed(tmp_path: Path) -> None:
    program = static(
        tmp_path / "calls",
        """mov $158, %eax
        mov $0x3001, %edi
        mov $8, %esi
        syscall
        mov $218, %eax
        mov $0x1234, %edi
        syscall""",
    )
    snapshot = capture(plan(program, libraries=(), stop=64))
    assert [record.call for record in snapshot.calls] == [ThreadCall.SET_TID_ADDRESS]
    assert snapshot.calls[0].arguments[0] == 0x1234


def test_32_bit_calls_pass(tmp_path: Path) -> None:
    """i386's sched_yield has the number of arch_prctl."""
    program = static(tmp_path / "old", "mov $158, %eax\nint $0x80")
    if subprocess.run([program]).returncode:
        pytest.skip("this kernel has no 32-bit calls")
    assert capture(plan(program, libraries=(), stop=64)).calls == ()
