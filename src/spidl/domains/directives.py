"""Build directives: the table [domain] of domain.toml or spidl.toml, [tool.spidl.domain] of
pyproject.toml (section 4.3)."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from typing import Any

from spidl.diagnostics import LinkError, Place

FILES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("domain.toml", ("domain",)),
    ("spidl.toml", ("domain",)),
    ("pyproject.toml", ("tool", "spidl", "domain")),
)
"""Where directives are looked for, in this order: file, path of the table."""
LINKS = ("dynamic", "static")
DOMAIN_H = "<Domain.h>"
"""As what declares an import: the linker's own header."""
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


@dataclass(frozen=True, slots=True)
class Directives:
    """What is to be built of a folder; all paths are absolute.

    ``imports`` maps names in the name server to what declares them: the folder of another domain,
    a header of the process's own, or `DOMAIN_H`.  ``main`` is a source that only a static program
    has.
    """

    file: str
    name: str
    modules: tuple[str, ...]
    exports: tuple[str, ...] = ()
    imports: tuple[tuple[str, str], ...] = ()
    main: str | None = None
    link: str = "dynamic"
    flags: tuple[str, ...] = ("-O2",)

    @property
    def folder(self) -> str:
        return os.path.dirname(self.file)


def read_directives(folder: str) -> Directives:
    """The directives of a folder, or in a file.

    Raises `LinkError` ``domain/no-file``, ``domain/directive``.
    """
    folder = os.path.abspath(folder)
    files = [(os.path.join(folder, name), table) for name, table in FILES]
    if os.path.isfile(folder):
        tables = dict(FILES)
        files = [(folder, tables.get(os.path.basename(folder), ("domain",)))]
    for path, table in files:
        if os.path.exists(path):
            found = _table(path, table)
            if found is not None:
                return _directives(path, found)
    raise LinkError(
        "domain/no-file", f"no build directives in {folder}",
        notes=(f"looked for {', '.join(name for name, _ in FILES)}",),
        help="write a table [domain] into domain.toml",
    )  # fmt: skip


def _table(path: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            found: Any = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise _wrong(path, str(error)) from None
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    if found is not None and not isinstance(found, dict):
        raise _wrong(path, f"`{'.'.join(keys)}` is no table")
    return found


def _directives(path: str, table: dict[str, Any]) -> Directives:
    folder = os.path.dirname(path)

    def text(key: str, default: str | None = None) -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or not value:
            raise _wrong(path, f"`{key}` must be a text")
        return value

    def texts(key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        value = table.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _wrong(path, f"`{key}` must be a list of texts")
        return tuple(value)

    def inside(name: str) -> str:
        return name if name == DOMAIN_H else os.path.normpath(os.path.join(folder, name))

    known = ("name", "modules", "exports", "imports", "main", "link", "flags")
    unknown = sorted(table.keys() - set(known))
    if unknown:
        raise _wrong(path, f"there is no directive `{unknown[0]}`")
    name, link = text("name"), text("link", "dynamic")
    if not set(name) <= _NAME or name.startswith(("-", ".")):
        raise _wrong(path, f"`{name}` cannot be the name of a file")
    if link not in LINKS:
        raise _wrong(path, f"`link` is {' or '.join(LINKS)}, not {link}")
    imports = table.get("imports", {})
    if not isinstance(imports, dict) or not all(isinstance(v, str) for v in imports.values()):
        raise _wrong(path, "`imports` must give a folder or a header for each name")
    modules = tuple(inside(module) for module in texts("modules"))
    if not modules:
        raise _wrong(path, "`modules` names no source file")
    return Directives(
        path, name, modules,
        tuple(inside(header) for header in texts("exports")),
        tuple((key, inside(value)) for key, value in imports.items()),
        inside(text("main")) if "main" in table else None,
        link, texts("flags", ("-O2",)),
    )  # fmt: skip


def _wrong(path: str, what: str) -> LinkError:
    return LinkError(
        "domain/directive", what, place=Place(path), help="docs/domains.md lists the directives"
    )
