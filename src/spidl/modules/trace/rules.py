"""The settings of traces: rules, as tables or as patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from spidl.api import LinkError, Place, Reference, is_called
from spidl.modules.trace.prototypes import Prototype, known, parse

Value = str | list[str]
MODES = ("count", "log")
LINES = ("call", "return", "both")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which bindings, and what is done with their calls.  All patterns are `fnmatch` ones."""

    number: int
    symbol: str
    version: str | None
    of: str
    callers: tuple[str, ...]
    mode: str
    lines: str
    prototype: Prototype | None

    @property
    def place(self) -> Place:
        return Place("modules.trace", "rules", self.number)

    def fits(self, reference: Reference) -> bool:
        """Whether it means a reference of one of its callers."""
        return (
            (self.symbol == "*" or fnmatchcase(reference.name, self.symbol))
            and (self.version is None or fnmatchcase(reference.version or "", self.version))
            and (self.of == "*" or is_called(reference.provider, (self.of,)))
        )

    def prototype_of(self, name: str) -> Prototype | None:
        """The rule's own, else the table's."""
        return self.prototype or known().get(name)


def parse_rules(rules: Sequence[dict[str, Value]] | Sequence[str] | str) -> list[Rule]:
    """Rules from the settings, checked.  A text is a pattern of symbols, counted for every caller.

    Raises `LinkError` ``config/unknown-key``, ``config/wrong-type``, ``config/wrong-value``,
    ``trace/bad-prototype``.
    """
    given: list[Any] = [rules] if isinstance(rules, str) else list(rules)
    return [_rule(number, {"symbol": one} if isinstance(one, str) else one)
            for number, one in enumerate(given)]  # fmt: skip


_KEYS = ("symbol", "of", "callers", "mode", "lines", "prototype")


def _rule(number: int, given: dict[str, Any]) -> Rule:
    place = Place("modules.trace", "rules", number)
    for key, value in given.items():
        if key not in _KEYS:
            raise LinkError(
                "config/unknown-key", f"a rule of module `trace` has no key `{key}`", place=place,
                help=f"known are: {', '.join(_KEYS)}",
            )  # fmt: skip
        if not isinstance(value, list if key == "callers" else str):
            expected = "a list of texts" if key == "callers" else "a text"
            raise LinkError("config/wrong-type", f"`{key}` must be {expected}", place=place,
                            help="see docs/trace.md")  # fmt: skip
    for key, choices in (("mode", MODES), ("lines", LINES)):
        if given.get(key, choices[0]) not in choices:
            raise LinkError(
                "config/wrong-value", f"`{given[key]}` is no value of {key}", place=place,
                help=f"it must be one of: {', '.join(choices)}",
            )  # fmt: skip
    symbol, _, version = given.get("symbol", "*").partition("@")
    text = given.get("prototype")
    return Rule(
        number, symbol, version.lstrip("@") or None, given.get("of", "*"),
        tuple(given.get("callers", ["*"])), given.get("mode", MODES[0]),
        given.get("lines", "return"), None if text is None else parse(text, place),
    )  # fmt: skip
