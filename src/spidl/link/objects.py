"""What is kept of single objects from one link to the next, for whoever has a place to keep it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Protocol

from spidl.diagnostics import LinkError
from spidl.elf import ElfFile
from spidl.elf.opening import open_file
from spidl.elf.record import Record, describe, restore

TICK = 20_000_000
"""Nanoseconds: more than a tick of the kernel's clock, inside of which two writes of a file leave
the same times."""
_LASTING = ("spidl.",)
"""Packages whose code the keeper knows to be the same."""


class ObjectStore(Protocol):
    """A place for records (see `spidl.elf.record`), by the identity of their files.

    It must give a record only for the very file, and the very code, that it was made of.
    """

    def find(self, status: os.stat_result) -> Record | None:
        """The record of the file with this status."""

    def keep(self, status: os.stat_result, record: Record) -> None:
        """Keep a record; whatever is in the way of that is nobody's concern."""


class Objects:
    """The files of one link, opened through a store or without one."""

    def __init__(self, store: ObjectStore | None) -> None:
        self._store = store
        self._opened: dict[int, int] = {}
        """By id of the file: how many derivations its record has, -1 without one."""

    def open(self, path: str, by: str | None = None) -> ElfFile:
        """As `ElfFile.open`, and with the same errors; ``by`` tells them who needs the file."""
        try:
            return ElfFile.open(path) if self._store is None else self._open(path, self._store)
        except LinkError as error:
            raise (error if by is None else error.with_note(f"needed by {by}")) from None

    def _open(self, path: str, store: ObjectStore) -> ElfFile:
        data, status = open_file(path)
        began = time.time_ns()
        file = None
        record = store.find(status)
        if record is not None:
            try:
                file = restore(data, path, status, record)
            except (LookupError, TypeError, ValueError):
                file = None
        if file is not None:
            self._opened[id(file)] = len(file.derivations)
            return file
        file = ElfFile.parse(data, path, status)
        if began - status.st_ctime_ns > TICK:
            self._opened[id(file)] = -1
        return file

    def keep(self, files: Iterable[ElfFile]) -> None:
        """Keep what the link has found out about its objects since they were opened."""
        if self._store is None:
            return
        for file in files:
            known = self._opened.get(id(file))
            if known is None or file.stat is None or known >= len(file.derivations):
                continue
            record = describe(file, _LASTING)
            if record is not None:
                self._opened[id(file)] = len(file.derivations)
                self._store.keep(file.stat, record)
