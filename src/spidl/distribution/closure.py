"""Which files a program is linked with, from the store alone.

As ld.so finds them (ld.so(8); glibc elf/dl-load.c, _dl_map_object): DT_RUNPATH, then the default
folders.  What a machine's ld.so.conf adds is not in the packages, so what is found nowhere is taken
from wherever a file has that soname: from the same package first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spidl.distribution.files import merged
from spidl.distribution.store import File

_DEFAULT = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
_TOKENS = {"LIB": "lib/x86_64-linux-gnu", "PLATFORM": "x86_64"}


@dataclass(frozen=True, slots=True)
class Scope:
    """The files that symbols are looked up in, the program first, breadth first."""

    members: tuple[File, ...]
    missing: tuple[str, ...]
    """Names that some member needs, and no file of the store has."""


class Universe:
    """All files of a store by the names that others need them by."""

    def __init__(self, files: list[File], needed: Callable[[str], tuple[str, ...]]) -> None:
        """``needed`` gives a build-id's DT_NEEDED."""
        self.files = files
        self._needed = needed
        self._at: dict[str, File] = {}
        """By path, and by the folder and the soname: a link of that name is seldom a file."""
        self._named: dict[str, list[File]] = {}
        for file in files:
            folder, base = os.path.split(merged(file.path))
            for name in {base, file.soname or base, *file.links}:
                self._at.setdefault(f"{folder}/{name}", file)
                self._named.setdefault(name, []).append(file)

    def scope(self, file: File) -> Scope:
        """The global scope of a program, or of a library as if it were one."""
        members = {file.path: file}
        names = set(_names(file))
        missing: dict[str, None] = {}
        waiting = [file]
        for member in waiting:  # it grows
            for name in self._needed(member.build_id):
                if name in names or name in missing:
                    continue
                found = self.find(name, member, file)
                if found is None:
                    missing[name] = None
                    continue
                names |= {name, *_names(found)}
                if found.path not in members:
                    members[found.path] = found
                    waiting.append(found)
        return Scope(tuple(waiting), tuple(missing))

    def find(self, name: str, by: File, root: File) -> File | None:
        """The file that a name in DT_NEEDED of ``by`` leads to."""
        if "/" in name:
            return self._at.get(merged(os.path.normpath(name)))
        for folder in (*_folders(by), *_DEFAULT, *_folders(root)):
            found = self._at.get(f"{folder}/{name}")
            if found is not None:
                return found
        named = self._named.get(name, ())
        return min(
            named, key=lambda f: (f.package != by.package, len(f.path), f.path), default=None
        )


def _names(file: File) -> tuple[str, str]:
    return file.soname, os.path.basename(file.path)


def _folders(file: File) -> Iterator[str]:
    """DT_RUNPATH with its tokens expanded."""
    for folder in file.runpath:
        for token, value in (("ORIGIN", os.path.dirname(file.path)), *_TOKENS.items()):
            folder = folder.replace(f"${{{token}}}", value).replace(f"${token}", value)
        yield merged(f"{os.path.normpath(folder)}/").rstrip("/")
