"""Files that match a pattern: each folder is read once, however many patterns ask for it.

A link asks for dozens of patterns in the system's library folder, which has thousands of names.
"""

from __future__ import annotations

import fnmatch
import os
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress

_MAGIC = re.compile(r"[*?[]")
_LAST = "\U0010ffff"


class Listing:
    """Names in folders, as they were when first asked for.

    Patterns are those of `glob.glob` with ``recursive=True``: a wildcard matches no name that
    begins with a dot, and ``**`` any number of folders.
    """

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._folders: dict[str, list[str]] = {}
        self._real: dict[str, str] = {}

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, ascending."""
        found = ["/" if pattern[:1] == "/" else ""]
        part = ""
        for part in filter(None, pattern.split("/")):
            if part == "**":
                found = [below for folder in found for below in self._below(folder)]
            elif _MAGIC.search(part):
                found = [os.path.join(folder, name) for folder in found
                         for name in self._matching(folder, part)]  # fmt: skip
            else:
                found = [os.path.join(folder, part) for folder in found]
        if not _MAGIC.search(part):  # else it was read from a folder
            found = [path for path in found if os.path.lexists(path)]
        return sorted(found)

    def below(self, folder: str, pattern: str) -> list[str]:
        """Paths below a folder, however deep, whose last name matches; ascending."""
        return sorted(
            os.path.join(inner, name)
            for inner in self._below(folder)
            for name in self._matching(inner, pattern)
        )

    def realpath(self, path: str) -> str:
        """`os.path.realpath`; what a folder's is, is asked once."""
        folder, name = os.path.split(path)
        if not name or name in (".", "..") or os.path.islink(path):
            return os.path.realpath(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return os.path.join(self._real[folder], name)

    def _matching(self, folder: str, pattern: str) -> list[str]:
        names = self._in(folder)
        start = _MAGIC.search(pattern)
        prefix = pattern[: start.start()] if start else pattern
        names = names[bisect_left(names, prefix) : bisect_left(names, prefix + _LAST)]
        hidden = pattern[:1] == "."
        return [name for name in fnmatch.filter(names, pattern) if hidden or name[:1] != "."]

    def _below(self, folder: str) -> Iterator[str]:
        """The folder, and those in it."""
        yield folder
        self._in(folder)
        for name in self._folders[folder]:
            if name[:1] != ".":
                yield from self._below(os.path.join(folder, name))

    def _in(self, folder: str) -> list[str]:
        """Names in a folder, ascending; none where it cannot be read."""
        found = self._names.get(folder)
        if found is None:
            found = self._names[folder] = []
            folders = self._folders[folder] = []
            with suppress(OSError), os.scandir(folder or ".") as entries:
                for entry in entries:
                    found.append(entry.name)
                    if entry.is_dir():
                        folders.append(entry.name)
            found.sort()
        return found
