"""Interfaces: named groups of the symbols that a library exports.

Those of glibc's libraries are data (glibc.toml); a policy may define more for other libraries.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from importlib.resources import files

_BEFORE = re.compile(r"^(?:_+|libc_|isoc99_|isoc23_|IO_|GI_)")
_BEHIND = re.compile(r"(?:_chk|_unlocked|_nocancel|_internal|_time|64|_2|_r|_l|_np|_nan)$")
"""What glibc puts around the name of a function for its variants: checked, reentrant, with a
locale, with 64-bit offsets or times."""
_WILD = re.compile(r"[*?\[]")


class Interfaces:
    """Groups of names; every name belongs to at most one."""

    def __init__(self, groups: Mapping[str, str]) -> None:
        """``groups``: interface to names and wildcards, with blanks between them."""
        self.names = frozenset(groups)
        self._exact: dict[str, str] = {}
        self._known: dict[str, str | None] = {}
        patterns: list[str] = []
        self._group: list[str] = []
        for interface, words in groups.items():
            for word in words.split():
                if _WILD.search(word):
                    self._group.append(interface)
                    patterns.append(f"({translate(word)})")
                else:
                    self._exact.setdefault(word, interface)
        self._patterns = re.compile("|".join(patterns) or r"(?!)")

    def of(self, name: str) -> str | None:
        """The interface of a symbol: by its name or that of which it is a variant, then by
        wildcards."""
        if name not in self._known:
            self._known[name] = self._look(name)
        return self._known[name]

    def _look(self, name: str) -> str | None:
        variants = list(_variants(name))
        for variant in variants:
            if variant in self._exact:
                return self._exact[variant]
        for variant in variants:
            found = self._patterns.match(variant)
            if found is not None and found.lastindex is not None:
                return self._group[found.lastindex - 1]
        return None


def _variants(name: str) -> Iterator[str]:
    """A name and what is left of it without what marks a variant."""
    yield name
    plain = name
    while (shorter := _BEFORE.sub("", plain)) != plain and shorter:
        plain = shorter
        yield plain
    while (shorter := _BEHIND.sub("", plain)) != plain and shorter:
        plain = shorter
        yield plain


@dataclass(frozen=True, slots=True, eq=False)
class Glibc:
    """The interfaces of glibc's libraries."""

    interfaces: Interfaces
    libraries: frozenset[str]
    """Their sonames."""
    whole: Mapping[str, str]
    """Libraries of which all belongs to one interface, by soname."""

    def of(self, soname: str, name: str) -> str | None:
        """The interface of a symbol that a library of glibc exports; None for other libraries."""
        if soname not in self.libraries:
            return None
        return self.whole.get(soname) or self.interfaces.of(name)


@cache
def glibc() -> Glibc:
    """What glibc.toml says."""
    text = files("spidl.modules.authorise").joinpath("glibc.toml").read_text()
    content = tomllib.loads(text)
    whole = content["whole"]
    return Glibc(Interfaces(content["interfaces"]), frozenset(content["libraries"]), whole)


def contains(interface: str, part: str) -> bool:
    """Whether who may import ``interface`` may import ``part``."""
    return part == interface or part.startswith(f"{interface}.")
