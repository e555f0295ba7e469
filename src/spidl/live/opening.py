"""dlopen and its kin, as the libraries of a namespace have them.

A library that is opened from inside is loaded like any other, into the namespace of the caller and
found as the caller finds its needs.  The handle is glibc's for the shell, with a reference of its
own, so dlclose, dlsym and the rest are glibc's.  The host list is the process's.

Where a call fails, the last thing that is done is a call of glibc's that fails with the same text:
so dlerror is glibc's too, for each thread.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import re
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from spidl.diagnostics import LinkError
from spidl.live import process, stubs
from spidl.live.exports import is_once
from spidl.live.loading import ORIGIN, Loading
from spidl.live.members import Member, breadth_first, scope
from spidl.live.namespace import Namespace, caller, close_once, in_use, lock

_DEFAULT, _NEXT = 0, 2**64 - 1
"""RTLD_DEFAULT and RTLD_NEXT of dlfcn.h."""
_BINDING = 3
"""RTLD_LAZY | RTLD_NOW."""
_LM_ID_BASE, _LM_ID_NEWLM = 0, 2**64 - 1
_RTLD_DI_LMID = 1
_BUILD = re.compile(r"\$\{?(?:LIB|PLATFORM)\b")
_LONGEST = 255
"""NAME_MAX: what glibc would not take for a file's name it would complain of otherwise."""


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who calls: a namespace, and the library in it, if that is still there."""

    namespace: Namespace
    member: Member | None

    @classmethod
    def of(cls, number: int) -> _Caller:
        return cls(*caller(number))

    def scope(self) -> list[Member]:
        """Where it looks for symbols."""
        member = self.member
        heads = [] if member is None else member.heads or [member]
        return scope(self.namespace.members, heads)


# -- opening -------------------------------------------------------------------------------------


def _dlopen(name: int | None, mode: int | None, _: int | None, number: int) -> int:
    try:
        who = _Caller.of(number)
        return _open(who.namespace, who.member, name, _int(mode))
    except BaseException as error:
        return _failed(None if name is None else ctypes.string_at(name), error)


def _dlmopen(where: int | None, name: int | None, mode: int | None, number: int) -> int:
    try:
        who = _Caller.of(number)
        target = _namespace(who.namespace, where or 0)
        return _open(target, who.member, name, _int(mode))
    except BaseException as error:
        return _failed(None if name is None else ctypes.string_at(name), error)


_inside: weakref.WeakValueDictionary[int, Namespace] = weakref.WeakValueDictionary()
"""Namespaces that dlmopen made, by serial."""


def _namespace(own: Namespace, where: int) -> Namespace:
    """What a Lmid_t means to a caller: its own namespace is the base."""
    if where == _LM_ID_BASE:
        return own
    if where == _LM_ID_NEWLM:
        made = Namespace(root=own.root, shared=own.process.names)
        _inside[made.serial] = made
        return made
    if where not in _inside:
        raise OSError("no such namespace")
    return _inside[where]


def _open(namespace: Namespace, asker: Member | None, at: int | None, mode: int) -> int:
    name = b"" if at is None else ctypes.string_at(at)
    if not mode & _BINDING:
        return process.dlopen(name, mode)  # which fails: invalid mode
    if not name:
        return namespace.refer()
    text = os.fsdecode(name)
    if os.path.basename(text) in namespace.process.names:
        return process.dlopen(os.path.basename(name), mode)
    if "$" in text:
        text = _expanded(text, asker)
    if "/" in text and namespace.root is None:
        text = os.path.abspath(text)
    with lock:
        for member in namespace.members:
            if text in member.outline.names and (handle := _refer(namespace, member, mode)):
                return handle
        return _load(namespace, asker, text, mode)


def _expanded(text: str, asker: Member | None) -> str:
    """Dynamic string tokens in a name (ld.so(8)).  Raises OSError for those of the build."""
    if _BUILD.search(text):
        raise OSError("only $ORIGIN is known in names that dlopen gets")
    return text if asker is None else ORIGIN.sub(lambda _: os.path.dirname(asker.path), text)


def _load(namespace: Namespace, asker: Member | None, name: str, mode: int) -> int:
    namespace.sweep()
    modules = () if asker is None else asker.modules
    # What is found for the caller must not be found for a caller of another namespace.
    asker = asker if asker in namespace.members else None
    deep = bool(mode & process.RTLD_DEEPBIND)
    loading = Loading(name, namespace, modules, asker=asker, deep=deep)
    try:
        return _finish(loading, mode)
    except LinkError as error:
        if error.diagnostic.code != "live/host-library":
            raise
    finally:
        loading.undo()  # the reference is the caller's now
    return process.dlopen(os.fsencode(name), mode)


def _finish(loading: Loading, mode: int) -> int:
    """The steps of a load, and the caller's reference."""
    namespace = loading.namespace
    loading.prepare()
    if not loading.new:
        return _refer(namespace, loading.wanted(), mode)
    if mode & process.RTLD_NOLOAD:
        return 0
    loading.lay()
    loading.bind()
    wanted = loading.wanted()
    for member in loading.members:
        member.is_initial = False
    for member in {**dict.fromkeys(breadth_first(wanted)), **dict.fromkeys(loading.members)}:
        member.heads.append(wanted)
    loading.is_local = not mode & process.RTLD_GLOBAL
    loading.initialise()
    return _refer(namespace, wanted, mode, loading.members)


