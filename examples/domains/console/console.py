"""The console module: one implementation, two interfaces, a procedure that decides."""

from __future__ import annotations

from pathlib import Path

from spidl.domains import Domain, Interface, Principal, caller

_here = Path(__file__).parent
CONSOLE = Interface.read(_here / "Console.h")
CONSOLE_PRIVATE = Interface.read(_here / "ConsolePrivate.h")


class Console:
    """``domain`` is the whole implementation, which stays in here."""

    def __init__(self, domain: Domain, privileged: set[Principal]) -> None:
        self._domain = domain
        self._privileged = privileged
        self.public = Domain.from_interface(CONSOLE, domain)

    def get_private_interface(self) -> Domain | None:
        """ConsolePrivate for privileged callers, None for others."""
        if caller() in self._privileged:
            return Domain.from_interface(CONSOLE_PRIVATE, self._domain)
        return None
