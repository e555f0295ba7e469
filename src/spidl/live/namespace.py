"""Namespaces: which private libraries see each other."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from spidl.live import process
from spidl.live.host import HOST_LIST, Host, host
from spidl.live.members import Member, closure
from spidl.live.shell import new_soname, open_bundle
from spidl.live.stubs import closing, noted, stubs

lock = threading.RLock()
"""Held while anything is loaded or closed, and while the process forks."""
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
_serials = itertools.count(1)


@dataclass(slots=True)
class Opened:
    """A library that others have opened: what holds all that it needs, and how often."""

    bundle: int | None
    count: int = 0


@dataclass(eq=False)
class Namespace:
    """Libraries that are bound among themselves, and to the process's program and host list.

    ``root`` is a folder that is searched as if it were ``/``: its own ld.so.cache and folders.
    ``shared`` are the sonames that are never loaded privately.  Earlier libraries come first in the
    scope of later ones, and are not bound again.  Its libraries can open others, which then belong
    to it (`spidl.live.opening`).
    """

    name: str = ""
    root: str | None = None
    shared: Iterable[str] = HOST_LIST
    members: list[Member] = field(default_factory=list)
    """What it has in the process, in the order of loading."""
    process: Host = field(init=False)
    serial: int = field(init=False)
    callers: dict[str, int] = field(init=False, default_factory=dict, repr=False)
    """Numbers of its libraries that call dlopen or its kin, by path."""
    opened: dict[Member, Opened] = field(init=False, default_factory=dict, repr=False)
    """What its libraries have opened."""
    _own: tuple[bytes, int] | None = field(init=False, default=None, repr=False)
    """By what name glibc has the object that stands for the namespace, and its handle."""

    def __post_init__(self) -> None:
        self.serial = next(_serials)
        self.root = None if self.root is None else os.path.abspath(self.root)
        self.name = self.name or f"private-{self.serial}"
        self.process = host(frozenset(self.shared))

    def sweep(self) -> None:
        """Forget what glibc has unmapped."""
        sweep([self])

    def open_again(self, member: Member, flags: int, brought: Iterable[Member] = ()) -> int:
        """A library for one of the namespace: the handle with one reference more.

        It is 0 where glibc has unmapped it.  ``brought`` is what came along the first time.
        """
        handle = member.refer(flags)
        if handle and member not in self.opened:
            held = closure([member, *brought])
            bundle = None if held == {member} else open_bundle([one.shell.soname for one in held])
            if bundle is not None:
                process.LinkMap(bundle).show("", None)
            self.opened[member] = Opened(bundle)
        if handle:
            self.opened[member].count += 1
        return handle

    def stubs_of(self, path: str) -> dict[str, int]:
        """The addresses of dlopen and its kin for a library of the namespace."""
        with lock:
            number = self.callers.get(path)
            if number is None:
                number = self.callers[path] = stubs().new_caller()
                _callers[number] = weakref.ref(self), path
                weakref.finalize(self, _forget, number).atexit = False
                if self._own is not None:
                    stubs().tell_handle(number, self._own[1])
        return stubs().addresses(number)

    @property
    def handle(self) -> int:
        """The object that stands for the whole namespace: it is empty."""
        with lock:
            if self._own is None:
                soname = new_soname("namespace")
                handle = open_bundle((), soname)
                # No path: debuggers would open it.
                process.LinkMap(handle).show("", None)
                self._own = os.fsencode(soname), handle
                weakref.finalize(self, process.close_object, handle).atexit = False
                for number in self.callers.values():
                    stubs().tell_handle(number, handle)
            return self._own[1]

    def refer(self) -> int:
        """A new reference to that object: what dlopen(NULL) gives here."""
        at = self.handle
        assert self._own is not None, "it was made"
        found = process.dlopen(self._own[0], process.RTLD_NOW | process.RTLD_NOLOAD)
        assert found == at, "glibc knows it by its soname"
        return at

    def is_own(self, handle: int) -> bool:
        """Whether a handle is that of the namespace itself."""
        return self._own is not None and self._own[1] == handle

    def at(self, path: str) -> Member | None:
        """Its library that was loaded from a file."""
        return next((member for member in self.members if member.path == path), None)


in_use: set[Namespace] = set()
"""Namespaces that have something in the process, so that nobody's forgetting hides it."""
_callers: dict[int, tuple[weakref.ref[Namespace], str]] = {}


def caller(number: int) -> tuple[Namespace, Member | None]:
    """Who calls: a namespace, and its library, if that is still there."""
    reference, path = _callers[number]
    namespace = reference()
    if namespace is None:
        raise KeyError(number)
    return namespace, namespace.at(path)


def sweep(namespaces: Collection[Namespace]) -> None:
    """Forget in some namespaces what glibc has unmapped."""
    with lock:
        for handle in noted():
            _give_back(handle)
        maps = process.link_maps({m.shell.handle for one in namespaces for m in one.members})
        for one in namespaces:
            there = [member for member in one.members if member.is_among(maps)]
            if len(there) < len(one.members):
                for member in there:
                    member.heads = [head for head in member.heads if head in there]
                for member in one.opened.keys() - there:
                    del one.opened[member]
                one.members[:] = there
            if not there:
                in_use.discard(one)


def close_once(handle: int) -> int:
    """dlclose for a library of a namespace."""
    with lock:
        with closing():
            result = process.dlclose(handle)
            last = not result and _give_back(handle)
        if last:
            sweep(list(in_use))
        return result


def _give_back(handle: int) -> bool:
    """glibc has one reference less; gives whether it was the last that the namespace knew of.

    With that goes what was held for it.
    """
    for namespace in list(in_use):
        for member, opened in list(namespace.opened.items()):
            if member.shell.handle == handle:
                opened.count -= 1
                if not opened.count:
                    del namespace.opened[member]
                    if opened.bundle is not None:
                        with closing():
                            process.close_object(opened.bundle)
                return not opened.count
    return False


def _forget(number: int) -> None:
    del _callers[number]
    stubs().forget(number)