def _refer(namespace: Namespace, member: Member, mode: int, brought: Iterable[Member] = ()) -> int:
    """A further reference to a library, 0 where glibc has unmapped it."""
    handle = namespace.open_again(member, mode & process.RTLD_NODELETE, brought)
    if handle and mode & process.RTLD_GLOBAL:
        _show_all(member)
    return handle


def _show_all(member: Member) -> None:
    """RTLD_GLOBAL: the whole namespace sees a library and what it needs."""
    for one in breadth_first(member):
        one.make_global()


def _dlclose(handle: int | None, _: int | None, __: int | None, number: int) -> int:
    try:
        return close_once(handle or 0)
    except BaseException as error:
        _failed(None, error)
        return -1


# -- symbols -------------------------------------------------------------------------------------


def _dlsym(handle: int | None, name: int | None, _: int | None, number: int) -> int:
    return _symbol(handle or 0, name, None, number)


def _dlvsym(handle: int | None, name: int | None, version: int | None, number: int) -> int:
    return _symbol(handle or 0, name, version, number)


def _symbol(handle: int, name_at: int | None, version_at: int | None, number: int) -> int:
    name = b"" if name_at is None else ctypes.string_at(name_at)
    version = None if version_at is None else ctypes.string_at(version_at)
    try:
        with lock:
            return _look_up(_Caller.of(number), handle, name, version)
    except BaseException as error:
        return _failed(name, error)


def _look_up(who: _Caller, handle: int, name: bytes, version: bytes | None) -> int:
    if handle in (_DEFAULT, _NEXT) or who.namespace.is_own(handle):
        found = next(_definitions(who, _places(who, handle), name, version), 0)
        # Nothing is found in the empty object, and glibc says so.
        handle = who.namespace.handle
    else:
        found = 0
    found = found or process.dlsym(handle, name, version)
    own = os.fsdecode(name)
    if own in stubs.NAMES and found == process.address_of(own):
        return who.namespace.stubs_of(who.member.path if who.member else "")[own]
    return found


def _places(who: _Caller, handle: int) -> list[Member]:
    """The libraries of the namespace that a look-up searches."""
    if who.namespace.is_own(handle):
        return scope(who.namespace.members, [])
    if handle == _DEFAULT:
        return who.scope()
    member = top = who.member
    while top is not None and top.loader is not None:
        top = top.loader
    if member is None or top is None:
        return []
    initial = [one for one in who.namespace.members if one.is_initial]
    found = initial if top.is_initial else breadth_first(top)
    return found[found.index(member) + 1 :] if member in found else []


