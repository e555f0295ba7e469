"""Libraries from another file tree: its paths, its ld.so.cache, its symbolic links.

The order is that of glibc's linker (elf/dl-load.c, _dl_map_object), as in `spidl.modules.gnu`; the
environment steers the process's own tree only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from spidl.diagnostics import LinkError, Place
from spidl.link.dso import Dso, Need
from spidl.link.facts import Fact
from spidl.link.link import Link
from spidl.modules.gnu.hwcaps import supported_levels
from spidl.modules.gnu.ldcache import parse_cache

_CACHE: Fact[dict[str, str]] = Fact("ld.so.cache of another tree")
_DEFAULTS = (
    "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib",
    "/usr/lib",
)  # fmt: skip
_LINKS = 40
"""Symbolic links in one path, as in the kernel (MAXSYMLINKS)."""


def find_in_tree(name: str, dso: Dso, link: Link, root: str) -> Need:
    """A library of the tree under the folder ``root``; the path is None where there is none.

    A name with a slash is a path in the tree.
    """
    tried = []
    for why, path in _candidates(name, dso, link, root):
        found = inside(root, path)
        if link.exists(found):
            return Need(name, found, found=f"{why} in {root}")
        if why not in tried:
            tried.append(why)
    return Need(name, found=f"searched in {root}: {', '.join(tried)}")


def _candidates(name: str, dso: Dso, link: Link, root: str) -> Iterator[tuple[str, str]]:
    """(why, path in the tree) in order of search."""
    if "/" in name:
        yield f"the path {name}", name
        return
    own = dso.file
    paths = [("RPATH", "" if own.runpath else own.rpath or ""), ("RUNPATH", own.runpath or "")]
    origin = os.path.dirname(dso.path).removeprefix(root.rstrip("/")) or "/"
    for tag, value in paths:
        for folder in filter(None, value.split(":")):
            expanded = folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
            yield f"{tag} of {dso.name}", os.path.join(expanded, name)
    if _CACHE not in link.facts:
        data = link.read_input(inside(root, "/etc/ld.so.cache"))
        link.facts[_CACHE] = {} if data is None else parse_cache(data, supported_levels())
    cached = link.facts[_CACHE].get(name)
    if cached is not None:
        yield "its ld.so.cache", cached
    for folder in _DEFAULTS:
        yield "its own folders", os.path.join(folder, name)


def inside(root: str, path: str) -> str:
    """The file that ``path`` would lead to if ``root`` were ``/``: links never leave it.

    Raises `LinkError` ``live/link-loop``.
    """
    steps = path.split("/")[::-1]
    at: list[str] = []
    links = 0
    while steps:
        step = steps.pop()
        if step in ("", "."):
            continue
        if step == "..":
            del at[-1:]
            continue
        here = os.path.join(root, *at, step)
        if os.path.islink(here):
            links += 1
            if links > _LINKS:
                raise LinkError(
                    "live/link-loop",
                    f"too many symbolic links on the way to {path} in {root}",
                    place=Place(here),
                    help="mend the tree: a link leads back to itself",
                )
            target = os.readlink(here)
            if target.startswith("/"):
                at.clear()
            steps += target.split("/")[::-1]
        else:
            at.append(step)
    return os.path.join(root, *at)
