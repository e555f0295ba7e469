"""Namespaces: which private libraries see each other."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from spidl.live.host import HOST_LIST, Host, host
from spidl.live.members import Member

lock = threading.RLock()
"""Held while anything is loaded or closed, and while the process forks."""
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
_serials = itertools.count(1)


@dataclass(eq=False)
class Namespace:
    """Libraries that are bound among themselves, and to the process's program and host list.

    ``root`` is a folder that is searched as if it were ``/``: its own ld.so.cache and folders.
    ``shared`` are the sonames that are never loaded privately.  Earlier libraries come first in the
    scope of later ones, and are not bound again.
    """

    name: str = ""
    root: str | None = None
    shared: Iterable[str] = HOST_LIST
    members: list[Member] = field(default_factory=list)
    """What it has in the process, in the order of loading."""
    process: Host = field(init=False)
    serial: int = field(init=False)

    def __post_init__(self) -> None:
        self.serial = next(_serials)
        self.root = None if self.root is None else os.path.abspath(self.root)
        self.name = self.name or f"private-{self.serial}"
        self.process = host(frozenset(self.shared))

    def sweep(self) -> None:
        """Forget what glibc has unmapped."""
        with lock:
            self.members[:] = [member for member in self.members if member.is_mapped]
