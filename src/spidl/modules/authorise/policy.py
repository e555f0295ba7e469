"""A policy: which object may import what from whom, bring what, open what.

TOML, one table an object (docs/authorise.md).  Reading keeps the line of every key, so that what is
not allowed can be shown where it would be allowed.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from spidl.api import LinkError, Place
from spidl.modules.authorise.interfaces import Interfaces, contains, glibc

SYMBOL = "symbol:"
"""Begins an item that is a symbol's name, or a wildcard for some."""
ALL = "*"
_OBJECT_KEYS = ("path", "build_id", "imports", "interposes", "resolvers", "constructors", "opens")
_KEYS = ("interfaces", "objects")
_HEADER = re.compile(r"""^\s*\[\s*objects\s*\.\s*("[^"]*"|'[^']*'|[\w-]+)\s*(?:\.\s*(\w+)\s*)?\]""")
_OTHER = re.compile(r"^\s*\[")
_KEY = re.compile(r"""^\s*("[^"]*"|'[^']*'|[\w-]+)\s*(?:\.\s*("[^"]*"|'[^']*'|[\w.-]+)\s*)?=""")
_WILD = re.compile(r"[*?\[]")


def wildcard(pattern: str, text: str) -> bool:
    """Whether a pattern fits; ``**/`` is any number of folders, none too, as in glob."""
    return fnmatchcase(text, pattern.replace("**/", "*"))


@dataclass(frozen=True, slots=True)
class Table:
    """What one object may do, or each of some.

    ``imports`` and ``interposes`` are lists of items (interfaces, ``symbol:NAME``, ``*``) by the
    provider's name or a pattern of names.
    """

    key: str
    path: str | None = None
    build_id: str | None = None
    imports: Mapping[str, Sequence[str]] = field(default_factory=dict)
    interposes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    resolvers: bool = False
    constructors: bool = False
    opens: Sequence[str] = ()

    def fits(self, names: Sequence[str], paths: Sequence[str]) -> bool:
        """Whether the key means an object of these names and paths."""
        among = paths if "/" in self.key else names
        return any(wildcard(self.key, name) for name in among)


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy file, read and checked."""

    file: str
    tables: tuple[Table, ...]
    interfaces: Mapping[str, Interfaces]
    """A policy's own, by the provider's name or a pattern."""
    lines: Mapping[tuple[str, str], int]
    """Where a key of an object's table is, and with the key "" the table itself."""

    @cached_property
    def _by_key(self) -> Mapping[str, Table]:
        return {table.key: table for table in self.tables}

    @cached_property
    def _wild(self) -> Sequence[Table]:
        return [table for table in self.tables if _WILD.search(table.key)]

    def table(self, names: Sequence[str], paths: Sequence[str]) -> Table | None:
        """The table of an object: one that names it, else the one whose pattern fits.

        Raises `LinkError` ``authorise/ambiguous`` where several patterns do.
        """
        # A path says more than a name.
        for keys in (paths, names):
            exact = {key: self._by_key[key] for key in keys if key in self._by_key}
            if exact:
                return next(iter(exact.values()))
        fitting = [table for table in self._wild if table.fits(names, paths)]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            return None
        found = [table.key for table in fitting]
        raise LinkError(
            "authorise/ambiguous", f"{len(found)} tables of the policy fit {names[0]}",
            place=self.place(found[0]), notes=tuple(f'[objects."{key}"]' for key in found),
            help="let one of them name the object",
        )  # fmt: skip

    def line(self, key: str, *parts: str) -> int:
        """The line of an object's key, or of its table; 0 where the file has neither."""
        for part in (*parts, ""):
            if (key, part) in self.lines:
                return self.lines[key, part]
        return 0

    def place(self, key: str, *parts: str) -> Place:
        number = self.line(key, *parts)
        return Place(self.file, f"line {number}" if number else None)

    def interface(self, provider: str, symbol: str) -> str | None:
        """The interface that a provider's symbol belongs to; None for none."""
        for pattern, own in self.interfaces.items():
            if fnmatchcase(provider, pattern) and (found := own.of(symbol)):
                return found
        return glibc().of(provider, symbol)

    def denied(
        self, grants: Mapping[str, Sequence[str]], provider: str, symbols: Iterable[str]
    ) -> list[str]:
        """Symbols of a provider that the imports or interpositions that are granted have not."""
        items = [
            item
            for pattern, granted in grants.items()
            if fnmatchcase(provider, pattern)
            for item in granted
        ]
        if ALL in items:
            return []
        names = [item.removeprefix(SYMBOL) for item in items if item.startswith(SYMBOL)]
        found = []
        for symbol in symbols:
            interface = self.interface(provider, symbol)
            if interface is not None and any(contains(item, interface) for item in items):
                continue
            if not any(fnmatchcase(symbol, name) for name in names):
                found.append(symbol)
        return found


def read_policy(file: str, content: bytes | None) -> Policy:
    """A policy from the content of a file, None where it cannot be read.

    Raises `LinkError` ``authorise/no-policy``, ``authorise/not-private``, ``authorise/bad-policy``,
    ``authorise/unknown-interface``.
    """
    if content is None:
        raise LinkError(
            "authorise/no-policy", "the policy cannot be read", place=Place(file),
            help="write one: spidl policy learn PROGRAM -o FILE",
        )  # fmt: skip
    status = os.stat(file)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise LinkError(
            "authorise/not-private",
            "the policy belongs to another user, or everybody may write to it",
            place=Place(file),
            help="chmod o-w it, or chown it to root",
        )
    try:
        text = content.decode()
        values = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LinkError(
            "authorise/bad-policy", f"not a TOML file: {error}", place=Place(file),
            help="see docs/authorise.md for the form of a policy",
        ) from None  # fmt: skip
    return _Reader(file, text).policy(values)


