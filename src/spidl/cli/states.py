"""The state of a kept link, in a word, and how sizes and times are written."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

from spidl.cache.entry import Input, Kept, Mark
from spidl.cache.host import own_inputs
from spidl.cache.identity import identity
from spidl.cache.store import Stored, first_change

_LIBRARY = re.compile(r"\.so(\.[0-9.]+)?$")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = "KMGT"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

VALID, STALE, REFUSED, FAILED, DAMAGED, MISSING = (
    "valid", "stale", "refused", "failed", "damaged", "missing",
)  # fmt: skip
"""`refused` and `failed` are entries without an image; `damaged` those of other versions too."""


@dataclass(frozen=True, slots=True)
class State:
    """What would come of a start now."""

    name: str
    why: str = ""


def state_of(stored: Stored | None) -> State:
    """The state of an entry; the first input that is not as it was makes it stale."""
    if stored is None:
        return State(MISSING, "it is linked at the next start")
    kept = stored.kept
    if kept is None:
        return State(DAMAGED, stored.fault)
    changed = first_change(kept)
    if changed is not None:
        return State(STALE, _change(kept, changed))
    if kept.marks & Mark.ERROR:
        return State(FAILED, kept.message)
    return State(VALID) if kept.image is not None else State(REFUSED, kept.message)


_FORGOTTEN = 7 * _DAY


def is_elsewhere(stored: Stored) -> bool:
    """Whether an entry is of another kernel and has not been used for a week.

    A home folder may be shared by machines; after an update of the kernel nobody comes back.
    """
    if stored.kept is None or time.time() - stored.used < _FORGOTTEN:
        return False
    machine = os.uname()
    # The first strings of a key, launcher/key.c.
    here = [os.fsencode(part) for part in (machine.release, machine.version, machine.machine)]
    return stored.kept.key.split(b"\0")[1:4] != here


def _change(kept: Kept, path: str) -> str:
    given = next(i for i in kept.inputs if i.path == path)
    what = state_of_input(given)
    own = " (another Spidl)" if path in own_inputs() else ""
    return f"{path} {'has ' if what in ('appeared', 'changed') else 'is '}{what}{own}"


def state_of_input(given: Input) -> str:
    """``unchanged``, ``changed``, ``gone`` or ``appeared``."""
    now = identity(given.path)
    if given.identity is None:
        return "unchanged" if now is None else "appeared"
    if now is None:
        return "gone"
    return "unchanged" if now == given.identity else "changed"


def program_of(kept: Kept) -> str:
    """The program's path as it was asked for."""
    return next((word[1:] for word in kept.words if word.startswith("P")), "")


def options_of(kept: Kept) -> list[str]:
    """Modules and options as a command line has them, without the default layout."""
    words = [word[1:] for word in kept.words if word.startswith("O")]
    return [word for word in words if word != "--layout=shared"]


def libraries_of(kept: Kept) -> list[str]:
    """Paths of the libraries among the inputs, by their names."""
    return [
        given.path for given in kept.inputs
        if given.identity is not None and not given.front
        and is_library_name(given.path)
    ]  # fmt: skip


def is_library_name(path: str) -> bool:
    """``libc.so.6``, ``x.so``; not ``ld.so.cache``."""
    return _LIBRARY.search(os.path.basename(path)) is not None


def image_of(stored: Stored | None) -> str | None:
    """The path of an entry's image."""
    if stored is None or stored.kept is None or stored.kept.image is None:
        return None
    return os.path.join(stored.folder, stored.kept.image)


def size_text(size: float) -> str:
    """Bytes in units of 1024: ``512 B``, ``1.4 MB``."""
    unit = "B"
    for larger in _UNITS:
        if size < 1024:
            break
        size, unit = size / 1024, f"{larger}B"
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def parse_size(text: str) -> int | None:
    """Bytes that ``500M``, ``2G`` or ``1000000`` mean, in units of 1024; None for other texts."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    power = _UNITS.index(found[2].upper()) + 1 if found[2] else 0
    return int(float(found[1]) * 1024**power)


def age_text(when: float) -> str:
    """How long ago ``when`` (seconds since 1970) was; entries know it to the hour."""
    age = max(0.0, time.time() - when)
    if age < _HOUR:
        return f"{age / _MINUTE:.0f} min ago"
    return f"{age / _HOUR:.0f} h ago" if age < 2 * _DAY else f"{age / _DAY:.0f} days ago"


def time_text(when: float) -> str:
    """ISO 8601 in UTC, for programs."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
