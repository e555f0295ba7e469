"""The checks that an image makes before it trusts itself: what held at link time must hold now.

A value that is constant over captures but belongs to the machine is invisible to comparison; these
guards catch it.
"""

from __future__ import annotations

from spidl.link.actions import (
    Action,
    CheckAbsent,
    CheckAuxv,
    CheckEnvironment,
    CheckFile,
    CheckStackLimit,
    CheckVdso,
)
from spidl.link.link import Link
from spidl.targets.exec.cpu import cpu_checks
from spidl.targets.exec.snapshot import Snapshot

_AUXV = (6, 16, 17, 23, 26, 27, 28, 29, 30, 51)
"""AT_PAGESZ, HWCAP, CLKTCK, SECURE, HWCAP2, RSEQ_FEATURE_SIZE, RSEQ_ALIGN, HWCAP3, HWCAP4,
MINSIGSTKSZ (<elf.h>, <linux/auxvec.h>)."""
_STACK_MINIMUM, _STACK_MAXIMUM = 1 << 17, 1 << 46
"""glibc treats an unlimited or tiny stack specially (__pthread_initialize_minimal)."""
_VDSO_CHECKED = 4096
"""The first page: its headers, dynamic symbols' addresses and build-id note."""


def machine_checks(snapshot: Snapshot) -> list[Action]:
    """CPU, kernel and limits, as the run-time linker saw them."""
    values = snapshot.anchors.auxv_values
    checks: list[Action] = [CheckAuxv(kind, values.get(kind, 0)) for kind in _AUXV]
    checks += cpu_checks()
    checks.append(CheckVdso(0, snapshot.vdso[:_VDSO_CHECKED]))
    checks.append(CheckStackLimit(_STACK_MINIMUM, _STACK_MAXIMUM))
    return checks


def input_checks(link: Link, mapped: set[str]) -> list[Action]:
    """The environment, and every file and absent path that decided the link.

    ``mapped`` are the files that boot opens anyway, which are checked then.
    """
    variables = tuple(
        f"{name}={value}".encode(errors="surrogateescape")
        for name, value in link.environment.steering.items()
    )
    checks: list[Action] = [CheckEnvironment(variables)]
    checks += [
        CheckFile(path.encode(errors="surrogateescape"), identity)
        for path, identity in link.inputs.items()
        if path not in mapped
    ]
    checks += [CheckAbsent(path.encode(errors="surrogateescape")) for path in link.absent]
    if depends_on_folder(link):
        checks += _relative_checks(link)
    return checks


def depends_on_folder(link: Link) -> bool:
    """Whether a search path or a name is relative, so that the working folder decides the link."""
    environment = link.environment
    lists = [environment.paths("LD_LIBRARY_PATH", ":;"), environment.preload]
    names: list[str] = []
    for dso in link.objects:
        lists += [p.split(":") for p in (dso.file.rpath, dso.file.runpath) if p]
        names += [name for name in dso.file.needed if "/" in name]
    lists.append(names)
    return any(not entry.startswith(("/", "$")) for entries in lists for entry in entries)


def _relative_checks(link: Link) -> list[Action]:
    """What was found, and what was not, below the working folder: the same below today's."""
    below = link.environment.folder.rstrip("/") + "/"
    found = {path.removeprefix(below): identity for path, identity in link.inputs.items()
             if path.startswith(below)}  # fmt: skip
    absent = [path.removeprefix(below) for path in link.absent if path.startswith(below)]
    return [
        *(CheckFile(p.encode(errors="surrogateescape"), i) for p, i in found.items()),
        *(CheckAbsent(p.encode(errors="surrogateescape")) for p in absent if p),
    ]
