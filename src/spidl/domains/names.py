"""Identities, and the name server by which domains are advertised and asked for.

The name server is no part of the linker: it is a table that modules can use (section 4.2).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from spidl.diagnostics import LinkError
from spidl.domains.capability import Capability, Table
from spidl.domains.domain import Domain, check


class Principal:
    """Who an identity is, for others to look at: it gives no right to act as it.

    Two principals of one name are different; compare them, never their names.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """For messages only: anybody can make an identity of this name."""
        return self._name

    def __repr__(self) -> str:
        return f"<Principal {self._name}>"


class Identity(Capability):
    """The right to act as somebody: its binder gives it to an extension, nobody can guess it."""

    __slots__ = ()

    @staticmethod
    def create(name: str) -> Identity:
        """A new identity, different from all others whatever it is called."""
        return _identities.give(Principal(name))

    @property
    def principal(self) -> Principal:
        """What others see of it.  Raises `LinkError` ``domain/forged``."""
        return _identities.of(self)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Act as it in this context (`contextvars`): threads that are started here do not."""
        token = _current.set(_identities.of(self))
        try:
            yield
        finally:
            _current.reset(token)

    def __repr__(self) -> str:
        return f"<Identity {self.principal.name}>"


_identities: Table[Identity, Principal] = Table(Identity)
_current: ContextVar[Principal | None] = ContextVar("spidl.domains identity", default=None)


def caller() -> Principal | None:
    """Who is acting now (Identity.Self of the paper); None is nobody in particular."""
    return _current.get()


Authorize = Callable[[Principal | None], bool]
"""An authorisation procedure: whether this caller may have the domain."""


def only(*principals: Principal) -> Authorize:
    """An authorisation procedure that lets these in and nobody else."""

    def authorize(principal: Principal | None) -> bool:
        return any(principal is allowed for allowed in principals)

    return authorize


@dataclass(frozen=True, slots=True)
class _Entry:
    domain: Domain
    authorize: Authorize | None
    owner: Principal | None

    def lets_in(self, principal: Principal | None) -> bool:
        """Ask the procedure; it acts as its owner, not as the caller whom it judges."""
        if self.authorize is None:
            return True
        token = _current.set(self.owner)
        try:
            return bool(self.authorize(principal))
        finally:
            _current.reset(token)


class NameServer:
    """Names of domains.  It must not be asked for a name to learn whether it exists: refusal and
    absence are one error."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def register(self, name: str, domain: Domain, authorize: Authorize | None = None) -> None:
        """Advertise a domain; without ``authorize`` everybody may have it.

        Only who registered a name may register it again, for a newer version; who acts as nobody in
        particular is no one else than others who do.  Raises `LinkError` ``domain/taken``,
        ``domain/forged``.
        """
        check(domain)
        owner = caller()
        with self._lock:
            before = self._entries.get(name)
            if before is not None and before.owner is not owner:
                raise LinkError(
                    "domain/taken", f"somebody else has registered `{name}`",
                    help="choose another name",
                )  # fmt: skip
            self._entries[name] = _Entry(domain, authorize, owner)

    def unregister(self, name: str) -> None:
        """Take a name back; who has the domain keeps it.  Raises `LinkError` ``domain/taken``."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and entry.owner is not caller():
                raise LinkError(
                    "domain/taken", f"somebody else has registered `{name}`",
                    help="only who registered it may take it back",
                )  # fmt: skip
            self._entries.pop(name, None)

    def query(self, name: str) -> Domain:
        """The domain of this name, if its authorisation procedure lets the caller have it.

        The procedure is called each time.  Raises `LinkError` ``domain/denied``, and what the
        procedure raises.
        """
        with self._lock:
            entry = self._entries.get(name)
        principal = caller()
        if entry is None or not entry.lets_in(principal):
            who = "nobody in particular" if principal is None else f"`{principal.name}`"
            raise LinkError(
                "domain/denied",
                f"there is no domain `{name}` for {who}",
                help="register it first, or ask its owner to authorise you",
            )
        return entry.domain
