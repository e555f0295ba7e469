"""The identity of a file: if it is unchanged, so is the content."""

from __future__ import annotations

import os

Identity = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""


def identity(path: str) -> Identity | None:
    """The identity of a file now; None when there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
