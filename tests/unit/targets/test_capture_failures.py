"""Every way in which a capture run fails, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from capturing import HELLO, children, compile_c, plan, static

import spidl
from spidl.diagnostics import LinkError, Refusal, Severity
from spidl.targets.exec import capture as capturing_module
from spidl.targets.exec import entry
from spidl.targets.exec.capture import CapturePlan, capture
from spidl.targets.exec.child import Child


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_c(tmp_path_factory.mktemp("hello") / "hello", HELLO)


def failure(made: CapturePlan) -> LinkError:
    with pytest.raises(LinkError) as caught:
        capture(made)
    return caught.value


def code(made: CapturePlan) -> str:
    return failure(made).code


def test_missing_library(tmp_path: Path) -> None:
    library = compile_c(tmp_path / "libgone.so", "int gone;", "-shared", "-Wl,-soname,libgone.so")
    source = "extern int gone; int main(void) { return gone; }"
    program = compile_c(tmp_path / "program", source, library)
    Path(library).unlink()
    error = failure(plan(program))
    assert error.code == "adopt/died"
    assert "exited with status 127" in error.diagnostic.message
    assert any("libgone.so" in note for note in error.diagnostic.notes)


def test_killed_by_signal(tmp_path: Path) -> None:
    program = static(tmp_path / "illegal", "ud2")
    error = failure(plan(program, libraries=(), stop=64))
    assert error.code == "adopt/died"
    assert "SIGILL" in error.diagnostic.message


def test_killed_from_outside(hello: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next ptrace call finds no tracee: that is the child's end, not an error of ours."""

    def kill(child: Child) -> entry.Entry:
        os.kill(child.pid, signal.SIGKILL)
        return entry.prepare(child)

    monkeypatch.setattr(capturing_module, "prepare", kill)
    error = failure(plan(hello))
    assert error.code == "adopt/died"
    assert "SIGKILL" in error.diagnostic.message


def test_stop_signals_do_not_stop_it(tmp_path: Path) -> None:
    program = static(
        tmp_path / "stopped",
        """mov $39, %eax
        syscall
        mov %eax, %edi
        mov $20, %esi
        mov $62, %eax
        syscall""",
    )
    snapshot = capture(plan(program, libraries=(), stop=64))
    assert snapshot.registers["rdi"] == snapshot.anchors.thread


def test_timeout(tmp_path: Path) -> None:
    program = static(tmp_path / "forever", "1: jmp 1b")
    error = failure(plan(program, libraries=(), stop=64, timeout=0.1))
    assert error.code == "adopt/timeout"
    assert "0.1 s" in error.diagnostic.message


def test_not_executable(hello: str, tmp_path: Path) -> None:
    made = plan(hello)
    text = tmp_path / "text"
    text.write_text("no program")
    assert code(dataclasses.replace(made, program=str(tmp_path / "absent"))) == "adopt/exec"
    assert code(dataclasses.replace(made, program=str(text))) == "adopt/exec"


def test_stack_limit_above_the_hard_one(hello: str) -> None:
    script = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from capturing import plan
from spidl.diagnostics import LinkError
from spidl.targets.exec.capture import capture
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
try:
    capture(plan(sys.argv[1], stack_limit=1 << 62))
except LinkError as error:
    print(error.code, error.diagnostic.message)
"""
    assert in_subprocess(script, hello).startswith("adopt/setup setrlimit failed")


def test_no_room(tmp_path: Path, hello: str) -> None:
    """A library that is to lie over a program with a fixed address, whatever is random."""
    made = plan(compile_c(tmp_path / "fixed", HELLO, "-no-pie"))
    over = dataclasses.replace(made.libraries[0], start=made.main.start)
    error = failure(dataclasses.replace(made, libraries=(over,)))
    assert error.code == "adopt/no-room"
    assert str(made.main.path) in error.diagnostic.notes[0]


def in_subprocess(script: str, *arguments: str) -> str:
    here = str(Path(__file__).parent)
    source = str(Path(spidl.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", script, *arguments, here],
        env={**os.environ, "PYTHONPATH": source},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize(
    ("number", "expected"), [(101, "adopt/no-ptrace"), (317, "adopt/no-seccomp")]
)
def test_sandbox(hello: str, number: int, expected: str) -> None:
    """A process that may not ptrace (or filter): the program starts the plain way."""
    script = """
import ctypes, struct, sys
sys.path.insert(0, sys.argv[3])
from capturing import plan
from spidl.diagnostics import Refusal
from spidl.targets.exec.capture import capture
made = plan(sys.argv[1])
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[2])), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *line) for line in lines)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("=HxxxxxxQ", len(lines), ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0
try:
    capture(made)
except Refusal as error:
    print(error.code, error.diagnostic.help)
"""
    output = in_subprocess(script, hello, str(number))
    assert output.startswith(expected)
    assert "plain way" in output


def test_no_breakpoint(hello: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses a breakpoint in its own half, as it does where there is none at all."""
    with pytest.raises(Refusal) as caught:
        capture(dataclasses.replace(plan(hello), stop=0xFFFF_FFFF_8000_0000))
    assert caught.value.code == "adopt/no-breakpoint"
    assert caught.value.diagnostic.severity is Severity.REFUSED


def test_leaves_nothing_behind(tmp_path: Path, hello: str) -> None:
    program = static(tmp_path / "illegal", "ud2")
    good, bad = plan(hello), plan(program, libraries=(), stop=64)
    absent = dataclasses.replace(good, program=str(tmp_path / "absent"))
    before, allowed = set(os.listdir("/proc/self/fd")), os.sched_getaffinity(0)
    others = children()
    for _ in range(3):
        capture(good)
        assert code(bad) == "adopt/died"
        assert code(absent) == "adopt/exec"
        assert code(dataclasses.replace(good, stop=1 << 63)) == "adopt/no-breakpoint"
    assert set(os.listdir("/proc/self/fd")) <= before
    assert os.sched_getaffinity(0) == allowed
    assert children() <= others
