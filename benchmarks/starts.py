"""How fast programs start, with how many system calls and page faults: every way, side by side."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess

from benchmarks.figures import (
    COLD,
    COLD_COPIED,
    COPIED,
    ENABLED,
    LAZY,
    NOW,
    RUN,
    SHARED,
    Rtld,
    Start,
    Way,
)
from benchmarks.measure import Candidate, progress, reads_when_cold, side_by_side
from benchmarks.workspace import Workspace, spidl_command

EMPTY = "int main(void){return 0;}"
_NO_LIBC = 'void _start(void){__asm__ volatile("mov $60,%eax; xor %edi,%edi; syscall");}'
_QUICK = ("true", "git", "ffmpeg")
_STATISTICS = re.compile(r"^\s*\d+:\s+(.+?):\s+(\d+)(?: cycles)?(?: \(([\d.]+)%\))?$", re.MULTILINE)


def measure_starts(space: Workspace) -> tuple[list[Start], dict[str, Way]]:
    """All programs, fewest libraries first; and ``main(){}`` without a dynamic linker."""
    empty = space.compile("main", EMPTY)
    programs = [("main(){}", empty, ())] + [
        (program.name, path, program.arguments)
        for program, path in space.programs(_QUICK if space.quick else ())
    ]
    starts = [_start(space, name, path, arguments) for name, path, arguments in programs]
    starts.sort(key=lambda start: start["libraries"])
    progress("timing static programs")
    scale, _ = side_by_side(
        {
            LAZY: Candidate([empty]),
            SHARED: Candidate([space.image(empty)]),
            "static glibc": Candidate([space.compile("static", EMPTY, "-static")]),
            "no libc": Candidate([space.compile("nolibc", _NO_LIBC, "-nostdlib", "-static")]),
        },
        base=LAZY,
        seconds=1 if space.quick else 5,
    )
    return starts, scale


def _start(space: Workspace, name: str, path: str, arguments: tuple[str, ...]) -> Start:
    progress(f"linking {name}")
    images = {layout: space.image(path, layout) for layout in ("shared", "copy")}
    # Dropping an image from the page cache must not touch the one that the warm ways start.
    cold = {layout: space.image(path, layout) for layout in images}
    enabled = space.enable(path) / os.path.basename(path)
    progress(f"starting {name}")
    candidates = {
        LAZY: Candidate([path, *arguments]),
        NOW: Candidate([path, *arguments], {"LD_BIND_NOW": "1"}),
        COLD: Candidate([cold["shared"], *arguments], evict=cold["shared"]),
        COLD_COPIED: Candidate([cold["copy"], *arguments], evict=cold["copy"]),
        RUN: Candidate([spidl_command(), "run", path, *arguments]),
        ENABLED: Candidate([str(enabled), *arguments]),
        SHARED: Candidate([images["shared"], *arguments]),
        COPIED: Candidate([images["copy"], *arguments]),
    }
    if not reads_when_cold(candidates[COLD]):
        del candidates[COLD], candidates[COLD_COPIED]
    ways, rounds = side_by_side(
        candidates,
        base=LAZY,
        seconds=1.5 if space.quick else 9,
    )
    return {
        "program": name,
        "arguments": list(arguments),
        "libraries": libraries(space, path),
        "rounds": rounds,
        "ways": ways,
        "rtld": rtld_statistics(path, arguments),
        "image_kb": os.path.getsize(images["shared"]) / 1024,
        "copied_kb": os.path.getsize(images["copy"]) / 1024,
    }


def libraries(space: Workspace, path: str) -> int:
    """Shared libraries of a program, ld.so among them; as `spidl tree` counts the objects."""
    return len(json.loads(space.spidl("tree", path, "--json"))["objects"]) - 1


def rtld_statistics(path: str, arguments: tuple[str, ...], runs: int = 9) -> Rtld:
    """ld.so's account of its own start (ld.so(8), LD_DEBUG=statistics), medians."""
    loading, relocating, relocations = [], [], 0
    for _ in range(runs):
        done = subprocess.run(
            [path, *arguments], env={**os.environ, "LD_DEBUG": "statistics"}, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace",
        )  # fmt: skip
        found: dict[str, tuple[str, str]] = {}
        for name, value, share in _STATISTICS.findall(done.stderr):
            found.setdefault(name, (value, share))  # a child of the program would follow
        loading.append(float(found["time needed to load objects"][1]))
        relocating.append(float(found["time needed for relocation"][1]))
        relocations = int(found["number of relocations"][0]) + int(
            found["number of relative relocations"][0]
        )
    return {
        "loading": statistics.median(loading),
        "relocating": statistics.median(relocating),
        "relocations": relocations,
    }
