"""How many system calls filters leave to programs, beside what they were seen to make.

    python -m benchmarks.precision [--json FILE] [--markdown FILE] [NAME ...]

The programs were chosen once, by a rule: of every package of Debian 12 whose priority is required,
important or standard, the first three programs by name that are ELF files of their own and may be
started by a survey (tests/survey/programs.py); and the programs of benchmarks/workspace.py, but for
clang, whose libraries take minutes to analyse.

*allowed* is what the filter lets through under the default settings; a program that can reach a
call of unknown number is marked with *, one that may open any library, which may call all that the
others export, with a dagger.  *traced* is what strace sees the program make
itself when asked for ``--version`` and for ``--help``: a lower bound.  *libraries* is every call
in the code of its objects, and *libc* every call in the code of libc and ld.so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tests.programs.filtering import BY_LINKER, trace
from tests.programs.harness import Timeout

from benchmarks.workspace import PROGRAMS, SYSTEM_PATH, workspace
from spidl.analyse import Summary
from spidl.analyse.names import name_of
from spidl.diagnostics import LinkError
from spidl.link.link import Link
from spidl.modules.seccomp import DECISION, Decision
from spidl.session import Request, make_link

CHOSEN = """
    apt apt-cache apt-cdrom update-passwd bash clear_console bc host logger renice script
    bunzip2 [ arch b2sum cpio mt-gnu dash ischroot run-parts tempfile cmp diff diff3 dpkg
    dpkg-deb dpkg-divert badblocks chattr debugfs file find xargs envsubst gettext ngettext
    gpgv grep eqn groff grops gzip hostname install-info arpd bridge dcb less lessecho lesskey
    getconf getent iconv capsh getcap getpcaps pam_timestamp_check faillog lastlog newgrp
    logrotate lsof accessdb catman lexgrog mawk mount swapoff swapon clear infocmp tabs arp
    ifconfig ipmaddr scp sftp ssh chage chfn chgpasswd perl free kill pgrep screen sed busctl
    hostnamectl journalctl fstab-decode rmt-tar tar time addpart blkdiscard blkid fincore
    hwclock lsfd wget lzmainfo xz
""".split()  # noqa: SIM905 - a list of this length reads better as words
LARGER = [p.name for p in PROGRAMS if p.name not in (*CHOSEN, "clang")]
PUBLISHED = (("B-Side", 43), ("sysfilter", 95), ("Chestnut", 271))
"""Mean calls allowed over 557 binaries of Debian, as the paper on B-Side gives them for itself and
two others; other programs than these, and other traces."""
_SBIN = f"{SYSTEM_PATH}:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Row:
    """One program; numbers of system calls."""

    program: str
    allowed: int
    traced: int
    libraries: int
    libc: int
    objects: int
    opened: int
    """Objects that it may open at run time."""
    missed: tuple[str, ...]
    """Traced and not allowed: must be none."""
    unknown: bool
    """It can reach a call of unknown number, which adds none."""
    open_ended: bool
    """It may open a library that cannot be foreseen."""


def examine(path: str, folder: Path) -> Row:
    """Link a program and trace it.  Raises `LinkError`."""
    unknown = False
    try:
        link, decision = _decided(path, "seccomp.unknown=refuse")
    except LinkError as error:
        if error.diagnostic.code != "seccomp/unknown":
            raise
        unknown = True
        link, decision = _decided(path, "seccomp.unknown=deny")
    allowed = set(map(name_of, decision.allowed))
    seen: set[str] = set()
    for argument in ("--version", "--help"):
        seen |= _traced(path, argument, folder)
    members = decision.reach.members
    linked = [member.summary for member in members[: len(link.objects)]]
    base = [m.summary for m in members if m.name in ("libc.so.6", "ld-linux-x86-64.so.2")]
    return Row(
        os.path.basename(path), len(decision.allowed), len(seen), _count(linked), _count(base),
        len(link.objects), len(members) - len(link.objects), tuple(sorted(seen - allowed)), unknown,
        bool(decision.open_ended),
    )  # fmt: skip


def _decided(path: str, *settings: str) -> tuple[Link, Decision]:
    link = make_link(Request(path, ("seccomp",), settings=settings))
    link.collect()
    link.load()
    link.relocate()
    return link, link.facts[DECISION]


def _count(summaries: Iterable[Summary]) -> int:
    """Calls anywhere in the code of some objects."""
    masks = [np.bitwise_or.reduce(summary.masks.syscalls, axis=0) for summary in summaries]
    return int(np.unpackbits(np.bitwise_or.reduce(masks, axis=0)).sum())


def _traced(path: str, argument: str, folder: Path) -> set[str]:
    strace = shutil.which("strace", path=SYSTEM_PATH)
    if strace is None:
        sys.exit("precision: there is no strace here (package strace)")
    work = folder / "work"
    work.mkdir(exist_ok=True)
    env = {"PATH": _SBIN, "HOME": str(work), "TERM": "dumb", "LC_ALL": "C"}
    try:
        _, seen = trace(strace, [path, argument], folder / "logs", cwd=work, env=env, timeout=10)
    except Timeout:
        return set()
    return set(seen.own - BY_LINKER)


def _marks(row: Row) -> str:
    return f"{' *' if row.unknown else ''}{' †' if row.open_ended else ''}"


def table(rows: Sequence[Row]) -> str:
    """Markdown: every program, and what they come to."""
    lines = ["| program | allowed | traced | its libraries | libc | objects | it may open |",
             "|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    lines += [
        f"| {row.program}{_marks(row)} | {row.allowed} | {row.traced} "
        f"| {row.libraries} | {row.libc} | {row.objects} | {row.opened} |"
        for row in rows
    ]
    columns = ("allowed", "traced", "libraries", "libc", "objects", "opened")
    for name, average in (("mean", statistics.mean), ("median", statistics.median)):
        values = [average([getattr(row, column) for row in rows]) for column in columns]
        lines.append(f"| **{name}** | " + " | ".join(f"**{value:.0f}**" for value in values) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.precision", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("name", nargs="*", help="programs; default: the list")
    options = parser.parse_args()
    rows = []
    kept = os.environ.get("SPIDL_CACHE")
    with workspace(quick=False) as space, tempfile.TemporaryDirectory() as folder:
        if kept:
            os.environ["SPIDL_CACHE"] = kept
        for name in options.name or [*CHOSEN, *LARGER]:
            path = shutil.which(name, path=_SBIN)
            if path is None:
                space.missing.append(name)
                continue
            try:
                rows.append(examine(os.path.realpath(path), Path(folder)))
            except LinkError as error:
                print(f"precision: {name}: {error.diagnostic.code}", file=sys.stderr)
            print(f"\r\033[K{len(rows)} {name}", end="", file=sys.stderr, flush=True)
        print("\r\033[K", end="", file=sys.stderr)
    text = table(rows)
    print(text)
    if missed := [f"{row.program}: {' '.join(row.missed)}" for row in rows if row.missed]:
        print("traced and not allowed:", *missed, sep="\n")
    if options.markdown is not None:
        options.markdown.write_text(f"{text}\n")
    if options.json is not None:
        result = {"published": dict(PUBLISHED), "rows": [asdict(row) for row in rows],
                  "missing": space.missing}  # fmt: skip
        options.json.write_text(json.dumps(result, indent=1))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
