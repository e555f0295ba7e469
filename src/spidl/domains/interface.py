"""Interfaces: what may be called, written as C declarations."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from spidl.diagnostics import LinkError, Place
from spidl.domains.symbols import Export, Kind, Symbol


class Interface:
    """The functions and variables that a C header declares.

    ``header`` are plain declarations as cffi reads them: lines that begin with ``#`` and comments
    are left out, nothing is included.  An interface gives no right to anything: whoever has the
    header can write it.

    Raises `LinkError` ``domain/no-cffi``, ``domain/header``.
    """

    def __init__(self, header: str, name: str = "interface") -> None:
        try:
            import cffi
        except ImportError:
            raise LinkError(
                "domain/no-cffi", "the package cffi is not installed", help="pip install cffi"
            ) from None
        self.name = name
        self.header = header
        self._ffi: Any = cffi.FFI()
        self._functions: dict[str, Any] = {}
        self._variables: dict[str, Any] = {}
        try:
            self._ffi.cdef(plain(header))
            self._read_names()
        except Exception as error:  # cffi has many: of its own, of its parser's, and Python's
            raise LinkError(
                "domain/header",
                f"cffi does not understand the declarations: {error}",
                place=Place(name),
                help="give plain C declarations: no #include, no macros, a name for each type",
            ) from None

    def _read_names(self) -> None:
        """What was declared, with cffi's types.

        cffi has no public way to this: an open library lists and types only what the library has,
        and an interface must be known before anybody implements it.  tests/domains/test_interface
        notices a cffi that keeps its declarations otherwise.
        """
        for key, (model, _) in self._ffi._parser._declarations.items():
            kind, _, declared = key.partition(" ")
            if kind == "function":
                self._functions[declared] = self._ffi.typeof(model.get_c_name())
            elif kind == "variable":
                self._variables[declared] = self._ffi.typeof(model.get_c_name("*"))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Interface:
        """The interface in a header file, named after it.

        Raises `LinkError` ``domain/no-file`` and as the constructor.
        """
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            raise LinkError(
                "domain/no-file", f"cannot read {os.fspath(path)}: {error}",
                help="check the path",
            ) from None  # fmt: skip
        return cls(text, os.path.splitext(os.path.basename(path))[0])

    def __repr__(self) -> str:
        return f"<Interface {self.name}: {', '.join(sorted(self.names))}>"

    @property
    def ffi(self) -> Any:
        """The cffi.FFI that knows its types."""
        return self._ffi

    @property
    def names(self) -> frozenset[str]:
        """All that it declares."""
        return frozenset(self._functions) | frozenset(self._variables)

    def choose(self, exports: Mapping[str, Export], of: str) -> dict[str, Symbol]:
        """The symbols it names out of a domain's exports.

        Raises `LinkError` ``domain/not-exported``; ``domain/wrong-type`` for a function that is a
        variable there, and the other way round.
        """
        defaults = {name: exports[name].default for name in self.names & exports.keys()}
        found = {name: symbol for name, symbol in sorted(defaults.items()) if symbol is not None}
        missing = sorted(self.names - found.keys())
        if missing:
            raise LinkError(
                "domain/not-exported",
                f"{of} does not export what {self.name} declares: {', '.join(missing)}",
                help="an interface can only be made of what you are linked to",
            )
        for name, symbol in found.items():
            if self.is_function(name) != (symbol.kind in (Kind.FUNCTION, Kind.INDIRECT)):
                raise LinkError(
                    "domain/wrong-type",
                    f"`{name}` of {of} is a {'variable' if self.is_function(name) else 'function'},"
                    f" which is not what {self.name} declares",
                    help="correct the header",
                )
        return found

    def implement(self, functions: Mapping[str, Callable[..., Any]]) -> dict[str, Symbol]:
        """Symbols for Python functions.

        A function that raises gives 0 to its caller: C code cannot be stopped from Python; the
        traceback goes to standard error.  Raises `LinkError` ``domain/not-implemented``,
        ``domain/wrong-type``.
        """
        missing = sorted(self.names - functions.keys())
        spare = sorted(functions.keys() - self._functions.keys())
        if missing or spare:
            what = [f"no function for {', '.join(missing)}"] if missing else []
            what += [f"not a function of its: {', '.join(spare)}"] if spare else []
            raise LinkError(
                "domain/not-implemented",
                f"the implementation of {self.name} does not fit: {'; '.join(what)}",
                help="give one Python function for each function of the header; variables need C",
            )
        return {name: self._symbol(name, functions[name]) for name in sorted(self.names)}

    def _symbol(self, name: str, function: Callable[..., Any]) -> Symbol:
        kind = self._functions[name]
        self._check(name, kind, function)
        callback = self._ffi.callback(kind, function)
        address = int(self._ffi.cast("uintptr_t", callback))
        return Symbol(name, address, Kind.FUNCTION, 0, None, callback)

    def _check(self, name: str, kind: Any, function: Callable[..., Any]) -> None:
        fits = callable(function) and not kind.ellipsis
        if fits:
            try:
                inspect.signature(function).bind(*kind.args)
            except TypeError:
                fits = False
            except ValueError:  # a built-in that does not say what it takes
                fits = True
        if not fits:
            raise LinkError(
                "domain/wrong-type",
                f"{function!r} cannot implement `{kind.cname}` as {self.name}.{name}",
                help="it must take as many arguments as the header says; variadic ones need C",
            )

    def at(self, name: str, address: int) -> Any:
        """A function or variable of the interface at a run-time address, as cffi has it."""
        kind = self._functions.get(name) or self._variables[name]
        return self._ffi.cast(kind, address)

    def is_function(self, name: str) -> bool:
        """Whether a name of it is a function."""
        return name in self._functions

    def has_result(self, name: str) -> bool:
        """Whether a name of it is a function that gives something."""
        return self.is_function(name) and self._functions[name].result.kind != "void"


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_THREAD = re.compile(r"\b(?:__thread|_Thread_local|thread_local)\b")


def plain(header: str) -> str:
    """Declarations as cffi reads them: without comments, lines for the preprocessor and
    _Thread_local."""
    kept = []
    continued = False
    text = _COMMENT.sub(lambda comment: " " + "\n" * comment[0].count("\n"), header)
    for line in text.split("\n"):
        directive = continued or line.lstrip().startswith("#")
        continued = directive and line.rstrip().endswith("\\")
        kept.append("" if directive else line)
    return _THREAD.sub("", "\n".join(kept))
