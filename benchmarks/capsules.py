"""What a capsule costs at a start: the same libraries, from a root and from the system.

    python -m benchmarks.capsules

The root holds copies of the program's own libraries, so that both images do the same work.  The
aim is less than a tenth more than the plain image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Candidate, side_by_side
from benchmarks.workspace import SYSTEM_PATH, Workspace, workspace
from spidl.modules.capsule.settings import SHARED
from spidl.session import Request, make_link

SECONDS = 8.0
LIMIT = 1.1
CASES = (
    ("bsdtar", ("--version",), ("libz.so.1",), ()),
    ("bsdtar", ("--version",), ("libarchive.so.13",), ()),
    ("curl", ("-V",), ("libcurl.so.4",), ("libz.so.1",)),
    ("sqlite3", ("--version",), ("libsqlite3.so.0",), ()),
    ("glxinfo", ("-h",), ("libGL.so.1",), ("libX*", "libxcb*", "libbsd.*", "libmd.*")),
)
"""Program, arguments, what comes from the capsule, and what the program has too and shares with it;
what is not installed is left out."""


def root_of(space: Workspace, program: str) -> Path:
    """A root with copies of all libraries of a program but libc's."""
    link = make_link(Request(program))
    link.collect()
    root = space.new_folder("root")
    libraries = root / "lib" / "x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    for dso in link.objects[1:]:
        if dso.name not in SHARED:
            shutil.copy(dso.path, libraries / dso.name)
    (root / "etc").mkdir()
    (root / "etc" / "ld.so.conf").write_text("/lib/x86_64-linux-gnu\n")
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    subprocess.run([ldconfig, "-X", "-r", str(root)], check=True)
    return root


def settings(
    space: Workspace, root: Path, libraries: tuple[str, ...], shared: tuple[str, ...], opens: bool
) -> str:
    """A spidl.toml with one capsule."""
    file = space.new_folder("settings") / "spidl.toml"
    names, patterns = (", ".join(f'"{n}"' for n in listed) for listed in (libraries, shared))
    file.write_text(
        'pipeline = ["preload", "sysv", "gnu", "musl", "capsule"]\n'
        f'[modules.capsule.capsules.host]\nroot = "{root}"\nlibraries = [{names}]\n'
        f"shared = [{patterns}]\n"
        f"opens = {'true' if opens else 'false'}\n"
    )
    return str(file)


def measure(space: Workspace, program: str, arguments: tuple[str, ...],
            libraries: tuple[str, ...], shared: tuple[str, ...]) -> float:  # fmt: skip
    """Print one case; gives the dearest capsule's time as a multiple of the plain image's."""
    root = root_of(space, program)
    candidates = {"plain": Candidate([space.image(program), *arguments])}
    for name, opens in (("capsule", False), ("capsule that opens", True)):
        config = settings(space, root, libraries, shared, opens)
        candidates[name] = Candidate(
            [space.image(program, "shared", f"--config={config}"), *arguments]
        )
    ways, rounds = side_by_side(candidates, base="plain", seconds=SECONDS)
    worst = 0.0
    for name, way in ways.items():
        ratio = 1 / way["faster"]["median"]
        worst = max(worst, ratio)
        print(
            f"{os.path.basename(program):<9} {','.join(libraries):<18} {name:<19} "
            f"{way['milliseconds']['median']:6.2f} ms  {ratio:5.3f}  {way['faults']:5.0f} faults  "
            f"{way['calls']:4} calls  ({rounds} rounds)",
            flush=True,
        )
    return worst


def main() -> None:
    """Print all cases; exit with 1 where one costs more than the limit."""
    worst = 0.0
    with workspace(quick=True) as space:
        for name, arguments, libraries, shared in CASES:
            program = shutil.which(name, path=SYSTEM_PATH)
            if program is not None:
                worst = max(worst, measure(space, program, arguments, libraries, shared))
    print(f"at most {worst:.3f} times the plain image; the limit is {LIMIT}")
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
