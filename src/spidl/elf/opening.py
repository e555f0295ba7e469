"""Opening a file to parse it: what may go wrong has its own codes."""

from __future__ import annotations

import mmap
import os
import stat
import sys

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.elf.tables import Bytes


def open_file(path: str) -> tuple[Bytes, os.stat_result]:
    """A regular file mapped read-only, and its status from the same open file.

    A file that is truncated while it is mapped kills its reader (SIGBUS), as with every linker.
    Raises LinkError ``parse/not-found``, ``no-permission``, ``not-a-file`` and ``cannot-read``.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _error("not-found", "no such file", path) from error
    except PermissionError as error:
        raise _error("no-permission", "no permission to read it", path) from error
    except OSError as error:
        # Sockets and device nodes without a driver fail to open.
        what = "cannot-read" if _is_file(path) else "not-a-file"
        raise _error(what, f"cannot be opened: {error.strerror}", path) from error
    except ValueError as error:
        raise _error("not-found", "not a file name", repr(path)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _error("not-a-file", f"{_KINDS.get(stat.S_IFMT(status.st_mode))}", path)
        if status.st_size == 0:
            return np.frombuffer(b"", dtype=np.uint8), status
        if sys.version_info >= (3, 13):
            mapping = mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ, trackfd=False)
        else:
            mapping = mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ)
        return np.frombuffer(mapping, dtype=np.uint8), status
    except (OSError, ValueError, OverflowError) as error:
        raise _error("cannot-read", f"cannot be mapped: {error}", path) from error
    finally:
        os.close(fd)


_KINDS = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a FIFO, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
    stat.S_IFSOCK: "a socket, not a file",
}


_ADVICE = {
    "not-found": "check the path",
    "no-permission": "chmod +r it, or be a user who may read it",
    "not-a-file": "give the path of a program or shared library",
    "cannot-read": "see whether `cat` can read the file",
}


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _error(what: str, message: str, path: str) -> LinkError:
    return LinkError(f"parse/{what}", message, place=Place(path), help=_ADVICE[what])
