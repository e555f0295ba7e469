"""What the process has already: the program, and the libraries that there can only be one of.

A libc that is loaded twice has two heaps, two thread lists and two ideas of TLS, so libraries on
the *host list* are never loaded privately.  They take part in a link as objects with the bias that
glibc gave them, so the mediator joins their symbol tables like any other's; nothing of them is
mapped or written.  Private libraries see of the process exactly these and the program itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from spidl.diagnostics import LinkError, Place
from spidl.live import process
from spidl.live.process import LinkMap

LINKER = "ld-linux-x86-64.so.2"
HOST_LIST = (
    LINKER, "libc.so.6", "libm.so.6", "libmvec.so.1", "libpthread.so.0",
    "libdl.so.2", "librt.so.1", "libutil.so.1", "libresolv.so.2", "libanl.so.1",
    "libnsl.so.1", "libgcc_s.so.1", "libthread_db.so.1",
)  # fmt: skip
"""Sonames: glibc's own libraries, which share private state, and the unwinder."""


@dataclass(frozen=True, slots=True)
class Resident:
    """An object that is in the process: where its file is and where glibc put it.

    ``names`` are those by which others need it; ``replaced``: the file at the path is another now.
    """

    path: str
    map: LinkMap
    bias: int
    names: frozenset[str]
    replaced: bool = False

    def check(self) -> None:
        """Raises `LinkError` ``live/changed`` unless the file at the path is what is mapped."""
        if self.replaced:
            raise LinkError(
                "live/changed",
                f"{self.path} was replaced since the process loaded it",
                place=Place(self.path),
                help="start the process again: its symbols can only be read from the file it runs",
            )


class Host:
    """The process as private libraries see it: ``names`` are the sonames of the host list."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        preloaded = _at_start("LD_PRELOAD").replace(":", " ").split()
        self._shown = names | {os.path.basename(path) for path in preloaded}
        self._known: dict[tuple[int, str], Resident] = {}

    def residents(self) -> list[Resident]:
        """The program, what was preloaded, libpython and the host list, in the process's order."""
        found: list[Resident] = []
        files: frozenset[str] | None = None
        for at in process.link_maps():
            key = at.address, at.name
            resident = self._known.get(key)
            if resident is None:
                if not self._shows(at.name):
                    continue
                files = files or _mapped_files()
                resident = self._known[key] = _look(at, files)
            found.append(resident)
        return found

    def open(self, name: str) -> None:
        """Open one of the host list for good, as if it had been there from the start.

        Raises `LinkError` ``live/no-host``.
        """
        try:
            process.open_object(os.fsencode(name))
        except OSError as error:
            raise LinkError(
                "live/no-host",
                f"the process cannot open {name}: {error}",
                help="install the package that has it",
            ) from None

    def _shows(self, name: str) -> bool:
        base = os.path.basename(name)
        named = base in self._shown or base.startswith("libpython3")
        return not name or (name.startswith("/") and named)


@cache
def host(names: frozenset[str]) -> Host:
    """The process with a host list; what is found out about it is kept."""
    return Host(names)


def _at_start(variable: str) -> str:
    """A variable of the environment that the process was started with."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return os.environ.get(variable, "")
    name = os.fsencode(variable) + b"="
    return next((os.fsdecode(e[len(name) :]) for e in entries if e.startswith(name)), "")


def _look(at: LinkMap, files: frozenset[str]) -> Resident:
    name = at.name
    path = os.path.realpath(name or "/proc/self/exe")
    names = {path} if not name else {os.path.basename(name), name, path}
    return Resident(path, at, at.bias, frozenset(names), path not in files)


def _mapped_files() -> frozenset[str]:
    """The paths of all files that are mapped; those of replaced ones have an addition (proc(5))."""
    with open("/proc/self/maps", "rb") as file:
        lines = (line.rstrip(b"\n").split(None, 5) for line in file)
        return frozenset(os.fsdecode(fields[5]) for fields in lines if len(fields) == 6)
