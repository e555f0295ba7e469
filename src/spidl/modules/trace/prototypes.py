"""Prototypes of functions: what their arguments look like, in a line each.

    open(path: str, flags: hex, mode: oct) -> int
    printf(format: str, ...) -> int
    setjmp(env: ptr) -> int jump

``...``: there may be more.  ``jump``: it must see its caller's own frame, or does not return, so it
cannot be waited for.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache

from spidl.api import LinkError, Place

TYPES = ("void", "int", "uint", "long", "ulong", "hex", "oct", "ptr", "str", "char", "double",
         "float", "bytes", "struct")  # fmt: skip
"""By their numbers in boot/trace.h.  int, uint, hex and oct have 32 bits, and bytes is a pointer to
as many as the next argument says."""
MOST_ARGUMENTS = 40

_FILE = os.path.join(os.path.dirname(__file__), "prototypes.txt")
_FORM = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*(?:->\s*(\w+)\s*(jump)?)?\s*")
_NEVER_RESULTS = ("bytes",)
_NEVER_ARGUMENTS = ("void", "struct")


@dataclass(frozen=True, slots=True)
class Prototype:
    """A function's arguments and result, by type number."""

    name: str
    arguments: tuple[int, ...]
    result: int
    more: bool
    jump: bool

    @property
    def has_floats(self) -> bool:
        return bool({TYPES.index("double"), TYPES.index("float")} & {*self.arguments, self.result})

    @property
    def stack_words(self) -> int:
        """How many arguments lie on the stack, 8 bytes each (psABI section 3.2.3)."""
        floats = sum(TYPES[number] in ("double", "float") for number in self.arguments)
        others = len(self.arguments) - floats + (TYPES[self.result] == "struct")
        return max(0, floats - 8) + max(0, others - 6)


def parse(line: str, place: Place) -> Prototype:
    """A prototype from its text.  Raises `LinkError` ``trace/bad-prototype``."""
    found = _FORM.fullmatch(line)
    if found is None:
        raise _bad(line, place, "it is not NAME(ARGUMENT: TYPE, ...) -> TYPE")
    name, inside, result, jump = found.groups()
    words = [word.strip() for word in inside.split(",")] if inside.strip() else []
    more = words[-1:] == ["..."]
    kinds = [word.rpartition(":")[2].strip() for word in (words[:-1] if more else words)]
    for kind, never in [(kind, _NEVER_ARGUMENTS) for kind in kinds] + [
        (result or "void", _NEVER_RESULTS)
    ]:
        if kind not in TYPES or kind in never:
            raise _bad(line, place, f"there is no type `{kind}` there")
    if len(kinds) > MOST_ARGUMENTS:
        raise _bad(line, place, f"it has more than {MOST_ARGUMENTS} arguments")
    numbers = tuple(TYPES.index(kind) for kind in kinds)
    return Prototype(name, numbers, TYPES.index(result or "void"), more, bool(jump))


def _bad(line: str, place: Place, why: str) -> LinkError:
    return LinkError(
        "trace/bad-prototype", f"`{line.strip()}`: {why}", place=place,
        help=f"for instance: open(path: str, flags: hex, mode: oct) -> int; types: "
        f"{', '.join(TYPES)}",
    )  # fmt: skip


@cache
def known() -> dict[str, Prototype]:
    """Those of the C library that come with Spidl, by name."""
    found = {}
    with open(_FILE, encoding="ascii") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.startswith("#"):
                prototype = parse(line, Place(_FILE, "line", number))
                found[prototype.name] = prototype
    return found
