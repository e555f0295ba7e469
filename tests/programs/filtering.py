"""Filtered images and what strace saw, for tests and surveys of the seccomp module."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spidl.analyse.names import name_of
from spidl.link.actions import Filter
from spidl.modules.seccomp.bpf import ALLOW
from spidl.targets.exec.decode import decode
from spidl.targets.exec.layout import MAGIC, PAGE
from spidl.testing import bpf
from tests.needs import tool

from .filtered_work import FILES, Filtered
from .harness import BuildFailed, Outcome, empty, run, spidl
from .work import ENVIRONMENT

BY_LINKER = frozenset({"execve", "arch_prctl", "set_tid_address", "set_robust_list", "rseq",
                       "prlimit64", "access", "pread64"})  # fmt: skip
"""What ld.so and the kernel do before a program's first instruction and the program need not be
able to: an image does not run ld.so.  (What else ld.so does, every libc does too.)"""
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_HIGHEST = 600
_LINE = re.compile(r"^(\w+)\((.*)", re.MULTILINE)
_MADE = re.compile(r"^(?:clone|clone3|fork|vfork)\(.*\) += (\d+)", re.MULTILINE)
_STARTED = re.compile(r'^execve\(("(?:[^"\\]|\\.)*"), .*\) += 0$', re.MULTILINE)
_DENIED = re.compile(rb"seccomp/denied|Bad system call(?!\))")
"""What boot says, and what shells say; gdb names the signal in brackets."""
_SIGSYS = 31


def build(
    program: Path,
    image: Path,
    settings: Mapping[str, object],
    *,
    steering: Mapping[str, str],
    timeout: float = 300,
) -> Path:
    """Write a filtered image; ``settings`` are the module's.  Raises `BuildFailed`."""
    options = [f"--set=seccomp.{key}={_toml(value)}" for key, value in settings.items()]
    done = spidl(
        ["build", str(program), "-o", str(image), "--with=seccomp", *options],
        steering=steering,
        timeout=timeout,
    )
    if done.status != 0 or not image.exists():
        raise BuildFailed(program, done)
    return image


def _toml(value: object) -> str:
    """A value of a setting as TOML has it."""
    if isinstance(value, dict):
        inner = (f"{json.dumps(key)} = {json.dumps(of)}" for key, of in value.items())
        return f"{{{', '.join(inner)}}}"
    return json.dumps(value)


def allowed(image: Path) -> frozenset[str]:
    """The system calls that the filter in an image allows, asked one by one."""
    data = image.read_bytes()
    head = MAGIC.to_bytes(8, "little")
    (at,) = [at for at in range(0, len(data), PAGE) if data.startswith(head, at)]
    actions = decode(data[at:]).actions
    (code,) = [action.program for action in actions if isinstance(action, Filter)]
    machine = bpf.Filter(code)
    return frozenset(
        name_of(number)
        for number in range(_HIGHEST)
        if machine.run(bpf.SystemCall(number)) == ALLOW
    )


def stopped(outcome: Outcome) -> bool:
    """Whether a filter has killed the program, or a child of which anything was said."""
    said = _DENIED.search(outcome.stderr + b"\n" + outcome.stdout)
    return bool(said) or outcome.status in (-_SIGSYS, 128 + _SIGSYS)


@dataclass(frozen=True, slots=True)
class Trace:
    """What one or more runs asked of the kernel, by the names of strace."""

    own: frozenset[str] = frozenset()
    """By the program, in all its processes until they start another."""
    others: frozenset[str] = frozenset()
    """By the programs that it started."""
    started: frozenset[str] = frozenset()
    """Their paths, links resolved."""

    @property
    def calls(self) -> frozenset[str]:
        return self.own | self.others

    def __or__(self, other: Trace) -> Trace:
        return Trace(self.own | other.own, self.others | other.others, self.started | other.started)


def trace(
    strace: str,
    argv: Sequence[str],
    folder: Path,
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: bytes | None = b"",
    timeout: float = 60,
) -> tuple[Outcome, Trace]:
    """Run ``argv`` under strace, with logs in ``folder``; raises `Timeout`."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("log.*"):
        log.unlink()
    command = [strace, "-ff", "-qq", "-s0", "-esignal=none", f"-o{folder / 'log'}", *argv]
    outcome = run(command, cwd=cwd, env=env, stdin=stdin, timeout=timeout)
    return outcome, read_trace(folder, cwd)


def read_trace(folder: Path, cwd: Path) -> Trace:
    """What ``strace -ff -o folder/log`` wrote: one file for each process and thread."""
    logs = {int(log.suffix[1:]): log.read_text(errors="replace") for log in folder.glob("log.*")}
    parents = {
        int(made[1]): (pid, made.start())
        for pid, log in logs.items()
        for made in _MADE.finditer(log)
    }
    starts = {pid: list(_STARTED.finditer(log)) for pid, log in logs.items()}
    for pid in logs.keys() - parents.keys():
        del starts[pid][:1]  # strace's own, of the program itself

    def is_own(pid: int, at: int) -> bool:
        """Whether a process was still the program, at an offset in its log."""
        while True:
            if any(start.start() < at for start in starts[pid]):
                return False
            if pid not in parents:
                return True
            pid, at = parents[pid]

    own: set[str] = set()
    others: set[str] = set()
    for pid, log in logs.items():
        for line in _LINE.finditer(log):
            (own if is_own(pid, line.start()) else others).add(line[1])
    paths = {ast.literal_eval(start[1]) for found in starts.values() for start in found}
    real = {os.path.realpath(os.path.join(cwd, path)) for path in paths}
    return Trace(frozenset(own), frozenset(others), frozenset(filter(os.path.isfile, real)))


@dataclass(frozen=True, slots=True)
class Done:
    """A piece of work, done without a filter, under strace, and as a filtered image."""

    plain: list[Outcome]
    filtered: list[Outcome]
    seen: Trace
    allowed: frozenset[str]
    settings: Mapping[str, object]

    @property
    def beyond(self) -> frozenset[str]:
        """What strace saw and the filter does not allow."""
        return self.seen.calls - BY_LINKER - self.allowed


def do(work: Filtered, program: Path, folder: Path, steering: Mapping[str, str]) -> Done:
    """Do a piece of work in ``folder``, which is emptied; raises `BuildFailed`, `Timeout`."""
    strace = tool("strace", "strace")
    cwd, image = folder / "work", folder / work.name
    env = {**ENVIRONMENT, "PATH": SYSTEM_PATH, "HOME": str(cwd), "TERM": "dumb"}

    def start(executable: Path) -> list[Outcome]:
        _prepare(cwd)
        return [
            run(words, executable=executable, cwd=cwd, env=env, stdin=work.stdin)
            for words in work.commands
        ]

    seen = Trace()
    if work.is_traced:
        _prepare(cwd)
        for words in work.commands:
            argv = [str(program), *words[1:]]
            logs = folder / "logs"
            seen |= trace(strace, argv, logs, cwd=cwd, env=env, stdin=work.stdin)[1]
    settings = dict(work.settings)
    started = {*seen.started, *map(_path, work.starts)}
    if started:
        settings["exec"] = sorted(started)
    build(program, image, settings, steering=steering)
    return Done(start(program), start(image), seen, allowed(image), settings)


def _prepare(folder: Path) -> None:
    empty(folder)
    for name, content in FILES.items():
        (folder / name).write_text(content)


def _path(name: str) -> str:
    return os.path.realpath(shutil.which(name, path=SYSTEM_PATH) or name)
