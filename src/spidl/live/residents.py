"""What is there before a load: earlier libraries of the namespace, and the process itself."""

from __future__ import annotations

import os
from dataclasses import dataclass

from spidl.diagnostics import LinkError, Place
from spidl.link.dso import Dso, identity_of
from spidl.live.host import LINKER, Resident
from spidl.live.members import Member
from spidl.live.namespace import Namespace

_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Present:
    """One object that is there: its bias, dlopen's handle, and its place in scope.

    ``member`` is the library of the namespace, None for the process's own objects.
    """

    path: str
    bias: int
    handle: int
    order: int
    member: Member | None


class Residents:
    """What is there, by file: found anew for each load."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._by_file: dict[_Inode, Present] = {}
        self._added = 0
        self.opened: list[str] = []
        """What of the host list was not there yet."""
        for member in namespace.members:
            if member.outline.identity is not None:
                _check(member)
                self._add(member.path, member.bias, member.shell.handle, member)
        self._shared: dict[str, Resident] = {}
        self._take_shared()

    def _add(self, path: str, bias: int, handle: int, member: Member | None) -> None:
        status = os.stat(path)
        self._added += 1
        present = Present(path, bias, handle, self._added, member)
        self._by_file.setdefault((status.st_dev, status.st_ino), present)

    def _take_shared(self) -> None:
        for resident in self._namespace.process.residents():
            if resident.path not in self._shared:
                resident.check()
                self._add(resident.path, resident.bias, resident.map.address, None)
                self._shared |= dict.fromkeys(resident.names, resident)

    @property
    def linker(self) -> str:
        """The path of the process's ld.so.  Raises `LinkError` ``live/no-host``."""
        if LINKER not in self._shared:
            raise LinkError(
                "live/no-host",
                "this process has no ld.so of glibc's",
                help="the live target needs the GNU C library",
            )
        return self._shared[LINKER].path

    @property
    def paths(self) -> list[str]:
        """In scope order: the namespace first, then the process's own list."""
        return [present.path for present in self._by_file.values()]

    def find(self, name: str) -> str | None:
        """The path of what is there under a name, or belongs to the host list.

        Raises `LinkError` ``live/no-host``, ``live/changed``.
        """
        for member in self._namespace.members:
            if member.outline.identity is not None and name in member.outline.names:
                return member.path
        process = self._namespace.process
        if name not in self._shared and name in process.names:
            process.open(name)
            self.opened.append(name)
            self._take_shared()
        resident = self._shared.get(name)
        return None if resident is None else resident.path

    def of(self, dso: Dso) -> Present | None:
        """What is there of an object of a link, None for one that is to be loaded."""
        if dso.identity is None:
            return None
        return self._by_file.get((dso.identity.device, dso.identity.inode))


def _check(member: Member) -> None:
    try:
        same = identity_of(os.stat(member.path)) == member.outline.identity
    except OSError:
        same = False
    if not same:
        raise LinkError(
            "live/changed",
            f"{member.path} was replaced since it was loaded",
            place=Place(member.path),
            help="load the new file into a namespace of its own",
        )
