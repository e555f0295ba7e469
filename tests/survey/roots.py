"""Roots of other Debians: made by debootstrap from the mirror of this machine's apt, and kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def cache_folder() -> Path:
    """Where roots are kept: below the user's cache folder (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spidl" / "roots"


def mirror() -> str:
    """The first archive of this machine's apt configuration; raises SystemExit without one."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for place in places:
        if place.suffix not in (".list", ".sources") or not place.is_file():
            continue
        for line in place.read_text().splitlines():
            found = re.match(r"(?:URIs:|deb(?:\s+\[.*?\])?)\s+(\w+:/\S+)", line)
            if found and "security" not in found[1]:
                return found[1]
    raise SystemExit("survey: apt has no archive configured, so there is nothing to make a root of")


def make_root(suite: str, packages: Sequence[str], fresh: bool) -> Path:
    """The root folder of ``suite`` with these packages, made if it is not there yet; takes minutes
    the first time."""
    root = cache_folder() / suite
    stamp = root / "spidl-packages"
    if not fresh and stamp.exists() and stamp.read_text().split() == list(packages):
        return root
    if shutil.which("debootstrap") is None:
        raise SystemExit("survey: debootstrap is missing: apt-get install debootstrap")
    remove_root(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    log = root.parent / f"{suite}.log"
    print(f"making a root of {suite} in {root} (log: {log})", flush=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}"]
    with log.open("w") as output:
        subprocess.run(
            [*command, suite, str(root), mirror()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )
    stamp.write_text("\n".join(packages))
    return root


def remove_root(root: Path) -> None:
    """Delete a root, unless something is mounted in it, whose content is not the root's."""
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        inside = [line.split()[4] for line in mounts if line.split()[4].startswith(f"{root}/")]
    if inside:
        raise SystemExit(f"survey: {inside[0]} is mounted in the old root: umount it first")
    shutil.rmtree(root, ignore_errors=True)
