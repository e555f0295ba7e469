"""Libraries as their users see them: functions, variables, when it is over."""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from spidl.diagnostics import LinkError, Place
from spidl.link.module import Module
from spidl.live import opening, process, stubs
from spidl.live.commit import Commit
from spidl.live.kept import find, keep, key_of
from spidl.live.loading import Loading
from spidl.live.members import Binding, Member, breadth_first
from spidl.live.namespace import Namespace, in_use, lock
from spidl.live.replay import replay

if TYPE_CHECKING:
    Restype = type[Any] | None

stubs.answers.update(opening.ANSWERS)
_nothing = "sched_yield"
"""A function of libc without effect that returns 0: what a closed library's functions call."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One library that `load` brought into the process.

    ``start`` and ``end`` are its range of addresses; ``shown`` is the path by which glibc and
    debuggers know it; ``state`` is `spidl.live.members.Member`'s.
    """

    name: str
    path: str
    namespace: str
    start: int
    end: int
    shown: str
    state: str
    member: Member = field(repr=False)

    @property
    def bindings(self) -> list[Binding]:
        """What each of its symbol references is bound to."""
        return self.member.bindings


def load(
    library: str | os.PathLike[str],
    *,
    namespace: Namespace | None = None,
    modules: Sequence[str | Module] = (),
    root: str | None = None,
) -> Library:
    """Load a library, a path or a soname, into this process.

    Without ``namespace`` it gets a fresh one, so any number of versions live side by side.
    ``modules`` come after sysv and gnu: names, FILE.py[:CLASS], or instances.  ``root`` is another
    file tree to find libraries in.  Raises `LinkError`; the process is then as it was before.
    """
    if namespace is None:
        namespace = Namespace(root=root)
    elif root is not None and os.path.abspath(root) != namespace.root:
        raise LinkError(
            "live/other-root",
            f"namespace `{namespace.name}` has another root: {namespace.root}",
            help="give the root to the Namespace, or load without one",
        )
    name = os.fspath(library)
    if "\0" in name:
        raise ValueError("the name of a library has no NUL in it")
    if "/" in name and namespace.root is None:
        name = os.path.abspath(name)
    with lock:
        namespace.sweep()  # somebody may have given back a reference by dlclose
        loaded = _load(name, namespace, modules)
        wanted = loaded.wanted()
        for member in breadth_first(wanted):
            member.make_global()
        return Library(wanted, loaded)


def _load(name: str, namespace: Namespace, modules: Sequence[str | Module]) -> Commit:
    """As it was done before, or anew."""
    began = time.time_ns()
    key = None if modules else key_of(name, namespace)
    if key is not None and (record := find(*key)) is not None:
        again = replay(record, namespace)
        if again is not None:
            return again
    loading = Loading(name, namespace, modules)
    try:
        loading.prepare()
        loading.lay()
        loading.bind()
        if key is not None:
            keep(loading, *key, began)
        loading.initialise()
    except BaseException:
        loading.undo()
        raise
    return loading


def libraries() -> list[Loaded]:
    """All libraries that are in the process through `load`, namespace by namespace."""
    with lock:
        found = []
        for namespace in sorted(in_use, key=lambda n: n.serial):
            namespace.sweep()
            found += [
                Loaded(m.name, m.path, namespace.name, m.start, m.end, m.shown, m.state, m)
                for m in namespace.members
            ]
        return found


class Library:
    """A loaded library.

    Closing gives its memory back when nobody else in its namespace needs it and it has not pinned
    itself (OpenSSL does); functions obtained before then raise `LinkError` ``live/closed``.
    Addresses and objects in its memory are the caller's to forget.
    """

    def __init__(self, member: Member, loaded: Commit) -> None:
        self._member = member
        self._loaded = loaded
        self._namespace = loaded.namespace
        self._functions: list[weakref.ref[Any]] = []
        self.is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"at {self._member.start:#x}"
        return f"<Library {self.path} {state}>"

    @property
    def name(self) -> str:
        """Its soname, or its file's name."""
        return self._member.name

    @property
    def path(self) -> str:
        """The file that it was loaded from."""
        return self._member.path

    @property
    def namespace(self) -> Namespace:
        return self._namespace

    @property
    def shown(self) -> str:
        """The path by which glibc and debuggers know this instance: dlopen of it gives a further
        reference to it."""
        return self._member.shown

    @property
    def handle(self) -> int:
        """dlopen's handle: dlsym, dlinfo and dlvsym work on it."""
        self._check()
        return self._member.shell.handle

    def address(self, name: str) -> int:
        """The address of a symbol of the library or of what it needs (dlsym).

        Raises `LinkError` ``live/no-symbol``, ``live/closed``.
        """
        self._check()
        found = process.symbol_in(self._member.shell.handle, name)
        if found is None:
            raise LinkError(
                "live/no-symbol",
                f"{self.name} exports no symbol `{name}`",
                place=Place(self.path),
                help=f"`nm -D {self.path}` lists what it exports",
            )
        return found

    def function(
        self,
        name: str,
        restype: Restype = ctypes.c_int,
        argtypes: Sequence[type[Any]] = (),
        *,
        use_errno: bool = False,
    ) -> Any:
        """A function in ctypes' terms; variadic arguments may follow those of ``argtypes``.

        With ``use_errno``, ctypes.get_errno gives what the last call left; that makes each call
        dearer.  Raises `LinkError` ``live/no-symbol``, ``live/closed``.
        """
        made = process.function_at(self.address(name), use_errno)
        made.restype = restype
        made.argtypes = tuple(argtypes)
        if len(self._functions) > 64:
            self._functions = [ref for ref in self._functions if ref() is not None]
        self._functions.append(weakref.ref(made))
        return made

    def symbol(self, name: str, type: type[Any] | None = None) -> Any:
        """A variable: its address, or with ``type`` a ctypes object in the library's memory."""
        address = self.address(name)
        return address if type is None else type.from_address(address)

    def cffi(self, header: str) -> Any:
        """The library as cffi sees it in ABI mode; ``header`` are C declarations.

        Raises `LinkError` ``live/no-cffi``, ``live/header``.
        """
        try:
            import cffi
        except ImportError:
            raise LinkError(
                "live/no-cffi", "the package cffi is not installed", help="pip install cffi"
            ) from None
        ffi = cffi.FFI()
        try:
            ffi.cdef(header)
        except (cffi.CDefError, cffi.FFIError) as error:
            raise LinkError(
                "live/header",
                f"cffi does not understand the declarations: {error}",
                place=Place(self.path),
                help="give plain C declarations, without #include",
            ) from None
        handle: Any = ffi.cast("void *", self.handle)
        return ffi.dlopen(handle)

    def close(self) -> None:
        """Give the library and what came with it back; a second time does nothing."""
        with lock:
            if self.is_closed:
                return
            self.is_closed = True
            try:
                for ref in self._functions:
                    function = ref()
                    if function is not None:
                        _disable(function, self.path)
                self._functions.clear()
            finally:
                self._loaded.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self.is_closed:
            raise _closed(self.path)


def _disable(function: Any, path: str) -> None:
    """Make a function raise instead of jumping to where the library was."""

    def closed(*_: object) -> None:
        raise _closed(path)

    process.write_word(ctypes.addressof(function), process.address_of(_nothing))
    function.errcheck = closed


def _closed(path: str) -> LinkError:
    return LinkError(
        "live/closed", "the library was closed", place=Place(path), help="load it again"
    )  # fmt: skip
