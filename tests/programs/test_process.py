"""A process seen from inside: arguments, environment, children, signals, exit, libc services."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from .conftest import Same, Workshop
from .harness import Images, Layout, assert_same, run

PLAIN = {"PATH": os.defpath, "HOME": "/", "LANG": "C"}


@pytest.fixture(scope="module")
def process(workshop: Workshop) -> Path:
    return workshop.program("process", "process_main.c")


@pytest.fixture(scope="module")
def signals(workshop: Workshop) -> Path:
    return workshop.program("signals", "signals_main.c", flags=("-O0", "-fstack-protector-strong"))


@pytest.fixture(scope="module")
def system(workshop: Workshop) -> Path:
    return workshop.program("system", "system_main.c", flags=("-lm",))


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        ("arguments", 0),
        ("environment", 0),
        ("fork", 0),
        ("atfork", 0),
        ("spawn", 0),
        ("exec", 9),
        ("names", 0),
        ("exit", 11),
        ("quick-exit", 12),
        ("raw-exit", 13),
        ("descriptors", 0),
    ],
)
def test_process(same: Same, process: Path, behaviour: str, status: int) -> None:
    same([str(process), behaviour], env=PLAIN, status=status)


def test_own_executable_is_the_program(same: Same, process: Path) -> None:
    """Programs find their files through /proc/self/exe: it must not name the image."""
    outcome = same([str(process), "own-executable"])
    assert outcome.stdout == f"{process}\n{process}\n".encode()


def test_buffering(same: Same, process: Path) -> None:
    outcome = same([str(process), "buffering"], stdin=b"one\ntwo\nthree")
    assert outcome.stdout == (
        b"raw buffered now unbuffered raw\nread one\nread two\nread threeend of input 1\n"
    )


def test_empty_environment(same: Same, process: Path) -> None:
    same([str(process), "environment"], env={})


def test_strange_arguments(same: Same, process: Path) -> None:
    same([str(process), "arguments", "", "--", "-", "\n", "a b", "\u00e9", "%s%n", "*"])
    same([b"\xff\xfe not a name", "arguments", b"\x80"], program=process)
    same(["", "arguments"], program=process)


def test_huge_arguments_and_environment(same: Same, process: Path) -> None:
    """1.5 MB, near the kernel's limit of a quarter of the stack."""
    arguments = ["x" * 100_000] * 6 + ["y" * 10] * 5000
    env = {f"VARIABLE_{number}": "z" * 40_000 for number in range(20)} | {"LAST": "here"}
    same([str(process), "many", *arguments], env=env)


def test_no_arguments_at_all(layout: Layout, images: Images, workshop: Workshop) -> None:
    """execve with argc == 0: the kernel gives one empty argument (5.18 and later) or none."""
    helper = workshop.program("empty-argv", "empty_argv.c")
    program = workshop.program("env", "env_main.c")
    image = images.get(program, layout, {})
    oracle = run([str(helper), str(program)], env={"A": "1"})
    assert oracle.status == 0
    assert_same(oracle, run([str(helper), str(image)], env={"A": "1"}), ["env", "(argc 0)"])


@pytest.mark.parametrize(
    "behaviour", ["handlers", "timer", "segv", "overflow", "recursion", "jumps", "contexts"]
)
def test_signals(same: Same, signals: Path, behaviour: str) -> None:
    same([str(signals), behaviour])


@pytest.mark.parametrize(
    ("behaviour", "death"),
    [
        ("overflow-kills", signal.SIGSEGV),
        ("null-call", signal.SIGSEGV),
        ("smashed", signal.SIGABRT),
        ("freed-twice", signal.SIGABRT),
    ],
)
def test_death_is_the_same(same: Same, signals: Path, behaviour: str, death: int) -> None:
    same([str(signals), behaviour], status=-death, limits={resource.RLIMIT_CORE: (0, 0)})


@pytest.mark.parametrize("mb", [1, 4, 64])
def test_recursion_under_other_limits(same: Same, signals: Path, mb: int) -> None:
    limit = {resource.RLIMIT_STACK: (mb << 20, resource.RLIM_INFINITY)}
    same([str(signals), "recursion"], limits=limit)
    same([str(signals), "overflow"], limits=limit)


@pytest.mark.parametrize(
    "behaviour", ["iconv", "locale", "accounts", "hosts", "clocks", "ifuncs", "patterns"]
)
def test_libc_services(same: Same, system: Path, behaviour: str) -> None:
    same([str(system), behaviour])


def test_locale_from_the_environment(same: Same, system: Path) -> None:
    same([str(system), "locale"], env={**PLAIN, "LC_ALL": "C.UTF-8", "LANGUAGE": "de"})
