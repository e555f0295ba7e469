"""What filters cost: at a link, at a start, and with every call.

    python -m benchmarks.seccomp

Starts and calls are measured with images of the same program with a filter and without, in turn;
figures are medians of all rounds for starts and the least for calls.
"""

from __future__ import annotations

import subprocess
import time

from benchmarks.measure import starts_in_turn
from benchmarks.workspace import SYSTEM_PATH, Workspace, workspace
from spidl.link.link import Link
from spidl.modules.seccomp import DECISION, Seccomp
from spidl.session import Request, make_link

STARTS, CALLS, ROUNDS = 400, 3_000_000, 7
PROGRAMS = (("true", ()), ("ls", ("/",)), ("git", ("--version",)), ("ffmpeg", ("-version",)))
_CALLER = """
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(void) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = 0; i < %d; i++) syscall(SYS_getppid);
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%%.3f\\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / %d);
}
"""
_WITH = ("--with", "seccomp", "--set", "seccomp.unknown=deny")


def starts(space: Workspace) -> list[str]:
    """Microseconds that a filter adds to a start."""
    lines = []
    for name, arguments in PROGRAMS:
        path = space.find(name, name)
        if path is None:
            continue
        images = [space.image(path), space.image(path, "shared", *_WITH)]
        before, after = (took * 1e6 for took in starts_in_turn(images, arguments, STARTS))
        lines.append(f"{name:<8} {before:8.0f} {after:8.0f} {after - before:+8.0f}")
    return ["start, us   plain filtered    cost", *lines]


def calls(space: Workspace) -> list[str]:
    """Nanoseconds that a filter adds to a system call."""
    path = space.compile("caller", _CALLER % (CALLS, CALLS))
    images = [space.image(path, "shared", *options) for options in
              ((), _WITH, (*_WITH, "--set", "seccomp.origins=true"))]  # fmt: skip
    best = [float("inf")] * len(images)
    for _ in range(ROUNDS):
        for at, image in enumerate(images):
            done = subprocess.run([image], capture_output=True, text=True, check=True)
            best[at] = min(best[at], float(done.stdout))
    names = ("plain", "filtered", "filtered, from libc only")
    return ["a call, ns", *(f"{name:<26} {took:6.1f} {took - best[0]:+6.1f}"
                            for name, took in zip(names, best, strict=True))]  # fmt: skip


def links(space: Workspace) -> list[str]:
    """Milliseconds that the decision takes in a link, summaries kept."""
    lines = []
    for name, _ in (*PROGRAMS, ("python3", ())):
        path = space.find(name, name)
        if path is None:
            continue
        took = []
        for _ in range(4):
            link = _linked(path)
            decision = link.facts[DECISION]
            began = time.perf_counter()
            for module in link.modules:
                if isinstance(module, Seccomp):
                    module.decide(link)
            took.append((time.perf_counter() - began) * 1e3)
        members = decision.reach.members
        lines.append(
            f"{name:<8} {len(link.objects):4} objects, {len(members):4} with what it may open: "
            f"{min(took):7.1f} ms, {len(decision.allowed)} calls allowed"
        )
    return ["the decision", *lines]


def _linked(path: str) -> Link:
    link = make_link(Request(path, ("seccomp",), settings=("seccomp.unknown=deny",)))
    link.collect()
    link.load()
    link.relocate()
    return link


def main() -> None:
    """Print all figures."""
    with workspace(quick=True) as space:
        print(f"programs of {SYSTEM_PATH}")
        for part in (links, starts, calls):
            print("\n".join(["", *part(space)]))


if __name__ == "__main__":
    main()
