"""What a waiting process keeps to itself and what it shares, as the kernel accounts for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.figures import COPIED, LAZY, NOW, SHARED, Memory, SharedText, Text
from benchmarks.measure import progress
from benchmarks.workspace import SYSTEM_PATH, Workspace

WAITING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("cat", ()),
    ("bash", ("--norc", "-s")),
    ("sqlite3", ()),
    ("perl", ("-",)),
    ("python3", ("-S", "-c", "import sys; sys.stdin.read()")),
    ("clang", ("-cc1", "-x", "c", "-fsyntax-only", "-")),
    ("ffmpeg", ("-i", "pipe:0", "-f", "null", "-")),
)
"""Programs that wait for their standard input."""

_QUICK = ("cat", "sqlite3")
_TEXT = (("sqlite3", (), "libsqlite3.so"), ("cat", (), "libc.so.6"))
"""Program, arguments, and a library whose text is looked at."""
_STEADY, _POLL, _PATIENCE = 8, 0.02, 20.0
"""So many equal looks, so many seconds apart, mean that a process waits."""
_HEADING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S{4}) \S+ (\S+) (\d+) *(.*)$")


@contextmanager
def waiting(argv: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process that has started and now waits for its standard input; gives its id."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        _settle(process.pid, argv[0])
        yield process.pid
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _settle(pid: int, name: str) -> None:
    """Until its threads use no more processor time and it sleeps."""
    until = time.monotonic() + _PATIENCE
    seen: list[tuple[str, ...]] = []
    while time.monotonic() < until:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        state = (fields[0], fields[7], fields[11], fields[12])  # faults, user and system ticks
        if fields[0] == "Z":
            break
        seen = [*seen[-_STEADY:], state]
        if fields[0] == "S" and len(seen) > _STEADY and len(set(seen)) == 1:
            return
        time.sleep(_POLL)
    sys.exit(f"numbers: {name} does not wait for its standard input")


def _sums(pid: int) -> dict[str, int]:
    """Private, shared and proportional kB over all mappings (proc_pid_smaps(5), smaps_rollup)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        values = {
            name: int(rest.split()[0])
            for name, _, rest in (line.partition(":") for line in file)
            if rest.endswith("kB\n")
        }
    return {
        "private": values["Private_Clean"] + values["Private_Dirty"],
        "shared": values["Shared_Clean"] + values["Shared_Dirty"],
        "pss": values["Pss"],
    }


def of_process(argv: Sequence[str], environment: dict[str, str]) -> Memory:
    """One of two processes: what both have the same page of counts as shared."""
    with waiting(argv, environment) as pid:
        alone = _sums(pid)["private"]
        with waiting(argv, environment):
            sums = _sums(pid)
    return {
        "private": sums["private"], "shared": sums["shared"], "pss": sums["pss"], "alone": alone
    }  # fmt: skip


def text_of(pid: int, library: str) -> tuple[Text, set[tuple[str, str]]]:
    """The executable file mappings of a library, and the (device, inode) that they map."""
    sums: Text = {"private": 0, "shared": 0}
    files = set()
    inside = False
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            heading = _HEADING.match(line)
            if heading:
                name = os.path.basename(heading[4])
                inside = heading[1][2] == "x" and name.startswith(library)
                if inside:
                    files.add((heading[2], heading[3]))
            elif inside and line.startswith("Private_"):
                sums["private"] += int(line.split()[1])
            elif inside and line.startswith("Shared_"):
                sums["shared"] += int(line.split()[1])
    if not files:
        sys.exit(f"numbers: process {pid} maps no text of {library}")
    return sums, files


def measure_memory(space: Workspace) -> dict[str, dict[str, Memory]]:
    """By program and way."""
    found = {}
    for name, arguments in WAITING:
        path = shutil.which(name, path=SYSTEM_PATH)
        if path is None or (space.quick and name not in _QUICK):
            continue
        progress(f"memory of {name}")
        shared, copied = space.image(path), space.image(path, "copy")
        row = {}
        for way, executable, environment in (
            (LAZY, path, {}),
            (NOW, path, {"LD_BIND_NOW": "1"}),
            (SHARED, shared, {}),
            (COPIED, copied, {}),
        ):
            row[way] = of_process([executable, *arguments], environment)
        found[name] = row
    return found


def measure_shared_text(space: Workspace) -> list[SharedText]:
    """The same library in an image's process and in one under ld.so: the same pages?"""
    found: list[SharedText] = []
    for name, arguments, library in _TEXT:
        path = shutil.which(name, path=SYSTEM_PATH)
        if path is None:
            continue
        progress(f"text of {library}")
        with waiting([space.image(path), *arguments]) as imaged:
            alone, _ = text_of(imaged, library)
            with waiting([path, *arguments]) as plain:
                beside, ours = text_of(imaged, library)
                under_rtld, theirs = text_of(plain, library)
        found.append({
            "program": name, "library": library, "alone": alone, "beside": beside,
            "plain": under_rtld, "same_file": ours == theirs,
        })  # fmt: skip
    return found
