"""What `[modules.capsule.capsules.NAME]` may say."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from itertools import count
from typing import Any

from spidl.api import LinkError, Place

LINKER = "ld-linux-x86-64.so.2"
SHARED = frozenset(
    {
        LINKER, "libBrokenLocale.so.1", "libanl.so.1", "libc.so.6",
        "libc_malloc_debug.so.0", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libmvec.so.1",
        "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libthread_db.so.1", "libutil.so.1",
    }
)  # fmt: skip
"""One libc for all, with its parts, and the unwinder that its threads use."""
SHARED_IF_NEWER = frozenset({"libstdc++.so.6"})
"""Shared where the program's own has every version that the root's has."""


@dataclass(frozen=True, slots=True)
class Capsule:
    """One capsule: libraries from another root, with all that they need privately."""

    name: str
    root: str
    """Without symbolic links."""
    libraries: tuple[str, ...]
    """Names as the program asks for them (DT_NEEDED)."""
    exports: tuple[str, ...] = ("*",)
    """Patterns of the names of theirs that the program sees."""
    shared: tuple[str, ...] = ()
    """Patterns of libraries that the capsule takes from the program's side."""
    private: tuple[str, ...] = ()
    """Patterns of those that it does not, though they usually are."""
    opens: bool | None = None
    """Whether it opens libraries itself; None: if it can call dlopen."""
    links: tuple[str, ...] = ()
    """Symbolic links on the way to the root."""

    def shares(self, name: str) -> bool | None:
        """Whether a library is the program's; None where its version decides."""
        if _fits(name, self.private):
            return False
        if _fits(name, self.shared) or name in SHARED:
            return True
        return None if name in SHARED_IF_NEWER else False


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_capsules(
    tables: Mapping[str, Mapping[str, Any]], take: Sequence[str] = ()
) -> tuple[Capsule, ...]:
    """The capsules of a module's settings.  Raises `LinkError` ``config/...``, ``capsule/...``."""
    tables = {**tables, **_taken(take, tables)}
    capsules = tuple(_capsule(name, table) for name, table in tables.items())
    owner: dict[str, str] = {}
    for capsule in capsules:
        for library in capsule.libraries:
            if library in owner:
                raise LinkError(
                    "capsule/library-twice",
                    f"{library} is to come from the capsule `{capsule.name}` and from "
                    f"`{owner[library]}`",
                    place=_place(capsule.name),
                    help="name it in one of them",
                )
            owner[library] = capsule.name
    return capsules


def _taken(take: Sequence[str], others: Container[str]) -> dict[str, dict[str, Any]]:
    """Capsules in the short form, LIBRARY,...=ROOT: one a root, called after its folder."""
    tables: dict[str, dict[str, Any]] = {}
    for text in take:
        libraries, equals, root = text.partition("=")
        if not (equals and all(libraries.split(","))):
            raise LinkError(
                "config/bad-option",
                f"--capsule {text} is not LIBRARY=ROOT",
                place=Place("command line"),
                help="for instance --capsule libz.so.1,libpng16.so.16=/srv/other",
            )
        name = next((n for n, table in tables.items() if table["root"] == root), None)
        if name is None:
            called = os.path.basename(root.rstrip("/")) or "root"
            free = (f"{called}-{i}" if i else called for i in count())
            name = next(n for n in free if n not in others and n not in tables)
            tables[name] = {"root": root, "libraries": []}
        tables[name]["libraries"] += libraries.split(",")
    return tables


def _capsule(name: str, table: Mapping[str, Any]) -> Capsule:
    known = [field.name for field in fields(Capsule) if field.name not in ("name", "links")]
    for key, value in table.items():
        if key not in known:
            raise LinkError(
                "config/unknown-key",
                f"a capsule has no setting `{key}`",
                place=_place(name),
                help=f"known are: {', '.join(known)}",
            )
        expected = {"root": str, "opens": bool}.get(key, list)
        fits = isinstance(value, expected)
        if expected is list:
            fits = fits and all(isinstance(item, str) and item for item in value)
        if not fits:
            what = {str: "a string", bool: "true or false", list: "a list of strings"}[expected]
            raise LinkError(
                "config/wrong-type", f"`{key}` must be {what}", place=_place(name),
                help="see docs/capsule.md",
            )  # fmt: skip
    for key in ("root", "libraries"):
        if not table.get(key):
            raise LinkError(
                "config/missing-setting",
                f"the capsule `{name}` needs the setting `{key}`",
                place=_place(name),
                help='for instance: root = "/srv/other", libraries = ["libz.so.1"]',
            )
    root = table["root"]
    if not (os.path.isabs(root) and os.path.isdir(root)):
        raise LinkError(
            "capsule/no-root",
            f"the root {root} is no {'folder' if os.path.isabs(root) else 'absolute path'}",
            place=_place(name),
            help="give the folder of another system's file tree, as debootstrap makes it",
        )
    lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    return Capsule(name, os.path.realpath(root), opens=table.get("opens"),
                   links=tuple(_links(root)), **lists)  # fmt: skip


def _links(path: str) -> Iterator[str]:
    """The symbolic links on the way to a folder that is there."""
    done, rest = "/", path.split("/")[::-1]
    while rest:
        at = os.path.join(done, rest.pop())
        if os.path.islink(at):
            yield at
            rest += os.readlink(at).split("/")[::-1]
            if os.path.isabs(os.readlink(at)):
                done = "/"
        else:
            done = os.path.realpath(at)


def _place(name: str) -> Place:
    return Place("spidl.toml", f"modules.capsule.capsules.{name}")
