"""The settings of hooks: rules, as tables or in one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spidl.api import LinkError, Place

Value = str | bool | list[str]
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which bindings, and what takes their place.  All patterns are `fnmatch` ones."""

    number: int
    symbol: str
    """A pattern of names."""
    version: str | None
    """A pattern of the definition's version; None for any."""
    of: str
    """A pattern of the object that defines it."""
    callers: tuple[str, ...]
    """Patterns of the objects that ask for it."""
    object: str
    """The object with the hooks: an absolute path, or a name to search for."""
    function: str
    """Its function; ``*`` stands for the symbol's name."""
    original: str | None
    """Its variable for the original's address, likewise."""
    pointers: bool
    """Whether function pointers in data are hooked as well as GOT slots."""

    @property
    def place(self) -> Place:
        return Place("modules.hook", "rules", self.number)

    @property
    def is_pattern(self) -> bool:
        """Whether it may mean more than one name."""
        return bool(_GLOB & set(self.symbol))

    def replacement(self, name: str) -> str:
        """The function that takes a symbol's place."""
        return self.function.replace("*", name)

    def variable(self, name: str) -> str | None:
        """The variable for a symbol's original."""
        return None if self.original is None else self.original.replace("*", name)


_KEYS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "symbol": ("a text", lambda value: isinstance(value, str)),
    "of": ("a text", lambda value: isinstance(value, str)),
    "callers": ("a list of texts", lambda value: isinstance(value, list)),
    "with": ("a text", lambda value: isinstance(value, str)),
    "function": ("a text", lambda value: isinstance(value, str)),
    "original": ("a text", lambda value: isinstance(value, str)),
    "pointers": ("true or false", lambda value: isinstance(value, bool)),
}


def parse_rules(rules: list[dict[str, Value]] | list[str] | str) -> list[Rule]:
    """Rules from the settings, checked.

    Raises `LinkError` ``config/unknown-key``, ``config/missing-setting``, ``config/wrong-type``,
    ``hook/bad-rule``.
    """
    given: list[Any] = [rules] if isinstance(rules, str) else list(rules)
    if not given:
        raise LinkError(
            "config/missing-setting", "module `hook` has no rules", place=Place("modules.hook"),
            help="see docs/hook.md, or --set hook.rules=SYMBOL:FUNCTION:/PATH/OF/OBJECT",
        )  # fmt: skip
    return [_rule(number, _line(number, one) if isinstance(one, str) else one)
            for number, one in enumerate(given)]  # fmt: skip


def _line(number: int, line: str) -> dict[str, Any]:
    """SYMBOL:FUNCTION:OBJECT[:CALLER,...]; without FUNCTION it has the symbol's name."""
    parts = line.split(":")
    if not 3 <= len(parts) <= 4 or not parts[0] or not parts[2]:
        raise _bad(number, f"`{line}` is not SYMBOL:FUNCTION:OBJECT[:CALLER,...]",
                   "for instance getenv:my_getenv:/usr/local/lib/libhooks.so")  # fmt: skip
    rule: dict[str, Any] = {"symbol": parts[0], "with": parts[2]}
    if parts[1]:
        rule["function"] = parts[1]
    if len(parts) == 4:
        rule["callers"] = parts[3].split(",")
    return rule


def _rule(number: int, given: dict[str, Any]) -> Rule:
    place = Place("modules.hook", "rules", number)
    for key, value in given.items():
        if key not in _KEYS:
            raise LinkError(
                "config/unknown-key", f"a rule of module `hook` has no key `{key}`", place=place,
                help=f"known are: {', '.join(_KEYS)}",
            )  # fmt: skip
        expected, fits = _KEYS[key]
        if not fits(value):
            raise LinkError(
                "config/wrong-type", f"`{key}` must be {expected}", place=place,
                help="see docs/hook.md",
            )  # fmt: skip
    for key in ("symbol", "with"):
        if not given.get(key):
            raise LinkError(
                "config/missing-setting", f"a rule of module `hook` needs `{key}`", place=place,
                help="see docs/hook.md",
            )  # fmt: skip
    symbol, _, version = given["symbol"].partition("@")
    path = given["with"]
    if "/" in path and not path.startswith("/"):
        raise _bad(number, f"`{path}` depends on the working folder, a kept image does not",
                   "give an absolute path, or a name to search for")  # fmt: skip
    return Rule(
        number, symbol, version.lstrip("@") or None, given.get("of", "*"),
        tuple(given.get("callers", ["*"])), path, given.get("function", "*"),
        given.get("original"), given.get("pointers", True),
    )  # fmt: skip


def _bad(number: int, message: str, help: str) -> LinkError:
    return LinkError(
        "hook/bad-rule", message, place=Place("modules.hook", "rules", number), help=help
    )
