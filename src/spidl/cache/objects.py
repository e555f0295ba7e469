"""Records of single objects (see `spidl.elf.record`), one file an object.

All programs share them.  They are named by device and inode; what makes one valid is the whole
identity of the object's file, and of Spidl's own code.
"""

from __future__ import annotations

import os
import struct

from spidl.cache.records import Record, Records

_IDENTITY = struct.Struct("=5q")
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""


class Objects(Records):
    """An `ObjectStore`."""

    makers = ("analyse", "elf", "link", "modules")

    def find(self, status: os.stat_result) -> Record | None:
        """The record of the file with this status, None where there is none that is valid."""
        return self.read(_name(status), _identity(status))

    def keep(self, status: os.stat_result, record: Record) -> None:
        """Write a record whole, or not at all where that cannot be."""
        self.write(_name(status), _identity(status), record)


def _name(status: os.stat_result) -> str:
    return f"{status.st_dev:x}-{status.st_ino:x}"


def _identity(status: os.stat_result) -> bytes:
    return _IDENTITY.pack(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
