"""Where glibc's linker looks for libraries (elf/dl-load.c, _dl_map_object).

In order: DT_RPATH of the asking object and of those that loaded it, LD_LIBRARY_PATH, DT_RUNPATH of
the asking object, ld.so.cache, the linker's own folders; in each folder first the glibc-hwcaps
subfolders that this CPU may use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache

from spidl.api import DF_1, Dso, Fact, Link, Need, Place, Refusal
from spidl.modules.gnu.hwcaps import supported_levels
from spidl.modules.gnu.ldcache import parse_cache
from spidl.modules.gnu.runtime import SONAME, interpreter
from spidl.modules.gnu.tree import find_in_tree

_OBSERVERS = ("LD_AUDIT", "LD_DEBUG", "LD_PROFILE", "LD_TRACE_LOADED_OBJECTS", "LD_VERBOSE")
CACHE_PATH = "/etc/ld.so.cache"
CACHE: Fact[dict[str, str]] = Fact("ld.so.cache")
"""What the cache says, by soname; a target that links often may tell it beforehand."""


def find(raw: str, dso: Dso, link: Link) -> Need:
    """One name as ``dso`` asks for it; the path is None where nothing is found."""
    if dso.namespace.root:
        return find_in_tree(raw, dso.namespace.root, dso, link)
    interp = interpreter(link)
    name = _expand(raw, dso, link) if "$" in raw else raw
    if name == SONAME and interp is not None:
        return Need(name, interp, found="the program's PT_INTERP")
    if link.known(name) is not None:
        return Need(name)
    if "/" in name:
        whole = os.path.join(link.environment.folder, name)
        return Need(name, whole if link.exists(whole) else None, found=f"the path {whole}")
    tried: list[str] = []
    for why, folders in _places(dso, link):
        path = _in_folders(name, folders, link)
        if path is not None:
            return Need(name, path, found=why)
        tried.append(why)
        if why == CACHE_PATH and (cached := _cached(name, dso, link)) is not None:
            return Need(name, cached, found=CACHE_PATH)
    return Need(name, found=f"searched: {', '.join(tried)}")


def _places(dso: Dso, link: Link) -> Iterator[tuple[str, list[str]]]:
    """(why, folders) in order of search; ld.so.cache appears as a place without folders."""
    if dso.file.runpath is None:
        asker: Dso | None = dso
        seen_root = False
        while asker is not None:
            if asker.file.rpath and asker.file.runpath is None:
                yield f"RPATH of {asker.name}", _folders(asker.file.rpath, asker, link)
            seen_root |= asker.is_root
            asker = asker.loader
        root = link.root
        if not seen_root and root.file.rpath and root.file.runpath is None:
            yield f"RPATH of {root.name}", _folders(root.file.rpath, root, link)
    library_path = link.environment.variables.get("LD_LIBRARY_PATH", "")
    if library_path:
        yield "LD_LIBRARY_PATH", _folders(library_path.replace(";", ":"), link.root, link)
    if dso.file.runpath:
        yield f"RUNPATH of {dso.name}", _folders(dso.file.runpath, dso, link)
    yield CACHE_PATH, []
    if not dso.file.flags_1 & DF_1.NODEFLIB:
        assert link.root.file.interp is not None
        yield "the linker's own folders", list(system_folders(link.root.file.interp))


def _folders(paths: str, dso: Dso, link: Link) -> list[str]:
    """A path list, its $ORIGIN and $LIB expanded; empty entries are the working folder."""
    folders = []
    for entry in paths.split(":"):
        expanded = _expand(entry, dso, link) if "$" in entry else entry
        if not expanded.startswith("/"):
            expanded = os.path.join(link.environment.folder, expanded)
        if expanded not in folders:
            folders.append(expanded.rstrip("/") or "/")
    return folders


def _expand(text: str, dso: Dso, link: Link) -> str:
    """Dynamic string tokens (ld.so(8)); $ORIGIN of the program is where its file really is."""

    def value(match: re.Match[str]) -> str:
        token = match[1] or match[2]
        if token == "ORIGIN":
            if not dso.is_root:
                return os.path.dirname(dso.path)
            real = os.path.realpath(dso.path)
            if real != dso.path:
                # The same file may have another name elsewhere, and a link lead there tomorrow.
                link.watch(os.path.dirname(dso.path))
            return os.path.dirname(real)
        if token == "LIB" and link.root.file.interp is not None:
            return next(iter(system_folders(link.root.file.interp)), "/lib").strip("/")
        raise Refusal(
            "collect/token",
            f"{dso.name} uses the string token ${token} in a library path",
            place=Place(dso.path, "PT_DYNAMIC"),
            help="its value depends on the build of ld.so: use $ORIGIN or $LIB",
        )

    return re.sub(r"\$(?:(ORIGIN|LIB|PLATFORM)\b|\{(ORIGIN|LIB|PLATFORM)\})", value, text)


def _in_folders(name: str, folders: list[str], link: Link) -> str | None:
    for folder in folders:
        if not link.exists(folder):
            continue
        for level in supported_levels():
            if link.exists(f"{folder}/glibc-hwcaps/{level}"):
                path = f"{folder}/glibc-hwcaps/{level}/{name}"
                if link.exists(path) and _fits(path, link):
                    return path
        assert link.root.file.interp is not None
        for legacy in legacy_subfolders(link.root.file.interp):
            if link.exists(f"{folder}/{legacy}"):
                path = f"{folder}/{legacy}/{name}"
                if link.exists(path) and _fits(path, link):
                    return path
        path = f"{folder}/{name}"
        if link.exists(path) and _fits(path, link):
            return path
    return None


def _fits(path: str, link: Link) -> bool:
    """Whether ld.so would take this file: one of another class or machine is passed over.

    It may be replaced by one that fits: what is passed over becomes an input of the link.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            head = os.read(descriptor, 20)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    if head.startswith(b"\x7fELF") and (head[4:5] != b"\x02" or head[18:20] != b"\x3e\0"):
        link.read_input(path)
        return False
    return True


