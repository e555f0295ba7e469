"""What a policy costs: at a link, at a start, and when a library is opened.

    python -m benchmarks.policy

Starts are measured with images of the same program under its learned policy and without, in turn;
figures are medians of all rounds.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from benchmarks.measure import starts_in_turn
from benchmarks.workspace import SYSTEM_PATH, Workspace, workspace
from spidl.link.link import Link
from spidl.modules.authorise import find
from spidl.modules.authorise.policy import read_policy
from spidl.session import Request, make_link

STARTS, OPENINGS = 400, 2000
PROGRAMS = (("true", ()), ("ls", ("/",)), ("git", ("--version",)), ("curl", ("-V",)))
_OPENER = """
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
int main(void) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = 0; i < %d; i++) dlclose(dlopen("libz.so.1", RTLD_NOW));
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%%.3f\\n", ((b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) / 1e3) / %d);
}
"""


def starts(space: Workspace) -> list[str]:
    """Microseconds that a policy adds to a start."""
    lines = []
    for name, arguments in PROGRAMS:
        path = space.find(name, name)
        if path is None:
            continue
        images = [space.image(path), space.image(path, "shared", *_under(space, path))]
        before, after = (took * 1e6 for took in starts_in_turn(images, arguments, STARTS))
        lines.append(f"{name:<8} {before:8.0f} {after:8.0f} {after - before:+8.0f}")
    return ["start, us   plain   policy    cost", *lines]


def openings(space: Workspace) -> list[str]:
    """Microseconds that a dlopen of a library takes that was closed before, and its dlclose."""
    path = space.compile("opener", _OPENER % (OPENINGS, OPENINGS))
    images = [space.image(path), space.image(path, "shared", *_under(space, path))]
    best = [float("inf")] * len(images)
    for _ in range(7):
        for at, image in enumerate(images):
            done = subprocess.run([image], capture_output=True, text=True, check=True)
            best[at] = min(best[at], float(done.stdout))
    return ["dlopen and dlclose of libz, us", f"plain {best[0]:.1f}, policy {best[1]:.1f}"]


def links(space: Workspace) -> list[str]:
    """Milliseconds that the comparison takes in a link."""
    lines = []
    for name, _ in (*PROGRAMS, ("python3", ()), ("ffmpeg", ())):
        path = space.find(name, name)
        if path is None:
            continue
        file = _policy(space, path)
        policy = read_policy(file, Path(file).read_bytes())
        took = []
        for _ in range(3):
            link = _linked(path)
            began = time.perf_counter()
            findings = find(link, policy)
            took.append((time.perf_counter() - began) * 1e3)
        lines.append(
            f"{name:<8} {len(link.objects):4} objects, {len(findings.openings.found):4} that it "
            f"may open: {min(took):7.1f} ms"
        )
    return ["the comparison", *lines]


def _linked(path: str) -> Link:
    link = make_link(Request(path))
    link.collect()
    link.load()
    link.relocate()
    return link


def _policy(space: Workspace, path: str) -> str:
    output = str(space.new_folder("policy") / f"{Path(path).name}.toml")
    space.spidl("policy", "learn", path, "-o", output)
    return output


def _under(space: Workspace, path: str) -> tuple[str, ...]:
    return ("--with", "authorise", "--set", f"authorise.file={_policy(space, path)}")


def main() -> None:
    """Print all figures."""
    with workspace(quick=True) as space:
        print(f"programs of {SYSTEM_PATH}")
        for part in (links, starts, openings):
            print("\n".join(["", *part(space)]), flush=True)


if __name__ == "__main__":
    main()
