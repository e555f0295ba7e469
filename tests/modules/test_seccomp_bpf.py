"""Filters against three oracles: a strict interpreter, libseccomp's compiler, the kernel."""

from __future__ import annotations

import ctypes
import os
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyseccomp as seccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spidl.modules.seccomp import bpf
from spidl.modules.seccomp.bpf import ALLOW, ENOSYS, ERRNO, KILL_PROCESS, LOG, TRAP, Rules, assemble
from spidl.testing.bpf import BadFilter, Filter, SystemCall

X32 = bpf.X32_BIT
I386, AARCH64 = 0x40000003, 0xC00000B7
EDGES = (
    0,
    1,
    333,
    334,
    335,
    423,
    424,
    462,
    600,
    X32 - 1,
    X32,
    X32 + 1,
    X32 + 512,
    2**31,
    2**32 - 1,
)
SETS = (
    frozenset[int](),
    frozenset({0}),
    frozenset({0, 1, 2, 3, 60, 231}),
    frozenset(range(335)),
    frozenset(range(0, 600, 2)),
    frozenset(random.Random(1).sample(range(460), 90)),
)


def expected(rules: Rules, number: int) -> int:
    """What the rules say, without any tree."""
    if number >= X32:
        return rules.foreign
    if number in rules.allowed:
        return ALLOW
    return ENOSYS if number > rules.newest else rules.deny


@pytest.mark.parametrize("deny", [KILL_PROCESS, TRAP, LOG, ERRNO | 1])
@pytest.mark.parametrize("allowed", SETS, ids=len)
def test_every_number(allowed: frozenset[int], deny: int) -> None:
    rules = Rules(allowed, deny, newest=439)
    found = Filter(assemble(rules))
    for number in (*range(601), *EDGES):
        assert found.run(SystemCall(number)) == expected(rules, number), number


@given(st.frozensets(st.integers(0, 700)), st.integers(0, 700))
@settings(max_examples=60, deadline=None)
def test_any_set(allowed: frozenset[int], newest: int) -> None:
    rules = Rules(allowed, KILL_PROCESS, newest=newest)
    found = Filter(assemble(rules))
    for number in (*range(702), *EDGES):
        assert found.run(SystemCall(number)) == expected(rules, number), number


@pytest.mark.parametrize("arch", [I386, AARCH64, 0, bpf.ARCH_X86_64 ^ 1])
def test_another_architecture_has_other_numbers(arch: int) -> None:
    found = Filter(assemble(Rules(frozenset(range(600)), ERRNO | 1)))
    assert {found.run(SystemCall(n, arch=arch)) for n in range(600)} == {KILL_PROCESS}


def test_as_libseccomp_decides() -> None:
    """The same rules given to libseccomp: every number, x32, other architectures."""
    for allowed in SETS:
        theirs = seccomp.SyscallFilter(seccomp.KILL_PROCESS)
        theirs.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
        for number in sorted(allowed):
            theirs.add_rule(seccomp.ALLOW, number)
        with tempfile.TemporaryFile() as file:
            theirs.export_bpf(file)
            file.seek(0)
            oracle = Filter(file.read())
        ours = Filter(assemble(Rules(allowed, KILL_PROCESS)))
        for arch in (bpf.ARCH_X86_64, I386, AARCH64):
            for number in (*range(601), *EDGES):
                call = SystemCall(number, arch=arch)
                assert ours.run(call) == oracle.run(call), (arch, number)


def test_a_program_cannot_take_sigsys() -> None:
    """sigaction(SIGSYS) with an action seems to work and does nothing; reading it works."""
    found = Filter(assemble(Rules(frozenset({13}), TRAP, keeps_sigsys=True)))
    high = 0xAB << 32
    assert found.run(SystemCall(13, (31, 0x1000))) == ERRNO
    assert found.run(SystemCall(13, (31 | high, 0x1000))) == ERRNO, "the kernel takes an int"
    assert found.run(SystemCall(13, (31, 1 << 40))) == ERRNO, "a pointer whose low half is 0"
    assert found.run(SystemCall(13, (31, 0))) == ALLOW
    assert found.run(SystemCall(13, (11, 0x1000))) == ALLOW
    assert Filter(assemble(Rules(frozenset(), TRAP, keeps_sigsys=True))).run(SystemCall(13)) == TRAP


CODE = ((0x5555_0000_1000, 0x5555_0000_3000), (0x5555_FFFF_F000, 0x5556_0000_1000))


@pytest.mark.parametrize(
    ("ip", "allowed"),
    [
        (0x5555_0000_1000, False), (0x5555_0000_1001, False), (0x5555_0000_1002, True),
        (0x5555_0000_3000, True), (0x5555_0000_3001, False), (0x5555_FFFF_F001, False),
        (0x5555_FFFF_F002, True), (0x5556_0000_0000, True), (0x5556_0000_1000, True),
        (0x5556_0000_1001, False), (0x1002, False), (0x5557_0000_0000, False),
        (0xFFFF_FFFF_FFFF_FFFF, False),
    ],
)  # fmt: skip
def test_calls_from_elsewhere(ip: int, allowed: bool) -> None:
    """The instruction has two bytes, and the kernel shows the address behind it."""
    rules = Rules(
        frozenset({1, 2, 20}), KILL_PROCESS, origins=CODE, anywhere=frozenset({96}), reports_with=20
    )
    found = Filter(assemble(rules))
    answer = ALLOW if allowed else KILL_PROCESS
    assert found.run(SystemCall(1, ip=ip)) == answer
    assert found.run(SystemCall(20, (1,), ip=ip)) == answer
    assert found.run(SystemCall(20, (2,), ip=ip)) == ALLOW, "the report"
    assert found.run(SystemCall(96, ip=ip)) == ALLOW, "the vDSO"
    assert found.run(SystemCall(3, ip=ip)) == KILL_PROCESS


