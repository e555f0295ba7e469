"""Timing whole processes fairly: all candidates take turns, medians are kept."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """Medians of one candidate: wall milliseconds, minor page faults."""

    milliseconds: float
    fastest: float
    faults: float


def once(argv: Sequence[str]) -> tuple[float, int]:
    """Start a program with its output thrown away; (seconds until it ended, minor page faults)."""
    silent = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    began = time.perf_counter()
    pid = os.posix_spawn(argv[0], list(argv), os.environ, file_actions=silent)
    _, _, usage = os.wait4(pid, 0)
    return time.perf_counter() - began, usage.ru_minflt


def side_by_side(candidates: Mapping[str, Sequence[str]], runs: int) -> dict[str, Sample]:
    """Run all candidates in turn, ``runs`` times after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    faults: dict[str, list[int]] = {name: [] for name in candidates}
    for argv in candidates.values():
        once(argv)
    for _ in range(runs):
        for name, argv in candidates.items():
            duration, count = once(argv)
            seconds[name].append(duration)
            faults[name].append(count)
    return {
        name: Sample(
            statistics.median(seconds[name]) * 1e3,
            min(seconds[name]) * 1e3,
            statistics.median(faults[name]),
        )
        for name in candidates
    }


def private_memory(argv: Sequence[str]) -> int:
    """Private bytes of a program that waits for its standard input, in kB (smaps_rollup)."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(0.3)
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line.split(" ")[0])
        return sum(int(lines[key].split()[0]) for key in ("Private_Dirty", "Private_Clean"))
    finally:
        process.kill()
        process.wait()


def machine() -> str:
    """One line that names the machine the figures are from."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        virtual = ", virtual" if " hypervisor" in file.read() else ""
    libc = os.confstr("CS_GNU_LIBC_VERSION") or "unknown libc"
    return f"{model}, {os.cpu_count()} cores{virtual}, Linux {os.uname().release}, {libc}"
