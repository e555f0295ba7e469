"""The linker as an interface for extensions: how native code names, combines and passes domains.

Like any other interface it is had by permission.  Each extension gets a linker of its own, which
acts as the extension's identity; a ``Domain_T`` is a random number that only this linker knows, so
one that another extension has, or that was guessed, means nothing here.
"""

from __future__ import annotations

import functools
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

from spidl.diagnostics import LinkError, fault
from spidl.domains.domain import (
    Domain,
    combine,
    initialize,
    nameable,
    resolve,
    unresolve,
)
from spidl.domains.interface import Interface
from spidl.domains.names import Identity, NameServer

HEADER = """\
/* The linker, for extensions that were given it.  A Domain_T is valid for whom it was given to.
   Functions that give an int give the number of symbols, or 0, and -1 where they fail. */
typedef unsigned long Domain_T; /* 0: none, or the operation failed */

Domain_T Domain_CreateFromInterface(const char *header);
int Domain_Resolve(Domain_T source, Domain_T target);
int Domain_Unresolve(Domain_T source, Domain_T target);
Domain_T Domain_Combine(Domain_T first, Domain_T second);
int Domain_Initialize(Domain_T domain);
Domain_T NameServer_Query(const char *name);
int NameServer_Register(const char *name, Domain_T domain);
const char *Domain_Error(void); /* why the last one of this thread failed */
"""
"""The text of Domain.h.  `spidl.domains.build` shows it to the compiler."""


class Linker:
    """The linker of one extension; ``domain`` is what to resolve the extension against."""

    def __init__(self, names: NameServer, identity: Identity) -> None:
        self._names = names
        self._identity = identity
        self._known: dict[int, Domain] = {}
        self._numbers: dict[Domain, int] = {}
        self._own: Domain | None = None
        self._error = threading.local()
        interface = Interface(HEADER, "Domain")
        self._ffi: Any = interface.ffi
        functions: dict[str, Callable[..., Any]] = {
            "Domain_CreateFromInterface": self._create,
            "Domain_Resolve": self._resolve,
            "Domain_Unresolve": self._unresolve,
            "Domain_Combine": self._combine,
            "Domain_Initialize": self._initialize,
            "NameServer_Query": self._query,
            "NameServer_Register": self._register,
            "Domain_Error": self._last_error,
        }
        self.domain = Domain.from_interface(interface, functions)

    def serve(self, extension: Domain) -> None:
        """Say which domain the extension is: it may make domains of the interfaces that it
        exports or is linked to.  Raises `LinkError` ``domain/forged``."""
        nameable(extension)
        self._own = extension

    def give(self, domain: Domain) -> int:
        """The number by which the extension has a domain that is passed to it."""
        if domain not in self._numbers:
            number = secrets.randbits(63) | 1
            self._known[number] = domain
            self._numbers[domain] = number
        return self._numbers[domain]

    def take(self, number: int) -> Domain:
        """The domain that the extension means.  Raises `LinkError` ``domain/forged``."""
        if number not in self._known:
            raise LinkError(
                "domain/forged", "this number was not given to this extension",
                help="a Domain_T cannot be passed on as a number: pass the domain itself",
            )  # fmt: skip
        return self._known[number]

    def offer(self, interface: Interface, functions: Mapping[str, Callable[..., Any]]) -> Domain:
        """A domain of Python functions for this extension alone.

        They act as its identity, whichever thread calls.  A domain that one returns becomes a
        ``Domain_T``, None becomes 0.  Raises `LinkError` as `Domain.from_interface`.
        """
        made = {
            name: self._offered(function, 0 if interface.has_result(name) else None)
            for name, function in functions.items()
        }
        return Domain.from_interface(interface, made)

    def _offered(self, function: Callable[..., Any], nothing: int | None) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            with self._identity.active():
                result = function(*arguments)
            if isinstance(result, Domain):
                return self.give(result)
            return nothing if result is None else result

        return call

    # -- what the extension calls ------------------------------------------------------------------

    def _do(self, operation: Callable[[], int], failed: int) -> int:
        try:
            with self._identity.active():
                return operation()
        except Exception as caught:  # of an authorisation procedure, too: C must be told
            error = caught if isinstance(caught, LinkError) else fault(caught)
            message = error.diagnostic.message.encode(errors="replace")
            self._error.text = self._ffi.new("char[]", message)
            return failed

    def _create(self, header: Any) -> int:
        def create() -> int:
            if self._own is None:
                raise LinkError(
                    "domain/not-running", "nobody has said which domain the extension is",
                    help="call Linker.serve first",
                )  # fmt: skip
            return self.give(Domain.from_interface(Interface(_text(self._ffi, header)),
                                                   nameable(self._own)))  # fmt: skip

        return self._do(create, 0)

    def _resolve(self, source: int, target: int) -> int:
        return self._do(lambda: len(resolve(self.take(source), self.take(target))), -1)

    def _unresolve(self, source: int, target: int) -> int:
        return self._do(lambda: len(unresolve(self.take(source), self.take(target))), -1)

    def _combine(self, first: int, second: int) -> int:
        return self._do(lambda: self.give(combine(self.take(first), self.take(second))), 0)

    def _initialize(self, domain: int) -> int:
        def start() -> int:
            initialize(self.take(domain))
            return 0

        return self._do(start, -1)

    def _query(self, name: Any) -> int:
        return self._do(lambda: self.give(self._names.query(_text(self._ffi, name))), 0)

    def _register(self, name: Any, domain: int) -> int:
        def register() -> int:
            self._names.register(_text(self._ffi, name), self.take(domain))
            return 0

        return self._do(register, -1)

    def _last_error(self) -> Any:
        return getattr(self._error, "text", self._ffi.NULL)


def _text(ffi: Any, pointer: Any) -> str:
    if not pointer:
        raise LinkError("domain/header", "a text is missing (NULL)", help="pass a string")
    text: bytes = ffi.string(pointer)
    return text.decode(errors="replace")
