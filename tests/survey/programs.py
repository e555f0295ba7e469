"""Which programs a survey looks at, and which it must not start."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (Path("/usr/bin"), Path("/usr/sbin"))

SKIPPED: tuple[tuple[str, str], ...] = (
    # A pattern for the whole name, and why a program of that name is never started here.
    (r"reboot|poweroff|halt|shutdown|init|telinit|systemd", "acts on the machine, not on options"),
    (r"killall5|fsfreeze|ctrlaltdel", "acts on every process or on the machine"),
    (r"mkhomedir_helper", "takes its first argument for a user whose home it makes"),
    (r"unix_chkpwd|unix_update|pwhistory_helper|faillock", "PAM's helpers log each misuse"),
    (r"(grp|pw)(un)?conv", "rewrite the account files"),
    (r"cpgr|cppw|vipw|vigr", "edit the account files"),
    (r"agetty|sulogin|login|nologin", "take over the terminal"),
    (r"cron|atd|anacron", "daemons that may start whatever the options say"),
    (r"raw|losetup|kexec|rtcwake|wdctl", "act on devices"),
    (r"pivot_root|switch_root|chcpu|chmem", "act on the machine"),
    (r"policy-rc\.d|start-stop-daemon|invoke-rc\.d", "start and stop services"),
)


@dataclass(frozen=True, order=True)
class Candidate:
    """One program, under the name that people start it by."""

    path: Path
    skipped: str | None = None


def candidates(folders: Sequence[Path] = FOLDERS, only: str = "") -> list[Candidate]:
    """Every dynamic executable in ``folders``, once for each inode, in the order of names.

    Of several names for one inode, that of the real file is taken, else the first.
    """
    chosen: dict[tuple[int, int], Path] = {}
    for path in _files(folders):
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
                continue
            if not is_dynamic(path):
                continue
        except OSError:
            continue
        inode = (status.st_dev, status.st_ino)
        if inode not in chosen or path == Path(os.path.realpath(path)):
            chosen[inode] = path
    found = (Candidate(path, _reason(path)) for path in chosen.values())
    return sorted(c for c in found if re.search(only, c.path.name))


def is_dynamic(path: Path) -> bool:
    """Whether a file is ELF with PT_INTERP, of any class (32-bit programs are for a linker to
    refuse, not for a survey to hide)."""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 52 or head[:4] != b"\x7fELF" or head[5] != 1:
            return False
        if head[4] == 2 and len(head) == 64:
            (offset,) = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
        else:
            (offset,) = struct.unpack_from("<I", head, 28)
            size, count = struct.unpack_from("<HH", head, 42)
        file.seek(offset)
        table = file.read(size * count)
    return any(
        int.from_bytes(table[at : at + 4], "little") == 3
        for at in range(0, len(table) - 3, size or len(table) + 1)
    )


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if folder.is_dir():
            yield from sorted(folder.iterdir())


def _reason(path: Path) -> str | None:
    names = {path.name, Path(os.path.realpath(path)).name}
    for pattern, reason in SKIPPED:
        if any(re.fullmatch(pattern, name) for name in names):
            return reason
    return None