class _Reader:
    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines = dict(_lines(text))

    def wrong(self, what: str, key: str = "", part: str = "", help_: str = "") -> LinkError:
        number = self.lines.get((key, part)) or self.lines.get((key, ""))
        return LinkError(
            "authorise/bad-policy", what,
            place=Place(self.file, f"line {number}" if number else None),
            help=help_ or "see docs/authorise.md for the form of a policy",
        )  # fmt: skip

    def policy(self, values: dict[str, Any]) -> Policy:
        for key in values:
            if key not in _KEYS:
                raise self.wrong(f"unknown key `{key}`", help_=f"known are: {', '.join(_KEYS)}")
        objects, interfaces = values.get("objects", {}), values.get("interfaces", {})
        if not isinstance(objects, dict) or not isinstance(interfaces, dict):
            raise self.wrong("`objects` and `interfaces` are tables")
        own = {provider: self._interfaces(provider, g) for provider, g in interfaces.items()}
        tables = tuple(self._table(key, table, own) for key, table in objects.items())
        return Policy(self.file, tables, own, self.lines)

    def _interfaces(self, provider: str, groups: object) -> Interfaces:
        if not isinstance(groups, dict):
            raise self.wrong(f"interfaces of `{provider}` are a table of lists")
        joined = {}
        for name, words in groups.items():
            if not _is_list(words):
                raise self.wrong(f"the interface `{name}` of `{provider}` is no list of names")
            if name == ALL or name.startswith(SYMBOL):
                raise self.wrong(f"an interface cannot be called `{name}`")
            joined[name] = " ".join(words)
        return Interfaces(joined)

    def _table(self, key: str, values: object, own: Mapping[str, Interfaces]) -> Table:
        if not isinstance(values, dict):
            raise self.wrong(f"`objects.{key}` is no table", key)
        for name in values:
            if name not in _OBJECT_KEYS:
                known = ", ".join(_OBJECT_KEYS)
                raise self.wrong(f"unknown key `{name}`", key, name, f"known are: {known}")
        for name, kind in (("path", str), ("build_id", str), ("resolvers", bool),
                           ("constructors", bool)):  # fmt: skip
            if not isinstance(values.get(name, kind()), kind):
                raise self.wrong(f"`{name}` is no {kind.__name__}", key, name)
        opens = values.get("opens", [])
        if not _is_list(opens):
            raise self.wrong("`opens` is no list of names and paths", key, "opens")
        self._once(opens, key, "opens")
        for what in ("imports", "interposes"):
            self._grants(values.get(what, {}), key, what, own)
        return Table(key, **{**values, "opens": tuple(opens)})

    def _grants(self, grants: object, key: str, what: str, own: Mapping[str, Interfaces]) -> None:
        if not isinstance(grants, dict):
            raise self.wrong(f"`{what}` is a table of lists, by provider", key, what)
        for provider, items in grants.items():
            part = f"{what}.{provider}"
            if not _is_list(items):
                raise self.wrong(f'`{what}."{provider}"` is no list', key, part)
            self._once(items, key, part)
            for item in items:
                if item != ALL and not item.startswith(SYMBOL):
                    self._known(item, provider, key, part, own)

    def _known(
        self, item: str, provider: str, key: str, part: str, own: Mapping[str, Interfaces]
    ) -> None:
        """Whether there is such an interface; a pattern of providers may have any."""
        known: set[str] = set()
        for pattern, interfaces in own.items():
            if fnmatchcase(provider, pattern) or fnmatchcase(pattern, provider):
                known |= interfaces.names
        if provider in glibc().libraries or _WILD.search(provider):
            known |= glibc().interfaces.names | set(glibc().whole.values())
        if not any(contains(item, name) for name in known):
            like = sorted(name for name in known if name.startswith(item[:3]))
            raise LinkError(
                "authorise/unknown-interface",
                f"`{provider}` has no interface `{item}`",
                place=Place(self.file, f"line {self.lines.get((key, part), 0)}"),
                notes=(f"like it: {', '.join(like)}",) if like else (),
                help=f'a symbol is "{SYMBOL}NAME"; own interfaces are [interfaces."{provider}"]',
            )

    def _once(self, items: Sequence[str], key: str, part: str) -> None:
        for at, item in enumerate(items):
            if item in items[:at]:
                raise self.wrong(f"`{item}` is listed twice", key, part)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _lines(text: str) -> Iterator[tuple[tuple[str, str], int]]:
    """((object, key), line number) of each key; a key of a table is ``imports.libc.so.6``."""
    inside, prefix = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            inside, prefix = header[1].strip("\"'"), header[2] or ""
            yield (inside, prefix), number
            if prefix:
                yield (inside, ""), number
        elif _OTHER.match(line) and "=" not in line:
            inside = ""
        elif inside and (key := _KEY.match(line)):
            parts = [prefix, key[1].strip("\"'"), (key[2] or "").strip("\"'")]
            yield (inside, ".".join(part for part in parts if part)), number