def test_a_range_over_a_boundary_of_4_gib() -> None:
    start, end = 0x7FFF_F000, 0x3_0000_1000
    found = Filter(assemble(Rules(frozenset({1}), KILL_PROCESS, origins=((start, end),))))
    for ip in (start + 2, 0xFFFF_FFFF, 1 << 32, (1 << 32) + 7, 0x2_FFFF_FFFF, 3 << 32, end):
        assert found.run(SystemCall(1, ip=ip)) == ALLOW, hex(ip)
    for ip in (0, start + 1, end + 1, 4 << 32):
        assert found.run(SystemCall(1, ip=ip)) == KILL_PROCESS, hex(ip)


def test_what_is_constant_for_a_number_uses_nothing_else() -> None:
    """Else the kernel's bitmap (seccomp_cache_prepare) cannot hold it, and every call pays."""
    lines = struct.iter_unpack("=HBBI", assemble(Rules(frozenset({1, 13}), TRAP)))
    assert {k for code, _, _, k in lines if code == 0x20} == {0, 4}


def test_the_interpreter_refuses_what_the_kernel_refuses() -> None:
    def line(code: int, true: int, false: int, k: int) -> bytes:
        return struct.pack("=HBBI", code, true, false, k)

    end = line(6, 0, 0, ALLOW)
    wrong = {
        "empty": b"",
        "no return": line(0x20, 0, 0, 0),
        "odd load": line(0x20, 0, 0, 2) + end,
        "load behind the data": line(0x20, 0, 0, 64) + end,
        "jump behind the end": line(0x15, 1, 0, 0) + end,
        "far jump behind the end": line(0x05, 0, 0, 1) + end,
        "unknown": line(0xFF, 0, 0, 0) + end,
        "byte load": line(0x30, 0, 0, 0) + end,
        "scratch not written": line(0x60, 0, 0, 0) + end,
        "scratch written on one way": (
            line(0x15, 0, 1, 0) + line(0x02, 0, 0, 3) + line(0x60, 0, 0, 3) + end
        ),
        "scratch out of range": line(0x02, 0, 0, 16) + end,
        "division by zero": line(0x34, 0, 0, 0) + end,
        "too long": end * 4097,
    }
    for name, program in wrong.items():
        with pytest.raises(BadFilter):
            Filter(program)
        assert install(program) == 22, f"{name}: the kernel takes it"
    assert Filter(end).run(SystemCall(1)) == ALLOW


# --- the kernel -----------------------------------------------------------------------------------


def install(program: bytes) -> int:
    """The errno of installing a filter in a process of its own."""
    return in_child(lambda libc: None, program)[0]


def in_child(act: Callable[[Any], object], program: bytes) -> tuple[int, int]:
    """(errno of the installation, wait status of a process that then acts)."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, max(8, len(program)))
    header = struct.pack("=HxxxxxxQ", min(len(program) // 8, 65535), ctypes.addressof(buffer))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            libc.prctl(38, 1, 0, 0, 0)
            failed = libc.prctl(22, 2, header, 0, 0) != 0
            error = ctypes.get_errno() if failed else 0
            libc.write(write, struct.pack("=I", error), 4)
            act(libc)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return struct.unpack("=I", said)[0] if said else -1, status


EVERYTHING = frozenset(range(512)) - {110}
"""All but getppid."""


@pytest.mark.parametrize(
    ("deny", "status"), [(KILL_PROCESS, 31), (TRAP, 31), (ERRNO | 13, 13 << 8), (LOG, 7 << 8)]
)
def test_the_kernel_decides_as_we_do(deny: int, status: int) -> None:
    def act(libc: Any) -> None:
        ctypes.set_errno(0)
        result = libc.syscall(110)
        os._exit(ctypes.get_errno() if result < 0 else 7)

    error, ended = in_child(act, assemble(Rules(EVERYTHING, deny, newest=450)))
    assert error == 0
    assert ended & 0xFF7F == status


def test_the_kernel_answers_for_newer_calls_and_kills_for_x32() -> None:
    def newer(libc: Any) -> None:
        libc.syscall(511)
        os._exit(ctypes.get_errno())

    program = assemble(Rules(EVERYTHING - {511}, KILL_PROCESS, newest=450))
    assert in_child(newer, program) == (0, 38 << 8)
    error, ended = in_child(lambda libc: libc.syscall(X32 | 39), program)
    assert (error, ended & 0x7F) == (0, 31)


def test_the_kernel_takes_the_largest(tmp_path: Path) -> None:
    rules = Rules(
        frozenset(range(0, 512, 2)) | EVERYTHING, KILL_PROCESS, newest=450, origins=CODE * 3,
        keeps_sigsys=True, anywhere=frozenset({96}), reports_with=20,
    )  # fmt: skip
    assert install(assemble(rules)) in (0, -1), "installed; what follows is from elsewhere"
