"""What Spidl says when something is wrong: a code, a place, and what to do.

An error is a value first and a text second: every part is a typed field, so that tests and
``--json`` readers never parse prose.  The layout of the text follows rustc's: one headline,
an arrow to the place, notes, and a help line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

_CODE = re.compile(r"[a-z]+/[a-z0-9]+(-[a-z0-9]+)*")


class Severity(Enum):
    """How bad a diagnostic is."""

    ERROR = "error"
    """The program cannot be linked as asked."""
    REFUSED = "refused"
    """The program is fine, but an image of it could not be trusted: it starts the plain way."""
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file something was found.

    ``table`` is an ELF table or section name (``.rela.plt``, ``PT_DYNAMIC``), ``index`` an entry
    of it, ``vaddr`` a link-time virtual address and ``offset`` a file offset, both in bytes.
    """

    file: str
    table: str | None = None
    index: int | None = None
    vaddr: int | None = None
    offset: int | None = None

    def __str__(self) -> str:
        text = self.file
        if self.table is not None:
            text += f": {self.table}"
            if self.index is not None:
                text += f"[{self.index}]"
        if self.vaddr is not None:
            text += f" at {self.vaddr:#x}"
        if self.offset is not None:
            text += f" (file offset {self.offset:#x})"
        return text


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing to tell the user.

    ``code`` is ``phase/what`` and documented in docs/errors.md; ``notes`` say what was searched
    or compared; ``help`` is one line a person can act on.
    """

    code: str
    message: str
    place: Place | None = None
    notes: tuple[str, ...] = ()
    help: str | None = None
    severity: Severity = Severity.ERROR

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise ValueError(f"not a diagnostic code: {self.code!r}")

    def __str__(self) -> str:
        lines = [f"spidl: {self.severity.value}[{self.code}]: {self.message}"]
        if self.place is not None:
            lines.append(f"  --> {self.place}")
        lines += [f"   = {note}" for note in self.notes]
        if self.help is not None:
            lines.append(f"   = help: {self.help}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The same, for programs."""
        place = self.place
        return {
            "code": self.code,
            "severity": self.severity.value,
            "message": self.message,
            "place": None
            if place is None
            else {name: getattr(place, name) for name in Place.__slots__},
            "notes": list(self.notes),
            "help": self.help,
        }


class LinkError(Exception):
    """The one exception that bad input raises, anywhere in Spidl."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        place: Place | None = None,
        notes: tuple[str, ...] = (),
        help: str | None = None,
        severity: Severity = Severity.ERROR,
    ) -> None:
        self.diagnostic = Diagnostic(code, message, place, notes, help, severity)
        super().__init__(str(self.diagnostic))

    @property
    def code(self) -> str:
        return self.diagnostic.code

    def with_note(self, note: str) -> Self:
        """The same error with one more line of context, for callers that know more."""
        self.diagnostic = replace(self.diagnostic, notes=(*self.diagnostic.notes, note))
        self.args = (str(self.diagnostic),)
        return self


class Refusal(LinkError):
    """An image of this program could not be trusted; the program itself is not at fault.

    ``spidl run`` then starts the program the plain way, ``spidl build`` reports it.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        place: Place | None = None,
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> None:
        super().__init__(
            code, message, place=place, notes=notes, help=help, severity=Severity.REFUSED
        )


def fault(error: Exception) -> LinkError:
    """What to tell the user about an exception that should not have been."""
    if isinstance(error, MemoryError):
        return LinkError("internal/memory", "out of memory", help="close other programs")
    return LinkError(
        "internal/fault",
        f"a fault in Spidl itself: {type(error).__name__}: {error}",
        help="please report it; SPIDL_TRACEBACK=1 shows where it happened",
    )
