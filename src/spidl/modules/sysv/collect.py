"""Collect: DT_NEEDED, found as the gABI says (chapter 5, Shared Object Dependencies)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from spidl.api import Dso, Link, MemoryObject, Need

DEFAULT_FOLDERS = ("/lib", "/usr/lib")


def collect(dso: Dso, link: Link) -> Iterator[Need | MemoryObject]:
    """The objects that ``dso`` names as needed, in order."""
    for name in dso.file.needed:
        yield link.find(name, dso, "DT_NEEDED")


def find(name: str, dso: Dso, link: Link) -> Need:
    """A name with a slash is a path; else DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH, the defaults."""
    if "/" in name:
        path = os.path.join(link.environment.folder, name)
        return Need(name, path if link.exists(path) else None, found=f"the path {path}")
    folders = [
        *("" if dso.file.runpath else dso.file.rpath or "").split(":"),
        *link.environment.paths("LD_LIBRARY_PATH", ":;"),
        *(dso.file.runpath or "").split(":"),
        *DEFAULT_FOLDERS,
    ]
    for folder in filter(None, folders):
        path = os.path.join(folder, name)
        if link.exists(path):
            return Need(name, path, found=folder)
    return Need(name, found=f"searched: {', '.join(filter(None, folders))}")
