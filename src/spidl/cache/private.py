"""What nobody else could have written: the rule for everything that Spidl keeps and later runs."""

from __future__ import annotations

import errno
import os
import stat

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LINKS = 40
"""As many symbolic links as the kernel follows in one path."""


def is_private(folder: str) -> bool:
    """Whether a folder is this user's and nobody else may write to it; OSError if there is none."""
    status = os.stat(folder)
    return stat.S_ISDIR(status.st_mode) and is_ours(status)


def reached_by_others(path: str) -> str | None:
    """The first folder on the way to a path, there or not, in which another user could put
    something else in the next one's place.

    The machine's owner is trusted, and so are the user's own groups.  OSError for a path that
    leads nowhere.
    """
    trusted = {0, os.geteuid(), os.stat("/").st_uid}
    left = os.path.abspath(path).split("/")[:0:-1]
    folder, links = "/", 0
    while left:
        status = os.stat(folder)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
        open_to_all = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in trusted or open_to_all:
            return folder
        name = left.pop()
        here = os.path.dirname(folder) if name == ".." else os.path.join(folder, name)
        if not os.path.lexists(here):
            return None  # what is to be made there is the user's own
        if os.path.islink(here):
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(here)
            folder = "/" if target.startswith("/") else folder
            left += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        else:
            folder = here
    return None


def is_ours(status: os.stat_result) -> bool:
    """Whether a file belongs to this user, and nobody else may write to it."""
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE
