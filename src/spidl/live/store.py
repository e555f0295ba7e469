"""What was found out about single objects, for all loads of this process and for later ones."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from functools import cache

from spidl.cache.objects import Objects as Disk
from spidl.cache.records import Records
from spidl.cache.store import cache_folder
from spidl.diagnostics import LinkError
from spidl.elf import ElfFile
from spidl.link.objects import Objects

_Identity = tuple[int, ...]


class Loads(Records):
    """Loads that were kept: what they hold depends on the code here, too."""

    makers = (*Disk.makers, "live")


class OpenFiles(Objects):
    """The files of all loads: one that is unchanged is parsed once as long as somebody has it.

    What was found out about the others comes from the user's cache folder, where there is one.
    """

    def __init__(self) -> None:
        self.loads: Loads | None = None
        """Those of the user's cache folder, None where there is no home."""
        disk = None
        with suppress(LinkError):
            folder = cache_folder()
            disk, self.loads = Disk(folder), Loads(folder)
        super().__init__(disk)
        self._files: weakref.WeakValueDictionary[_Identity, ElfFile] = weakref.WeakValueDictionary()
        self._lasting: dict[_Identity, ElfFile] = {}

    def open(self, path: str, by: str | None = None) -> ElfFile:
        """As `spidl.link.objects.Objects.open`."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return super().open(path, by)
        file = self._files.get(_identity(status))
        if file is None:
            file = super().open(path, by)
            if file.stat is not None:
                self._files[_identity(file.stat)] = file
        return file

    def hold(self, file: ElfFile) -> None:
        """Keep a file of the process itself, which every load looks at."""
        if file.stat is not None:
            self._lasting[_identity(file.stat)] = file


def _identity(status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@cache
def open_files() -> OpenFiles:
    """The process's own."""
    return OpenFiles()