def _definitions(
    who: _Caller, places: list[Member], name: bytes, version: bytes | None
) -> Iterator[int]:
    """The addresses that a symbol has in libraries of the namespace, then in the process."""
    for member in places if not is_once(os.fsdecode(name)) else ():
        handle = member.shell.handle
        if process.object_at(member.start) != handle:
            continue  # code of the process's has closed it
        found = process.dlsym(handle, name, version)
        # glibc goes on with what the library needs, in another order than the namespace's.
        if found and (member.start <= found < member.end or process.object_at(found) is None):
            yield found
    host = who.namespace.process
    found = process.dlsym(_DEFAULT, name, version)
    if found and host.has(process.object_at(found)):
        yield found
        return
    for handle in [_searchable(resident.map.address) for resident in host.residents()]:
        found = process.dlsym(handle, name, version)
        if found and host.has(process.object_at(found)):
            yield found


@cache
def _searchable(address: int) -> int:
    """The handle of an object of the process's own: dlsym must not be asked about one that nobody
    has opened."""
    name = os.fsencode(process.LinkMap(address).name)
    return process.dlopen(name or None, process.RTLD_NOW | process.RTLD_NOLOAD)


# -- what is known of a handle ---------------------------------------------------------------------


def _dlinfo(handle: int | None, request: int | None, argument: int | None, number: int) -> int:
    """RTLD_DI_LMID and RTLD_DI_ORIGIN: glibc knows the base namespace and the shell's folder."""
    try:
        for namespace in list(in_use):
            member = next((m for m in namespace.members if m.shell.handle == handle), None)
            if member is None or not argument:
                continue
            if _int(request) == _RTLD_DI_LMID:
                own = _Caller.of(number).namespace
                process.write_word(argument, 0 if namespace is own else namespace.serial)
            else:
                folder = os.fsencode(os.path.dirname(member.path)) + b"\0"
                ctypes.memmove(argument, folder, len(folder))
            return 0
        return process.dlinfo(handle or 0, _int(request), argument or 0)
    except BaseException as error:
        _failed(None, error)
        return -1


# -- inside --------------------------------------------------------------------------------------


def _int(argument: int | None) -> int:
    """A C int."""
    return (argument or 0) & 0xFFFFFFFF


def _failed(name: bytes | None, error: BaseException) -> int:
    """Let dlerror say what happened; gives NULL."""
    if isinstance(error, KeyboardInterrupt):
        _thread.interrupt_main()
    if isinstance(error, LinkError):
        notes = f" ({'; '.join(error.diagnostic.notes)})" if error.diagnostic.notes else ""
        what = error.diagnostic.message + notes
    else:
        what = str(error) or repr(error)
    if name is not None and os.fsdecode(name) not in what:
        what = f"{os.fsdecode(name)}: {what}"
    fail(what)
    return 0


def fail(text: str) -> None:
    """Make glibc's dlopen fail with a text, to which it adds that it cannot open it."""
    # A text with a slash is looked for in one place only; $ begins a token there.
    said = re.sub(r"[\0$]", "?", text)
    said = re.sub(rf"[^/]{{{_LONGEST // 4},}}", lambda match: match[0][: _LONGEST // 4], said)
    process.dlopen(os.fsencode(said if "/" in said else f"./{said}"), process.RTLD_NOW)


ANSWERS: dict[str, stubs.Answer] = {
    "dlopen": _dlopen,
    "dlmopen": _dlmopen,
    "dlclose": _dlclose,
    "dlsym": _dlsym,
    "dlvsym": _dlvsym,
    "dlinfo": _dlinfo,
}
"""Python's side of each stub."""
