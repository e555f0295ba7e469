"""What the process has already: the program, and the libraries that there can only be one of.

A libc that is loaded twice has two heaps, two thread lists and two ideas of TLS, so libraries on
the *host list* are never loaded privately.  They take part in a link as objects with the bias that
glibc gave them, so the mediator joins their symbol tables like any other's; nothing of them is
mapped or written.  Private libraries see of the process exactly these and the program itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from spidl.diagnostics import LinkError, Place
from spidl.link.actions import FileIdentity
from spidl.link.dso import identity_of
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

    ``names`` are those by which others need it; ``identity`` is that of the file that is mapped,
    None where there is another at the path by now.
    """

    path: str
    map: LinkMap
    bias: int
    names: frozenset[str]
    identity: FileIdentity | None = None

    def check(self) -> None:
        """Raises `LinkError` ``live/changed`` unless the file at the path is what is mapped."""
        now = _identity(self.path)
        # Not the ctime: a further link to a file, or another owner, leaves its content.
        if now is None or self.identity is None or now != replace(self.identity, ctime=now.ctime):
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
        first, *others = process.link_maps().items()
        shown = [first, *(key for key in others if key in self._known or self._shows(key[1]))]
        new = [key for key in shown if key not in self._known]
        if new:
            self._known |= zip(new, _look(new), strict=True)
        return [self._known[key] for key in shown]

    def has(self, address: int | None) -> bool:
        """Whether the link map at an address is of one that `residents` has given."""
        return any(known == address for known, _ in self._known)

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
        return name.startswith("/") and named


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


def _look(found: Sequence[tuple[int, str]]) -> list[Resident]:
    """Objects by address and name of their link maps.  Raises `LinkError` ``live/no-host``."""
    paths = [os.path.realpath(name or "/proc/self/exe") for _, name in found]
    # First the identities: what is at a path when the mappings are read was there before.
    identities = [_identity(path) for path in paths]
    files = _mapped_files()
    made = []
    for (address, name), path, identity in zip(found, paths, identities, strict=True):
        at = LinkMap(address)
        names = {path} if not name else {os.path.basename(name), name, path}
        same = identity if path in files else None
        made.append(Resident(path, at, at.bias, frozenset(names), same))
    return made


def _identity(path: str) -> FileIdentity | None:
    try:
        return identity_of(os.stat(path))
    except OSError:
        return None


def _mapped_files() -> frozenset[str]:
    """The paths of all files that are mapped; those of replaced ones have an addition (proc(5))."""
    try:
        with open("/proc/self/maps", "rb") as file:
            lines = [line.rstrip(b"\n").split(None, 5) for line in file]
    except OSError as error:
        raise LinkError(
            "live/no-host",
            f"the process cannot read what it has mapped: {error}",
            help="the live target needs /proc",
        ) from None
    return frozenset(os.fsdecode(fields[5]) for fields in lines if len(fields) == 6)
