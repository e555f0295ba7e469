"""The lock file: a byte for each entry, which the kernel frees however its holder ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from spidl.diagnostics import LinkError, Place

_PATIENCE = 30
"""Seconds to wait for another process's link."""
_PAUSE = 0.02


def open_lock(path: str) -> int:
    """A descriptor of the lock file.  Raises OSError.

    The file's time is that of the last link that could not be kept (launcher/start.c), so a new
    one is old.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        file = os.open(path, flags | os.O_CREAT, 0o600)
        os.utime(file, (0, 0))
        return file


def wait_for(file: int, offset: int, place: str) -> None:
    """Lock a byte.  A stopped process holds its locks: nobody waits for ever.

    Raises `LinkError` ``cache/busy``.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            return
        except OSError as error:
            # A file system without locks: two may link at once, and the later one stays.
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return
        if time.monotonic() > deadline:
            raise LinkError(
                "cache/busy",
                "another process has been linking this for long, or was stopped",
                place=Place(place),
                help="`fuser` on the file `lock` in the cache folder shows which one; end it",
            )
        time.sleep(_PAUSE)
