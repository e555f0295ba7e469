"""Programs under the filter of the seccomp module: what is not reachable is not possible."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl.launch import LAUNCHER
from tests.needs import tool

from .conftest import Workshop
from .harness import Outcome, forbidding, run, spidl

Build = Callable[..., Path]
MKNOD = "mknod"
KILLED = -signal.SIGSYS
SECCOMP = 317
"""seccomp(2)'s number."""


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a filtered image; keyword arguments are settings."""

    def made(program: Path, **settings: object) -> Path:
        image = tmp_path / f"image{len(list(tmp_path.glob('image*')))}"
        options = [f"--set=seccomp.{key}={json.dumps(value)}" for key, value in settings.items()]
        done = spidl(["build", str(program), "-o", str(image), "--with=seccomp", *options])
        assert done.status == 0, done
        return image

    return made


@pytest.fixture
def main(workshop: Workshop) -> Path:
    return workshop.program("filtered", "filtered_main.c", flags=("-pthread",))


def is_report(result: Outcome, call: str, program: Path) -> bool:
    """Whether standard error holds one report of a call, and nothing else."""
    lines = result.stderr.decode().splitlines()
    assert lines[0] == (
        f"spidl: error[seccomp/denied]: system call {call} is not allowed to {program}"
    ), result
    assert lines[1].startswith("  --> "), result
    assert lines[2] == f"   = help: spidl seccomp explain {program} {call}", result
    return len(lines) == 3


def test_what_is_reachable_works(main: Path, build: Build) -> None:
    assert run([str(build(main))]) == Outcome(b"started\nended\n", b"", 0)


@pytest.mark.parametrize("what", ["main", "thread"])
def test_a_call_outside_kills_and_says_so(
    main: Path, build: Build, tmp_path: Path, what: str
) -> None:
    made = tmp_path / "made"
    assert run([str(main), what, str(made)]).status == 0
    made.unlink()
    result = run([str(build(main)), what, str(made)])
    assert (result.stdout, result.status) == (b"started\n", KILLED)
    assert is_report(result, MKNOD, main)
    assert not made.exists()


def test_the_report_names_who_called(main: Path, build: Build, tmp_path: Path) -> None:
    """From code of nobody: an address, and who called that code."""
    result = run([str(build(main)), "main", str(tmp_path / "made")])
    place = result.stderr.decode().splitlines()[1]
    assert place.startswith("  --> 0x")
    assert ", called from filtered+0x" in place


def test_a_child_dies_alone(main: Path, build: Build, tmp_path: Path) -> None:
    result = run([str(build(main)), "fork", str(tmp_path / "made")])
    assert (result.stdout, result.status) == (b"started\nchild 31\nended\n", 0)
    assert is_report(result, MKNOD, main)


@pytest.mark.parametrize("what", ["catch", "ignore"])
def test_a_program_cannot_take_the_signal(
    main: Path, build: Build, tmp_path: Path, what: str
) -> None:
    result = run([str(build(main)), what, str(tmp_path / "made")])
    assert (result.stdout, result.status) == (b"started\nsigaction 0\n", KILLED)
    assert is_report(result, MKNOD, main)
    assert not (tmp_path / "made").exists()


def test_a_program_that_blocks_the_signal_dies_without_a_word(
    main: Path, build: Build, tmp_path: Path
) -> None:
    result = run([str(build(main)), "block", str(tmp_path / "made")])
    assert result == Outcome(b"started\n", b"", KILLED)


def test_without_a_report(main: Path, build: Build, tmp_path: Path) -> None:
    result = run([str(build(main, report=False)), "main", str(tmp_path / "made")])
    assert result == Outcome(b"started\n", b"", KILLED)


def test_errors_instead_of_death(main: Path, build: Build, tmp_path: Path) -> None:
    made = tmp_path / "made"
    image = build(main, action="errno", errno="EACCES")
    assert run([str(image), "main", str(made)]) == Outcome(b"started\nmknod -13\nended\n", b"", 0)
    assert not made.exists()


def test_only_logged(main: Path, build: Build, tmp_path: Path) -> None:
    made = tmp_path / "made"
    image = build(main, action="log")
    assert run([str(image), "main", str(made)]) == Outcome(b"started\nmknod 0\nended\n", b"", 0)
    assert made.is_file()


def test_trapped_for_the_program_itself(main: Path, build: Build, tmp_path: Path) -> None:
    made = tmp_path / "made"
    result = run([str(build(main, action="trap")), "catch", str(made)])
    assert result.stdout.startswith(b"started\nsigaction 0\ncaught 133\nmknod "), result
    assert not made.exists()


def test_an_allowed_call_from_code_of_nobody(main: Path, build: Build) -> None:
    """With `origins` the number alone does not suffice."""
    assert run([str(build(main)), "getpid"]) == Outcome(b"started\ngetpid 1\nended\n", b"", 0)
    result = run([str(build(main, origins=True)), "getpid"])
    assert (result.stdout, result.status) == (b"started\n", KILLED)
    assert is_report(result, "getpid", main)


def test_what_the_settings_allow(main: Path, build: Build, tmp_path: Path) -> None:
    result = run([str(build(main, allow=["mknod"])), "main", str(tmp_path / "made")])
    assert result == Outcome(b"started\nmknod 0\nended\n", b"", 0)


def test_what_the_settings_forbid(main: Path, build: Build) -> None:
    result = run([str(build(main, forbid=["write"]))])
    assert (result.stdout, result.status) == (b"", KILLED)
    assert is_report(result, "write", main), "with writev, which is still allowed"


# --- when it begins -------------------------------------------------------------------------------


@pytest.fixture
def constructed(workshop: Workshop) -> Path:
    workshop.library("libconstructed.so", "filtered_lib.c")
    return workshop.program(
        "with_constructor", "filtered_main.c", "libconstructed.so", flags=("-pthread",)
    )


def test_constructors_are_under_the_filter(constructed: Path, build: Build, tmp_path: Path) -> None:
    env = {"CONSTRUCTED": str(tmp_path / "early")}
    result = run([str(build(constructed))], env=env)
    assert (result.stdout, result.status) == (b"", KILLED)
    assert is_report(result, MKNOD, constructed)


def test_constructors_before_the_filter(constructed: Path, build: Build, tmp_path: Path) -> None:
    env = {"CONSTRUCTED": str(tmp_path / "early")}
    image = build(constructed, filter_from="start")
    result = run([str(image), "main", str(tmp_path / "late")], env=env)
    assert (result.stdout, result.status) == (b"constructed 0\nstarted\n", KILLED)
    assert is_report(result, MKNOD, constructed)
    assert (tmp_path / "early").is_file()
    assert not (tmp_path / "late").exists()


# --- never without --------------------------------------------------------------------------------


@pytest.mark.parametrize("filter_from", ["entry", "start"])
def test_a_filter_that_cannot_be_installed_refuses_the_start(
    main: Path, build: Build, filter_from: str
) -> None:
    image = build(main, filter_from=filter_from)
    result = run([*forbidding(SECCOMP), str(image)])
    assert result.stdout == b""
    assert result.status == 126
    assert b"spidl: error[start/policy]: cannot install the filter (errno 1)" in result.stderr


def test_an_image_that_does_not_fit_refuses_the_start(main: Path, build: Build) -> None:
    result = run([str(build(main))], env={"LD_DEBUG": "libs"})
    assert result.stdout == b""
    assert result.status == 126
    assert b"spidl: error[start/policy]: " in result.stderr


def test_spidl_run_starts_under_the_filter(main: Path, tmp_path: Path) -> None:
    env = {"SPIDL_CACHE": str(tmp_path / "cache")}
    for _ in range(2):  # linked, then kept
        result = spidl(
            ["run", "--with=seccomp", str(main), "main", str(tmp_path / "made")], steering=env
        )
        assert (result.stdout, result.status) == (b"started\n", KILLED)
        assert is_report(result, MKNOD, main)


# --- kinds of programs ----------------------------------------------------------------------------

KINDS = {"no_pie": ("-no-pie",), "pie": ("-fPIE", "-pie")}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kinds_of_programs(workshop: Workshop, build: Build, tmp_path: Path, kind: str) -> None:
    program = workshop.program(f"filtered_{kind}", "filtered_main.c", flags=KINDS[kind])
    works_and_dies(build(program), program, tmp_path / "made")


@pytest.mark.parametrize("flags", [(), ("-static",)], ids=["shared", "static"])
def test_a_program_of_musl(
    workshop: Workshop, build: Build, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    name = "_".join(("filtered_musl", *flags))
    program = workshop.program(
        name, "filtered_main.c", flags=flags, cc=tool("musl-gcc", "musl-tools")
    )
    # Its cancellation points go through a function that is told the number.
    works_and_dies(build(program, unknown="deny"), program, tmp_path / "made")


def works_and_dies(image: Path, program: Path, made: Path) -> None:
    assert run([str(image)]) == Outcome(b"started\nended\n", b"", 0)
    result = run([str(image), "main", str(made)])
    assert (result.stdout, result.status) == (b"started\n", KILLED)
    assert is_report(result, MKNOD, program)


NO_LIBC = """
.globl _start
_start:
    mov $1, %eax
    mov $1, %edi
    lea text(%rip), %rsi
    mov $3, %edx
    syscall
    cmpq $1, (%rsp)
    je 1f
    mov (%rsp), %rax        # argc is 2: getppid, 110
    add $108, %rax
    syscall