def _cached(name: str, dso: Dso, link: Link) -> str | None:
    if CACHE not in link.facts:
        data = link.read_input(CACHE_PATH)
        link.facts[CACHE] = {} if data is None else parse_cache(data, supported_levels())
    path = link.facts[CACHE].get(name)
    if path is None or not link.exists(path) or not _fits(path, link):
        return None
    if dso.file.flags_1 & DF_1.NODEFLIB:
        assert link.root.file.interp is not None
        if os.path.dirname(path) in system_folders(link.root.file.interp):
            return None
    return path


@cache
def system_folders(interpreter: str) -> tuple[str, ...]:
    """The folders compiled into this ld.so: NUL-separated absolute paths that end in a slash."""
    try:
        with open(interpreter, "rb") as file:
            data = file.read()
    except OSError:
        return ()
    runs = re.findall(rb"(?:/[\x21-\x7e]*lib[\x21-\x7e]*/\0){2,}", data)
    longest = max(runs, key=len, default=b"/lib/\0/usr/lib/\0")
    return tuple(p.decode().rstrip("/") for p in longest.split(b"\0") if p)


@cache
def legacy_subfolders(interpreter: str) -> tuple[str, ...]:
    """The subfolders of glibc before 2.37 that this CPU uses; none if this build forgot them.

    Only the plain ones: nested combinations exist nowhere but in ld.so's search order.
    """
    try:
        with open(interpreter, "rb") as file:
            data = file.read()
    except OSError:
        return ()
    return ("tls",) if b"\0avx512_1\0" in data else ()


def refuse_special(link: Link) -> None:
    """Links that are left to ld.so itself: auditing, filters."""
    for dso in link.objects:
        _refuse_auditing(dso, link)


def _refuse_auditing(dso: Dso, link: Link) -> None:
    observers = [name for name in _OBSERVERS if link.environment.variables.get(name)]
    if dso.is_root and observers:
        raise Refusal(
            "collect/observed",
            f"{observers[0]} is set",
            place=Place(dso.path),
            help="they ask ld.so to report on its own work, which an image does not do",
        )
    for tag, name in ((0x6FFFFEFC, "DT_AUDIT"), (0x6FFFFEFB, "DT_DEPAUDIT"),
                      (0x7FFFFFFF, "DT_FILTER"), (0x7FFFFFFD, "DT_AUXILIARY")):  # fmt: skip
        if dso.file.tag(tag) is not None:
            raise Refusal(
                "collect/special-object",
                f"{dso.name} has {name}",
                place=Place(dso.path, "PT_DYNAMIC"),
                help="auditors and filter libraries are left to ld.so",
            )
