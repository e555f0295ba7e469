"""Libraries from another file tree: its paths, its ld.so.cache, its symbolic links.

The order is that of glibc's linker (elf/dl-load.c, _dl_map_object); the environment steers the
system's own tree only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from spidl.api import DF_1, Dso, Fact, Link, LinkError, Need, Place
from spidl.modules.gnu.hwcaps import supported_levels
from spidl.modules.gnu.ldcache import parse_cache

_CACHES: Fact[dict[str, dict[str, str]]] = Fact("ld.so.cache of other trees")
"""What they say, by the tree's root and soname."""
_DEFAULTS = (
    "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib",
    "/usr/lib",
)  # fmt: skip
_LIB = "lib/x86_64-linux-gnu"
_LINKS = 40
"""Symbolic links in one path, as in the kernel (MAXSYMLINKS)."""


def find_in_tree(name: str, root: str, asker: Dso | None, link: Link) -> Need:
    """A library of the tree under the folder ``root``, as ``asker`` asks for it, if anybody does;
    the path is None where there is none.

    A name with a slash is a path in the tree.
    """
    tried = []
    for why, path in _candidates(name, root, asker, link):
        found = inside(root, path, link)
        if link.exists(found):
            return Need(name, found, found=f"{why} in {root}")
        if why not in tried:
            tried.append(why)
    return Need(name, found=f"searched in {root}: {', '.join(tried)}")


def _candidates(name: str, root: str, asker: Dso | None, link: Link) -> Iterator[tuple[str, str]]:
    """(why, path in the tree) in order of search."""
    if "/" in name:
        yield f"the path {name}", name
        return
    if asker is not None:
        for tag, dso, value in _own_paths(asker):
            for folder in filter(None, value.split(":")):
                yield f"{tag} of {dso.name}", os.path.join(_expand(folder, root, dso), name)
    caches = link.facts.setdefault(_CACHES, {})
    if root not in caches:
        data = link.read_input(inside(root, "/etc/ld.so.cache", link))
        caches[root] = {} if data is None else parse_cache(data, supported_levels())
    cached = caches[root].get(name)
    if cached is not None:
        yield "its ld.so.cache", cached
    if asker is None or not asker.file.flags_1 & DF_1.NODEFLIB:
        for folder in _DEFAULTS:
            yield "its own folders", os.path.join(folder, name)


def _own_paths(asker: Dso) -> Iterator[tuple[str, Dso, str]]:
    """(tag, whose, folders): RUNPATH, or else RPATH, which who loaded it in its tree hands on."""
    if asker.file.runpath is not None:
        yield "RUNPATH", asker, asker.file.runpath
        return
    at: Dso | None = asker
    while at is not None and at.namespace is asker.namespace:
        if at.file.rpath and at.file.runpath is None:
            yield "RPATH", at, at.file.rpath
        at = at.loader


def _expand(folder: str, root: str, dso: Dso) -> str:
    """Dynamic string tokens (ld.so(8)) as a path in the tree."""
    origin = os.path.dirname(dso.path).removeprefix(root.rstrip("/")) or "/"
    text = re.sub(r"\$(?:ORIGIN\b|\{ORIGIN\})", lambda _: origin, folder)
    return re.sub(r"\$(?:LIB\b|\{LIB\})", _LIB, text)


def inside(root: str, path: str, link: Link) -> str:
    """The file that ``path`` would lead to if ``root`` were ``/``: links never leave it.

    Folders with links on the way are watched.  Raises `LinkError` ``collect/link-loop``.
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
                    "collect/link-loop",
                    f"too many symbolic links on the way to {path} in {root}",
                    place=Place(here),
                    help="mend the tree: a link leads back to itself",
                )
            link.watch(os.path.dirname(here))
            target = os.readlink(here)
            if target.startswith("/"):
                at.clear()
            steps += target.split("/")[::-1]
        else:
            at.append(step)
    return os.path.join(root, *at)