1:  mov $60, %eax
    xor %edi, %edi
    syscall
text: .ascii "ok\\n"
.section .note.GNU-stack, "", @progbits
"""


def test_a_program_without_a_libc(tmp_path: Path, build: Build) -> None:
    source = tmp_path / "nolibc.s"
    source.write_text(NO_LIBC)
    program = tmp_path / "nolibc"
    subprocess.run(["gcc", "-nostdlib", "-static", "-o", program, source], check=True)
    image = build(program, unknown="deny")
    assert run([str(image)]) == Outcome(b"ok\n", b"", 0)
    result = run([str(image), "more"])
    assert (result.stdout, result.status) == (b"ok\n", KILLED)
    assert is_report(result, "getppid", program)


@pytest.mark.parametrize("exec_", ["allow", ["/bin/true"]])
def test_images_and_kept_programs_are_started_by_a_filtered_one(
    build: Build, exec_: object
) -> None:
    """What boot and the launcher ask for is allowed to who may start programs."""
    shell, inner = build(Path("/bin/sh"), exec=exec_), build(Path("/bin/true"))
    kept = f"{shlex.quote(str(LAUNCHER))} run -- /bin/true"
    assert spidl(["run", "--", "/bin/true"]).status == 0
    assert run(["/bin/sh", "-c", kept]) == Outcome(b"", b"", 0)
    result = run([str(shell), "-c", f"{inner}; echo $?; {kept}; echo $?"])
    assert result == Outcome(b"0\n0\n", b"", 0)
