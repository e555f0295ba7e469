"""Timing whole processes fairly: all candidates take turns, medians and quartiles are kept."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.figures import Way, spread

_SILENT = (
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
)
_WARM_UP = 2
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to start a program."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beyond those of the measuring process."""
    evict: str | None = None
    """A file whose pages leave the page cache before each start."""

    @property
    def variables(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


@dataclass(slots=True)
class Runs:
    """What the starts of one candidate took."""

    seconds: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    status: int = 0


def once(candidate: Candidate) -> tuple[float, int, int]:
    """Start it with its output thrown away; (seconds until it ended, minor page faults, status)."""
    variables = candidate.variables
    if candidate.evict is not None:
        drop_from_cache(candidate.evict)
    began = time.perf_counter()
    pid = os.posix_spawn(candidate.argv[0], list(candidate.argv), variables, file_actions=_SILENT)
    _, status, usage = os.wait4(pid, 0)
    return time.perf_counter() - began, usage.ru_minflt, status


def starts_in_turn(images: Sequence[str], arguments: Sequence[str], rounds: int) -> list[float]:
    """Median seconds of a start of each image, of so many in turn."""
    took: list[list[float]] = [[] for _ in images]
    for _ in range(rounds):
        for image, seconds in zip(images, took, strict=True):
            seconds.append(once(Candidate([image, *arguments]))[0])
    return [statistics.median(seconds) for seconds in took]


def drop_from_cache(path: str) -> None:
    """Take a file's clean pages out of the page cache (posix_fadvise, POSIX_FADV_DONTNEED)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def reads_when_cold(candidate: Candidate) -> bool:
    """Whether dropping the file makes the next start read; a tmpfs keeps its pages, for one."""
    assert candidate.evict is not None
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock
    once(candidate)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock > before


def side_by_side(
    candidates: Mapping[str, Candidate], *, base: str, seconds: float, most: int = 500
) -> tuple[dict[str, Way], int]:
    """Run all candidates in turn for so many seconds; (what they took, rounds).

    Each round has an order of its own: what follows a start from disk finds colder caches.  Exits
    where they do not end alike: then they do not do the same work.
    """
    runs = {name: Runs() for name in candidates}
    for name, candidate in candidates.items():
        for _ in range(_WARM_UP):
            _, _, runs[name].status = once(candidate)
        if runs[name].status != runs[base].status:
            sys.exit(
                f"numbers: {candidate.argv[0]} ({name}) ends with wait status "
                f"{runs[name].status}, {candidates[base].argv[0]} ({base}) with {runs[base].status}"
            )
    order = list(candidates)
    pick = random.Random(0)
    until = time.perf_counter() + seconds
    rounds = 0
    while rounds < _FEWEST or (rounds < most and time.perf_counter() < until):
        pick.shuffle(order)
        for name in order:
            duration, faults, _ = once(candidates[name])
            runs[name].seconds.append(duration)
            runs[name].faults.append(faults)
        rounds += 1
    return {
        name: {
            "milliseconds": spread([s * 1e3 for s in run.seconds]),
            "faster": spread([b / s for b, s in zip(runs[base].seconds, run.seconds, strict=True)]),
            "faults": statistics.median(run.faults),
            "calls": count_calls(candidates[name]),
        }
        for name, run in runs.items()
    }, rounds


def _strace() -> str:
    found = shutil.which("strace")
    if found is None:
        sys.exit("numbers: strace is missing; install the package strace")
    return found


def _totals(candidate: Candidate, *options: str) -> tuple[int, int]:
    """(calls, errors) in the last line of strace's summary, children included."""
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as output:
        subprocess.run(
            [_strace(), "-f", "-c", "-U", "calls,errors,name", *options, "-o", output.name,
             *candidate.argv],
            env=candidate.variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        lines = [line.split() for line in output if line.rstrip().endswith(" total")]
    if not lines:
        sys.exit(f"numbers: strace could not follow {candidate.argv[0]}")
    numbers = [int(word) for word in lines[-1][:-1]]
    return numbers[0], sum(numbers[1:])


def count_calls(candidate: Candidate) -> int:
    """System calls of one run, its children included.

    The fewest of three runs: threads that wait for each other make some more by chance.
    """
    return min(_totals(candidate)[0] for _ in range(3))


def count_programs(candidate: Candidate) -> int:
    """Programs that one run executes, itself included: successful execve calls."""
    calls, errors = _totals(candidate, "--seccomp-bpf", "-e", "trace=execve")
    return calls - errors


def progress(text: str) -> None:
    """One line on a terminal, overwritten by the next."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}{' ...' if text else ''}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """What the figures depend on: processor, kernel, libc, tools."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        text = file.read()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1])
    virtual = ", virtual machine" if re.search(r"^flags.*\bhypervisor\b", text, re.M) else ""
    return {
        "processor": f"{model[1] if model else 'unknown'}, {os.cpu_count()} cores{virtual}",
        "memory": f"{memory / 2**20:.0f} GiB",
        "kernel": f"Linux {os.uname().release}",
        "libc": os.confstr("CS_GNU_LIBC_VERSION") or "unknown",
        "python": sys.version.split()[0],
        "numpy": _version_of_numpy(),
        "gcc": _first_line("gcc", "--version"),
        "system": _system(),
    }


def _version_of_numpy() -> str:
    from importlib.metadata import version

    return version("numpy")


def _first_line(*argv: str) -> str:
    try:
        output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return output.splitlines()[0] if output else "unknown"


def _system() -> str:
    import platform

    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"
